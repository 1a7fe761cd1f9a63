"""`crosslayer trace`, and [workload] as the requests that a simulator serves."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from test_traces_reading import AZURE, AZURE_2023, MOONCAKE, OWN, SESSIONS, write

import crosslayer as cl
from crosslayer.cli import main
from crosslayer.discovery import discover
from crosslayer.pipeline import check_file
from crosslayer.traces import read_trace

PIPELINE = """\
[model]
use = "llama-3.1-8b"
[accelerator]
use = "roofline:a100-80g"
[[simulate]]
use = "isolated"
[workload]
"""


STAGES = OWN + (
    '{"request":{"id":"a","arrival_ns":0,"nodes":[{"id":"s","kind":"tool","seconds":1.0}]}}\n'
)


def cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_info_prints_a_table_json_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, MOONCAKE)
    code, out, _ = cli(capsys, "trace", "info", path)
    assert code == 0 and "requests      2\n" in out
    # Of 5 blocks one, 46, was there before.
    assert "prefix reuse  20.0% of 5 blocks of 512 tokens" in out
    figure = tmp_path / "figure.svg"
    path = write(tmp_path, SESSIONS)
    code, out, _ = cli(capsys, "trace", "info", path, "--json", "--figure", figure)
    data = json.loads(out)
    assert (data["format"], data["sessions"], data["requests_per_session"]) == ("burstgpt", 1, 2.0)
    assert data["rate_per_s"] == 2 / 82
    drawn = ElementTree.parse(figure).getroot()
    parts = list(drawn)
    path = write(tmp_path, STAGES)
    assert cli(capsys, "trace", "info", path, "--figure", figure)[0] == 0
    assert len(list(ElementTree.parse(figure).getroot())) == 1  # no lengths without a model call
    assert len(parts) == 2 and float(parts[1].get("y", "0")) == float(parts[0].get("height", "-1"))


def test_convert_writes_another_format_and_says_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write(tmp_path, SESSIONS), tmp_path / "out.csv.gz"
    code, out, err = cli(capsys, "trace", "convert", source, target)
    assert (code, out) == (0, f"{target}: 3 requests (azure-llm)\n")
    assert err == "left out, azure-llm has no place for it: session, slo_class, model\n"
    assert read_trace(target).prompt_tokens.tolist() == [906, 36, 50]
    own = tmp_path / "out.jsonl"
    assert cli(capsys, "trace", "convert", source, own)[::2] == (0, "")
    assert list(read_trace(own)) == list(read_trace(source))


def test_a_bad_trace_ends_with_its_place_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, AZURE + "2023-11-16 18:15:47,1,1\n2023-11-16 18:15:46,1,1\n")
    code, out, err = cli(capsys, "trace", "info", path)
    assert (code, out) == (2, "") and f"{path}:3:1: TIMESTAMP is before that of line 2" in err
    code, out, _ = cli(capsys, "trace", "info", path, "--sort")
    assert code == 0 and "span          1.0 s" in out


def problems(tmp_path: Path, workload: str) -> list[tuple[str, str]]:
    path = write(tmp_path, PIPELINE + workload, "p.toml")
    return [(one.key, one.message) for one in check_file(path, discover(only=()))[1]]


@pytest.mark.parametrize(
    ("workload", "key", "said"),
    [
        ('arrivals = "poison"', "workload.arrivals", "'poisson'"),
        ('arrivals = "gamma"\nrequests = 3\nrate_per_s = 1', "workload", "needs 'cv'"),
        ("rate_per_s = 1", "workload", "'rate_per_s' belong to requests; add arrivals"),
        (
            'arrivals = "poisson"\nrequests = 3\nrate_per_s = 1\nusers = 2',
            "workload",
            "no use for 'users'",
        ),
        ('trace = "t"\nprompt_tokens = 3', "workload", "leave out 'prompt_tokens'"),
        ('trace = "none.csv"', "workload.trace", "there is no file 'none.csv'"),
        ('trace = "t"\nrequests = 9', "workload.requests", "9 requests are more than the 3 of t"),
        ('trace = "bad.csv"', "workload.trace", "bad.csv:2:21: ContextTokens is -1"),
        ('trace = "long.csv"', "workload.trace", "call of 2000000 output tokens; 1048576 are the"),
        (
            'trace = "wide.csv"\nbatch_size = 1000',
            "workload.trace",
            "batch_size x the longest output is 1000000000, and a run holds 16777216 decodes",
        ),
        ('trace = "t"\nformat = "azur-llm"', "workload.format", "did you mean 'azure-llm'"),
    ],
)
def test_a_workload_that_cannot_be_is_refused_where_it_stands(
    tmp_path: Path, workload: str, key: str, said: str
) -> None:
    write(tmp_path, AZURE_2023, "t")
    write(tmp_path, AZURE + "2023-11-16 18:15:47,-1,1\n", "bad.csv")
    write(tmp_path, AZURE + "2023-11-16 18:15:47,1,2000000\n", "long.csv")
    write(tmp_path, AZURE + "2023-11-16 18:15:47,1,1000000\n", "wide.csv")
    found = problems(tmp_path, workload)
    assert [one[0] for one in found] == [key] and said in found[0][1]


def test_a_trace_of_more_requests_than_a_run_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslayer.pipeline.check.MOST_REQUESTS", 1)
    write(tmp_path, AZURE_2023, "t")
    ((key, said),) = problems(tmp_path, 'trace = "t"')
    assert key == "workload.trace" and "requests, and a run serves 1 at most" in said
    assert problems(tmp_path, 'trace = "t"\nrequests = 1') == []


def served(run: cl.Run) -> list[list[str]]:
    """Rows of the file that the simulator wrote: request, arrival (s), first token, latency, ..."""
    (file,) = run.directory.glob("files/*isolated*/requests.csv")
    return [line.split(",") for line in file.read_text().splitlines()[1:]]


def go(tmp_path: Path, workload: str) -> cl.Run:
    path = write(tmp_path, PIPELINE + workload, "p.toml")
    return cl.run(path, registry=discover(only=()), runs_dir=tmp_path / "runs", threads=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))


def test_a_simulator_serves_the_requests_of_the_trace_file(tmp_path: Path) -> None:
    write(tmp_path, AZURE_2023, "t.csv")
    run = go(tmp_path, 'trace = "t.csv"\nrequests = 2\n')
    rows = served(run)
    assert [row[0] for row in rows] == ["0", "1"]
    assert [float(row[1]) for row in rows] == [0.0, 4.314579]
    # Latencies are modelled for the median lengths of the file: 396 and 44 tokens.
    assert any("396 prompt + 44 output" in note for note in run.report.notes)
    lock = run.directory / "pipeline.lock.toml"
    again = cl.run(lock, registry=discover(only=()), runs_dir=tmp_path / "again", threads=1)
    assert served(again) == rows
    # The file counts with its content: another one is no cached step.
    write(tmp_path, AZURE_2023.replace(",374,", ",375,"), "t.csv")
    changed = served(go(tmp_path, 'trace = "t.csv"\nrequests = 2\n'))
    assert changed != rows


def test_arrivals_of_a_pipeline_are_seeded_and_have_their_lengths(tmp_path: Path) -> None:
    workload = 'arrivals = "poisson"\nrate_per_s = 2.0\nrequests = 30\nprompt_tokens = 64\n'
    rows = served(go(tmp_path, workload))
    assert len(rows) == 30
    arrivals = [float(row[1]) for row in rows]
    assert 30 / arrivals[-1] == pytest.approx(2.0, rel=5 / 30**0.5)
    assert all(row[5] == "64" for row in rows)


def test_users_of_a_closed_loop_wait_for_their_answers(tmp_path: Path) -> None:
    workload = 'arrivals = "closed"\nusers = 1\nthink_s = 0\nrequests = 4\noutput_tokens = 3\n'
    rows = served(go(tmp_path, workload))
    ends = [float(row[1]) + float(row[3]) for row in rows]
    assert np.allclose([float(row[1]) for row in rows], [0.0, *ends[:-1]], atol=2e-9)
