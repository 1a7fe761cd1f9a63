"""`hermes-sim sweep`: a grid in processes here, and the same on a Ray cluster of its own."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from crosslayer.cli import main

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # read on import: 127.0.0.1 is 127.0.0.1

PIPELINE = """
[model]
use = "llama-3.1-8b"
[accelerator]
use = "roofline:h100-80g"
[workload]
arrivals = "poisson"
requests = 30
rate_per_s = 40.0
prompt_tokens = 300
output_tokens = 20
[[simulate]]
use = "hermes"
"""
SETTINGS = ("--set", "max_calls=2,64", "--pareto", "ttft_p99_s,tpot_p99_s", "--json")


def swept(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Path:
    """The directory of a sweep; each executor has a cache of its own, so that it really works."""
    folder.mkdir()
    file = folder / "p.toml"
    file.write_text(PIPELINE)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setenv("CROSSLAYER_CACHE_DIR", str(folder / "cache"))
        main(["hermes", "sweep", str(file), *SETTINGS, "--runs-dir", str(folder), *arguments])
    assert ended.value.code == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 2
    return next(folder.glob("*.sweep"))


def test_a_grid_runs_here_and_on_ray_with_the_same_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = swept(tmp_path / "local", capsys)
    with (here / "table.csv").open() as stream:
        few, many = csv.DictReader(stream)
    assert few["simulate.hermes.max_calls"] == "2" and many["simulate.hermes.max_calls"] == "64"
    assert float(few["ttft_p99_s"]) > 2 * float(many["ttft_p99_s"])
    assert (here / "figures" / "pareto.svg").is_file()
    there = swept(tmp_path / "ray", capsys, "--executor", "ray")
    assert (here / "table.csv").read_bytes() == (there / "table.csv").read_bytes()
    points = sorted(point.name for point in (here / "points").iterdir())
    assert points == sorted(point.name for point in (there / "points").iterdir())
    for point in points:
        reports = [(one / "points" / point / "report.json").read_bytes() for one in (here, there)]
        assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--set", "max_call=2"], "max_calls"),
        (["--set", "max_calls"], "max_calls"),
        (["--set", "max_calls=2", "--executor", "rai"], "ray"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(tmp_path, capsys, arguments, named):
    file = tmp_path / "p.toml"
    file.write_text(PIPELINE)
    with pytest.raises(SystemExit) as ended:
        main(["hermes", "sweep", str(file), "--runs-dir", str(tmp_path), *arguments])
    assert ended.value.code == 2 and named in capsys.readouterr().err
