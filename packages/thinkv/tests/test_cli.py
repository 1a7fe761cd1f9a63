"""The command line on a small model in a folder: calibrate, run, trace, sim."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crosslayer.errors import ComponentError, InputError
from crosslayer.kinds import ModelArtifact
from thinkv.cli import app

TEXT = str(Path(__file__).with_name("conformance_text.txt"))


@pytest.fixture
def folder(tiny: ModelArtifact, tmp_path: Path) -> str:
    assert tiny.live is not None
    path = tmp_path / "model"
    tiny.live.module.bfloat16().save_pretrained(path)
    tiny.live.tokenizer.save_pretrained(path)
    return str(path)


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_calibrate_writes_the_fallback_and_fails_unless_it_is_accepted(
    folder: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.json"
    arguments = ["calibrate", folder, "-o", str(file), "--text", TEXT]
    arguments += ["--traces", "1", "--tokens", "300"]
    with pytest.raises(ComponentError, match="--fallback"):
        call(*arguments)
    assert json.loads(file.read_text())["status"] == "fallback"
    said = call(*arguments, "--fallback", "--generate", "20")
    assert "fallback" in said and "layer   0: modes" in said
    found = json.loads(
        call(
            "trace", folder, "--text", TEXT, "--tokens", "200", "--json", "--calibration", str(file)
        )
    )
    assert [one["type"] for one in found["segments"]] == ["reasoning", "reasoning"]
    with pytest.raises(InputError, match="--agreement"):
        call(*arguments, "--agreement", "2")
    with pytest.raises(InputError, match=r"c\.json: cannot be written"):
        call("calibrate", "no-model", "-o", str(file / "c.json"))  # said before any work
    with pytest.raises(InputError, match="fewer traces"):
        call("calibrate", folder, "-o", str(file), "--text", TEXT, "--traces", "50")


def test_run_generates_and_reports_what_the_cache_holds(folder: str) -> None:
    found = json.loads(
        call("run", folder, "The river", "--tokens", "150", "--budget", "64", "--json")
    )
    (one,) = found["sequences"]
    assert one["logical_tokens"] == 9 + found["tokens"] - 1
    assert sum(found["bytes"].values()) > 0
    assert "alive in each layer" in call("run", folder, "The river", "--tokens", "5")
    with pytest.raises(InputError, match=r"^--bits: bits 'R3E4T2'"):
        call("run", folder, "The river", "--bits", "R3E4T2")
    with pytest.raises(InputError, match=r"^--budget: 99999999 must be"):
        call("run", folder, "The river", "--budget", "99999999")


def test_sim_compares_the_store_with_gathering_and_the_full_cache() -> None:
    found = json.loads(call("sim", "--tokens", "4096", "--budget", "512", "--json"))
    assert found["moved_bytes"] == 0 < found["gathered_bytes"]
    assert found["batch"] > found["batch_full"]
    assert "slots_reused_in_place" in call("sim", "--tokens", "1024", "--seed", "1")


def test_bench_compares_methods_at_equal_bytes(folder: str) -> None:
    arguments = ["bench", folder, "--text", TEXT, "--tokens", "480", "--share", "0.4"]
    found = json.loads(call(*arguments, "--methods", "full,window,h2o,kivi4,thinkv", "--json"))
    rows = {row["method"]: row for row in found["methods"]}
    assert rows["full"]["alive_tokens"] == rows["kivi4"]["alive_tokens"] == 480
    for name in ("window", "h2o", "thinkv"):
        assert rows[name]["share_of_full"] <= 0.4
    assert rows["thinkv"]["alive_tokens"] > rows["window"]["alive_tokens"]
    assert rows["full"]["nll"] != rows["window"]["nll"]
    with pytest.raises(InputError, match="h2o"):
        call(*arguments, "--methods", "full,h20")
    with pytest.raises(InputError, match="allow more bytes"):
        call(*arguments[:-1], "0.01", "--methods", "h2o")
