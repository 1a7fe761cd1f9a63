"""Runs of toy pipelines: which steps run and which come from the cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from toy_parts import CALLS, toy_registry
from toy_runs import FOLDER, PIPELINE, go, pipeline
from toy_runs import own_cache as own_cache  # a fixture

from crosslayer.runner import run

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_run_does_each_step_once_and_writes_its_directory(tmp_path: Path) -> None:
    done = go(pipeline(tmp_path), tmp_path)
    assert CALLS == ["prune", "open", "count", "mean"]
    assert done.directory == tmp_path / "runs" / FOLDER
    files = {
        str(path.relative_to(done.directory))
        for path in done.directory.rglob("*")
        if path.is_file()
    }
    assert files == {
        "pipeline.toml", "pipeline.lock.toml", "report.json", "report.html", "run.json",
        "figures/weights.svg",
        "files/transform-1-prune/weights.json", "files/simulate-count/count.txt",
    }  # fmt: skip
    assert done.metrics["zero_share"].value == 0.5
    assert done.metrics.value("mean_before") == pytest.approx(0.45)
    assert done.metrics.value("decode_latency_per_token_s") > 0
    assert len(done.table("layers").rows) == 8
    assert json.loads(done.file("prune/weights").read_text())[0] == 0.0
    assert (done.directory / "pipeline.toml").read_text() == PIPELINE
    assert os.listdir(tmp_path / "runs") == [FOLDER]


def test_a_name_full_of_markup_stays_text(tmp_path: Path) -> None:
    html = (go(pipeline(tmp_path), tmp_path).directory / "report.html").read_text()
    assert "Toy &lt;b&gt;run" in html
    assert "Toy <b>" not in html


def test_an_unknown_metric_names_the_nearest(tmp_path: Path) -> None:
    done = go(pipeline(tmp_path), tmp_path)
    with pytest.raises(KeyError, match="did you mean 'zero_share'"):
        done.metrics["zero_shard"]


def test_the_second_run_takes_its_steps_from_the_cache_and_opens_nothing(tmp_path: Path) -> None:
    path = pipeline(tmp_path)
    first = (go(path, tmp_path).directory / "report.json").read_bytes()
    done = go(path, tmp_path)
    assert CALLS == []
    assert {step.name: step.cached for step in done.steps} == {
        "model toy": False, "transform 1 prune": True, "estimate toy": True, "simulate count": True,
        "evaluate mean": True,
    }  # fmt: skip
    assert (done.directory / "report.json").read_bytes() == first
    assert done.file("prune/weights").is_file()


def test_another_accelerator_does_not_prune_or_evaluate_again(tmp_path: Path) -> None:
    first = go(pipeline(tmp_path), tmp_path)
    done = go(
        pipeline(
            tmp_path,
            PIPELINE.replace("machine:small", 'machine:large"\nflops_per_s = 1e9\nname = "m'),
        ),
        tmp_path,
    )
    assert CALLS == ["count"]
    assert done.metrics.value("mean") == first.metrics.value("mean")
    assert done.metrics.value("prefill_latency_s") > first.metrics.value("prefill_latency_s")


def test_another_evaluator_setting_restores_the_pruned_model_and_does_not_prune(
    tmp_path: Path,
) -> None:
    before = go(pipeline(tmp_path), tmp_path)
    done = go(pipeline(tmp_path, PIPELINE.replace("wanted = 4", "wanted = 8")), tmp_path)
    assert CALLS == ["mean", "restore", "open"]
    weights = json.loads(before.file("prune/weights").read_text())
    assert done.metrics.value("mean") == sum(weights) / 8


@pytest.mark.parametrize(
    "old, new",
    [
        ("seed = 3", "seed = 4"),
        ("sparsity = 0.5", "sparsity = 0.25"),
        ('use = "toy"', 'use = "toy"\nlayers = 3'),
    ],
)
def test_another_seed_parameter_or_model_prunes_again(old: str, new: str, tmp_path: Path) -> None:
    go(pipeline(tmp_path), tmp_path)
    go(pipeline(tmp_path, PIPELINE.replace(old, new)), tmp_path)
    assert "prune" in CALLS


def test_another_thread_count_runs_the_live_steps_again(tmp_path: Path) -> None:
    go(pipeline(tmp_path), tmp_path)
    CALLS.clear()
    done = run(pipeline(tmp_path), registry=toy_registry(), runs_dir=tmp_path / "runs", threads=2)
    assert CALLS == ["prune", "open", "count", "mean"]
    assert done.info["threads"] == 2


def test_a_transform_without_restore_runs_again_only_when_its_model_is_used(tmp_path: Path) -> None:
    text = PIPELINE.replace("[accelerator]", '[[transform]]\nuse = "scale"\n\n[accelerator]')
    first = go(pipeline(tmp_path, text), tmp_path)
    go(pipeline(tmp_path, text), tmp_path)
    assert CALLS == []
    done = go(pipeline(tmp_path, text.replace("wanted = 4", "wanted = 8")), tmp_path)
    assert CALLS == ["mean", "scale", "restore", "open"]
    assert done.metrics.value("mean_before") == first.metrics.value("mean_before")


def test_a_broken_cache_entry_is_not_used(tmp_path: Path) -> None:
    path = pipeline(tmp_path)
    first = (go(path, tmp_path).directory / "report.json").read_bytes()
    for entry in (tmp_path / "cache" / "steps").glob("*/entry.json"):
        entry.write_text(entry.read_text()[:-9])
    done = go(path, tmp_path)
    assert CALLS == ["prune", "open", "count", "mean"]
    assert (done.directory / "report.json").read_bytes() == first


def test_a_spec_only_pipeline_changes_the_spec_alone(tmp_path: Path) -> None:
    text = PIPELINE.replace('use = "toy"', 'use = "toy-spec"').partition("[evaluate]")[0]
    done = go(pipeline(tmp_path, text), tmp_path)
    assert CALLS == ["count"]
    assert done.metrics.value("weight_bytes") < done.metrics.value("weight_bytes_original")
