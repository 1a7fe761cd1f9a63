"""Pipelines of the built-in components, the ones in pipelines/ among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import crosslayer as cl
from crosslayer.discovery import discover
from crosslayer.pipeline import check_file, check_pipeline
from crosslayer.registry import Registry

PIPELINES = Path(__file__).parents[2] / "pipelines"
LLAMA = PIPELINES / "llama-8b-on-h100.toml"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    return discover(only=())


def test_the_spec_only_pipeline_needs_neither_weights_nor_torch_nor_matplotlib(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, crosslayer as cl; run = cl.run(sys.argv[1], runs_dir=sys.argv[2], threads=1);"
        "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CROSSLAYER_CACHE_DIR": str(tmp_path / "cache"),
        "CROSSLAYER_PLUGINS": "",
    }
    command = [sys.executable, "-c", code, str(LLAMA), str(tmp_path / "runs")]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    written = tmp_path / "runs" / "llama-8b-on-h100"
    metrics = {m["name"]: m for m in json.loads((written / "report.json").read_text())["metrics"]}
    # 8.03e9 parameters of two bytes, read once a decode step at 3.35 TB/s at the very least
    assert metrics["weight_bytes"]["value"] == pytest.approx(2 * 8.03e9, rel=1e-3)
    assert metrics["decode_latency_per_token_s"]["value"] > 2 * 7.5e9 / 3.35e12
    assert {metric["provenance"] for metric in metrics.values()} == {"modelled"}
    assert tomllib.loads((written / "pipeline.lock.toml").read_text())["lock"]["versions"]


def test_a_check_of_a_real_model_opens_and_downloads_nothing(
    registry: Registry, tmp_path: Path
) -> None:
    pipeline = cl.Pipeline(
        model={"use": "smollm2-135m"},
        accelerator="roofline:a100-80g",
        evaluate={"perplexity": {"tokens": 512}},
    )
    problems = check_pipeline(pipeline, registry)
    assert [problem.exit_code for problem in problems] in ([], [3])  # 3: torch is not installed
    assert not (tmp_path / "cache").exists()


def test_the_quickstart_without_its_plugin_says_which_package_is_missing(
    registry: Registry,
) -> None:
    _, problems = check_file(PIPELINES / "quickstart.toml", registry)
    missing = [problem for problem in problems if "flow" in problem.message]
    assert len(missing) == 1
    assert missing[0].line == 12
    assert "flow-flexcim" in missing[0].message
    assert missing[0].exit_code == 2


def test_perplexity_of_shapes_alone_is_refused(registry: Registry) -> None:
    for model in ("llama-3.1-8b", {"use": "smollm2-135m", "live": False}):
        problems = check_pipeline(cl.Pipeline(model=model, evaluate={"perplexity": {}}), registry)
        assert len(problems) == 1
        assert "needs a live model" in problems[0].message


def test_the_nearest_preset_of_an_accelerator_is_named(registry: Registry) -> None:
    pipeline = cl.Pipeline(model="llama-3.1-8b", accelerator="roofline:a100-80gb")
    (problem,) = check_pipeline(pipeline, registry)
    assert "did you mean 'a100-80g'?" in problem.message


def test_a_local_directory_is_read_from_the_folder_of_the_file(
    registry: Registry, tmp_path: Path
) -> None:
    from crosslayer.models.presets import preset_config

    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(preset_config("smollm2-135m")))
    path = tmp_path / "p.toml"
    path.write_text(
        '[model]\nuse = "./my model"\nlive = false\n[accelerator]\nuse = "roofline:h100-80g"\n'
    )
    done = cl.run(path, registry=registry, runs_dir=tmp_path / "runs", threads=1)
    lock = done.directory / "pipeline.lock.toml"
    assert tomllib.loads(lock.read_text())["model"]["path"] == "../../my model"
    again = cl.run(lock, registry=registry, runs_dir=tmp_path / "runs", threads=1)
    assert again.report == done.report

    path.write_text('[model]\nuse = "./their model"\nlive = false\n')
    _, (problem,) = check_file(path, registry)
    assert "there is no model folder './their model'" in problem.message
    assert problem.line == 2


def test_tensor_parallel_devices_are_linked_by_the_accelerators_port(
    registry: Registry, tmp_path: Path
) -> None:
    def latency(ways: int) -> float:
        pipeline = cl.Pipeline(
            name=f"tp{ways}",
            model="llama-3.1-70b",
            accelerator="roofline:h100-80g",
            instance={"tensor_parallel": ways},
        )
        done = cl.run(pipeline, registry=registry, runs_dir=tmp_path / "runs", threads=1)
        return done.metrics.value("decode_latency_per_token_s")

    assert latency(8) < latency(4) < latency(2)
