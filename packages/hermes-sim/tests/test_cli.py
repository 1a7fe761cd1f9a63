"""Bad input on the command line: exit code 2 and one sentence that names it."""

from __future__ import annotations

import json

import pytest
from test_profiles import CONFIG, ENGINE, recorded
from test_readers import call
from test_step_models import bundle  # noqa: F401 (a fixture)

PIPELINE = """
[model]
use = "llama-3.1-8b"
[accelerator]
use = "roofline:h100-80g"
[workload]
arrivals = "poisson"
requests = 4
rate_per_s = 5.0
prompt_tokens = 100
output_tokens = 10
[[simulate]]
use = "hermes"
"""


@pytest.fixture
def place(tmp_path, bundle):  # noqa: F811
    """A folder with something wrong of each kind, and a good profile (the folder itself)."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(CONFIG))
    recorded(run, ENGINE, 1.0, lambda at: 1.0)
    (tmp_path / "good.toml").write_text(PIPELINE)
    (tmp_path / "plain.toml").write_text(PIPELINE.partition("[[simulate]]")[0])
    (tmp_path / "broken.toml").write_text("[[simulate]\n")
    (tmp_path / "three.csv").write_text(
        "prompts,prompt_tokens,pairs,decodes,context,seconds\n" + "1,2,3,4,5,0.1\n" * 3
    )
    (tmp_path / "steps.csv").write_text(
        (tmp_path / "three.csv").read_text() + "1,2,3,4,5,0.1\n" * 9
    )
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "trace.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "none.toml"], "none.toml"),
        (["run", "broken.toml"], "broken.toml"),
        (["explain", "plain.toml", "0"], "no [[simulate]]"),
        (["explain", "good.toml", "77"], "'77'"),
        (["explain", "none.toml", "0"], "none.toml"),
        (["validate", "--run", "nowhere", "--profile", "."], "nowhere"),
        (["validate", "--run", "run", "--profile", "nowhere"], "nowhere"),
        (["validate", "--run", "run", "--profile", ".", "--model", "gpt-9"], "config.json"),
        (["validate", "--run", "run", "--profile", ".", "--kv-blocks", "0"], "--kv-blocks"),
        (["validate", "--run", "run", "--profile", ".", "--link-gb-per-s", "nan"], "link"),
        (["validate", "--run", "run", "--profile", ".", "--link-us", "-1"], "--link-us"),
        (["validate", "--run", "run", "--profile", ".", "--network", "run"], "vidur"),
        (["validate", "--run", "run", "--profile", ".", "--figure", "x.bmp"], "x.bmp"),
        (["fit", "none.csv", "out.json"], "none.csv"),
        (["fit", "three.csv", "out.json"], "12 steps"),
        (["fit", "three.csv", "out.json", "--held-out", "1.5"], "--held-out"),
        (["fit", "bytes.csv", "out.json"], "bytes.csv"),
        (["fit", "steps.csv", "out.json", "--held-out", "0.99"], "leaves 0 to fit"),
        (["traces", "none.csv"], "none.csv"),
        (["traces", "run"], "run"),
        (["traces", "bytes.csv"], "bytes.csv"),
        (["traces", "trace.csv", "--format", "vidour"], "did you mean 'vidur'"),
        (["traces", "trace.csv", "--format", "splitwise"], "arrival_timestamp"),
        (["traces", "trace.csv", "--cache-blocks", "0"], "--cache-blocks"),
        (["traces", "trace.csv", "--out", "nowhere/x.jsonl"], "nowhere"),
        (["trace", "trace.csv"], "traces"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_ends_with_2_and_a_sentence(place, capsys, monkeypatch, arguments, named):
    monkeypatch.chdir(place)
    code, _, err = call(capsys, *arguments)
    assert code == 2 and named in err and "Traceback" not in err
    assert not (place / "out.json").exists()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("max_calls = 0", "max_calls"),
        ('scheduler = "vlm_v1"', "vllm_v1"),
        ("max_cals = 3", "max_calls"),
        ('profile = "nowhere"', "nowhere"),
        ('profile = "run"', "dense.csv"),
        ('before = ["search"]', "simulate.stages.search"),
        ("token_budget = 8", "decoding calls would starve"),
        ('before = ["s"]\n[simulate.stages.s]\nclient = "nobody"', "nobody"),
        ("[simulate.slo.default]\nttft_s = nan", "ttft_s"),
        ("until_s = -1.0", "until_s"),
        ("kv_memory = 0.01", "weights"),
    ],
)
def test_a_bad_parameter_in_a_pipeline_ends_with_2_and_a_sentence(
    place, capsys, monkeypatch, line, named
):
    monkeypatch.chdir(place)
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(place / "cache"))
    (place / "bad.toml").write_text(PIPELINE + line + "\n")
    code, _, err = call(capsys, "run", "bad.toml", "--runs-dir", place / "runs")
    assert code == 2 and named in err and "Traceback" not in err
