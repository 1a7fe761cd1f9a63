"""Runs of toy pipelines: steps, cache, run directory, lock file, determinism, failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import toy_parts
from toy_parts import CALLS, toy_registry

import crosslayer as cl
import pytest
from crosslayer.contracts.report import Metric, Report
from crosslayer.errors import ComponentError, InputError
from crosslayer.progress import Progress
from crosslayer.runner import merged, report_json, run

PIPELINE = """\
[pipeline]
name = "Toy <b>run</b>"
seed = 3

[model]
use = "toy"

[[transform]]
use = "prune"
sparsity = 0.5

[accelerator]
use = "machine:small"

[workload]
prompt_tokens = 8
output_tokens = 4

[[simulate]]
use = "count"

[evaluate]
mean = { wanted = 4 }
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    CALLS.clear()


def pipeline(tmp_path: Path, text: str = PIPELINE, name: str = "p.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def go(path: Path | cl.Pipeline, tmp_path: Path, **options: object) -> cl.Run:
    CALLS.clear()
    return run(path, registry=toy_registry(), runs_dir=tmp_path / "runs", threads=1, **options)  # type: ignore[arg-type]


def test_a_run_does_each_step_once_and_writes_its_directory(tmp_path: Path) -> None:
    done = go(pipeline(tmp_path), tmp_path)
    assert CALLS == ["prune", "open", "count", "mean"]
    assert done.directory == tmp_path / "runs" / "toy-b-run-b"
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
    assert os.listdir(tmp_path / "runs") == ["toy-b-run-b"]


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


def test_the_same_seed_in_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    path = pipeline(tmp_path)
    code = (
        "import sys; from toy_parts import toy_registry; from crosslayer.runner import run;"
        "run(sys.argv[1], registry=toy_registry(), runs_dir=sys.argv[2], threads=1)"
    )
    found = []
    for seed in ("1", "77"):
        environment = {
            **os.environ, "PYTHONHASHSEED": seed,
            "CROSSLAYER_CACHE_DIR": str(tmp_path / f"cache{seed}"),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        }  # fmt: skip
        runs = tmp_path / f"runs{seed}"
        subprocess.run(
            [sys.executable, "-c", code, str(path), str(runs)], env=environment, check=True
        )
        found.append((runs / "toy-b-run-b" / "report.json").read_bytes())
    assert found[0] == found[1]


def test_two_runs_at_once_both_succeed_and_leave_one_whole_directory(tmp_path: Path) -> None:
    path = pipeline(tmp_path)
    code = (
        "import sys; from toy_parts import toy_registry; from crosslayer.runner import run;"
        "path, runs = sys.argv[1:];"
        "[run(path, registry=toy_registry(), runs_dir=runs, threads=1) for _ in range(4)]"
    )
    search = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "runs")]
    both = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": search}) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert os.listdir(tmp_path / "runs") == ["toy-b-run-b"]
    report = (tmp_path / "runs" / "toy-b-run-b" / "report.json").read_bytes()
    assert (go(path, tmp_path).directory / "report.json").read_bytes() == report


def test_an_entry_that_cannot_be_read_as_a_model_is_made_again(tmp_path: Path) -> None:
    from crosslayer.stepcache import StepCache

    path = pipeline(tmp_path)
    first = (go(path, tmp_path).directory / "report.json").read_bytes()
    empty = tmp_path / "empty"
    empty.mkdir()
    cache = StepCache()
    for place in list(cache.folder.iterdir()):
        cache.discard(place.name, "all", "for the test")
        cache.put(place.name, {"spec": "{}", "report": "{}"}, empty)
    done = go(path, tmp_path)
    assert CALLS == ["prune", "open", "count", "mean"]
    assert (done.directory / "report.json").read_bytes() == first


def test_a_lock_of_other_versions_says_so(tmp_path: Path) -> None:
    lines: list[str] = []

    class Lines(Progress):
        def say(self, line: str) -> None:
            lines.append(line)

    lock = go(pipeline(tmp_path), tmp_path).directory / "pipeline.lock.toml"
    old = pipeline(tmp_path, lock.read_text().replace('toy-parts = "1.2.3"', 'toy-parts = "1.2.2"'))
    go(old, tmp_path, progress=Lines())
    assert "lock file: written with toy-parts 1.2.2, here it is 1.2.3" in lines


def test_the_report_has_no_time_date_path_or_machine_fact(tmp_path: Path) -> None:
    done = go(pipeline(tmp_path), tmp_path)
    text = (done.directory / "report.json").read_text()
    report = Report.from_json(text)
    assert "prune_s" not in [metric.name for metric in report.metrics]
    assert str(tmp_path) not in text
    info = json.loads((done.directory / "run.json").read_text())
    assert [metric["name"] for metric in info["wall_clock"]] == ["prune_s"]
    assert info["threads"] == 1
    assert info["machine"]["cores"] >= 1


def test_a_lock_file_runs_and_gives_the_same_numbers(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a b")
    text = PIPELINE.replace("{ wanted = 4 }", '{ wanted = 4, words = "words.txt" }')
    first = go(pipeline(tmp_path, text), tmp_path)
    report = (first.directory / "report.json").read_bytes()
    lock = first.directory / "pipeline.lock.toml"
    document = tomllib.loads(lock.read_text())
    assert document["transform"] == [
        {"use": "prune", "sparsity": 0.5, "pattern": "2:4", "blocks": []}
    ]
    assert document["accelerator"] == {
        "use": "machine:small",
        "preset": "small",
        "flops_per_s": 1e12,
        "refuses": [],
    }
    assert document["evaluate"]["mean"]["words"] == "../../words.txt"
    assert document["lock"]["versions"]["toy-parts"] == "1.2.3"
    assert str(tmp_path) not in lock.read_text()
    done = go(lock, tmp_path)
    assert (done.directory / "report.json").read_bytes() == report
    assert CALLS == []  # the same inputs, so every step was cached
    again = tomllib.loads((done.directory / "pipeline.lock.toml").read_text())
    assert {**again, "lock": 0} == {**document, "lock": 0}


def test_the_lock_names_the_commit_of_the_pipeline_file(tmp_path: Path) -> None:
    path = pipeline(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "p.toml"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    lock = go(path, tmp_path).directory / "pipeline.lock.toml"
    assert tomllib.loads(lock.read_text())["lock"]["git_revision"] == head
    path.write_text(PIPELINE + "# changed\n")
    go(path, tmp_path)
    assert tomllib.loads(lock.read_text())["lock"]["git_revision"] == f"{head}-dirty"


def test_a_failing_step_is_named_and_the_run_before_it_stays(tmp_path: Path) -> None:
    before = go(pipeline(tmp_path), tmp_path)
    kept = (before.directory / "report.json").read_bytes()
    failing = PIPELINE.replace("[accelerator]", '[[transform]]\nuse = "fail"\n\n[accelerator]')
    with pytest.raises(
        ComponentError, match="step transform 2 fail failed: ZeroDivisionError: the toy"
    ) as caught:
        go(pipeline(tmp_path, failing), tmp_path)
    assert caught.value.exit_code == 4
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert (before.directory / "report.json").read_bytes() == kept
    failed = tmp_path / "runs" / "toy-b-run-b.failed"
    assert "ZeroDivisionError" in (failed / "error.txt").read_text()
    assert sorted(os.listdir(tmp_path / "runs")) == ["toy-b-run-b", "toy-b-run-b.failed"]


def test_several_models_and_accelerators_have_numbers_of_their_own(tmp_path: Path) -> None:
    done = go(
        cl.Pipeline(
            name="pool",
            models=[{"use": "toy", "name": "dense"}, {"use": "toy", "name": "pruned"}],
            transforms=[{"use": "prune", "on": "pruned"}],
            accelerators=[
                {"use": "machine", "name": "m"},
                {"use": "machine", "name": "n", "flops_per_s": 1e9},
            ],
            instances=[
                {"name": "a", "model": "dense", "accelerator": "m"},
                {"name": "b", "model": "pruned", "accelerator": "n"},
            ],
            evaluate={"mean": {"wanted": 8}},
        ),
        tmp_path,
    )
    assert done.metrics.value("a.weight_bytes") > done.metrics.value("b.weight_bytes")
    assert done.metrics.value("mean.mean") == pytest.approx(0.45)
    assert done.metrics.value("mean.mean (2)") < 0.45
    assert (
        tomllib.loads((done.directory / "pipeline.toml").read_text())["model"][1]["name"]
        == "pruned"
    )


def test_a_fallback_takes_what_the_accelerator_refuses(tmp_path: Path) -> None:
    text = PIPELINE.replace(
        '"machine:small"', '"machine:small"\nrefuses = ["Gemm"]\nfallback = ["machine:large"]'
    )
    plain = go(pipeline(tmp_path), tmp_path).metrics.value("prefill_latency_s")
    assert go(pipeline(tmp_path, text), tmp_path).metrics.value("prefill_latency_s") == plain


def test_progress_says_each_step_and_what_was_cached(tmp_path: Path) -> None:
    lines: list[str] = []

    class Lines(Progress):
        def say(self, line: str) -> None:
            lines.append(line)

    go(pipeline(tmp_path), tmp_path, progress=Lines())
    assert any(line.startswith("transform 1 prune: ") and line.endswith(" s") for line in lines)
    lines.clear()
    go(pipeline(tmp_path), tmp_path, progress=Lines())
    assert "transform 1 prune: cached" in lines


def test_a_simulator_that_names_a_file_it_did_not_write_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate = toy_parts.Count.simulate

    def forgets(self: toy_parts.Count, stack: object, trace: object, context: object) -> Report:
        report = simulate(self, stack, trace, context)  # type: ignore[arg-type]
        return report.replace(files=tuple(file.replace(path="else.txt") for file in report.files))

    monkeypatch.setattr(toy_parts.Count, "simulate", forgets)
    with pytest.raises(ComponentError, match=r"else\.txt"):
        go(pipeline(tmp_path), tmp_path)


def test_zero_threads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="threads must be 1 or more"):
        run(pipeline(tmp_path), registry=toy_registry(), threads=0)


def test_names_that_several_steps_use_are_told_apart() -> None:
    def one(value: float, name: str = "x") -> Report:
        return Report(
            title="t",
            metrics=(Metric(name=name, value=value, unit="1", provenance="modelled", source="s"),),
        )

    report = merged("all", [("a", one(1)), ("b", one(2)), ("b", one(3)), ("c", one(4, "y"))])
    assert [(m.name, m.value) for m in report.metrics] == [
        ("a.x", 1),
        ("b.x", 2),
        ("b.x (2)", 3),
        ("y", 4),
    ]
    assert Report.from_json(report_json(report)) == report


def test_importing_crosslayer_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pydantic", "matplotlib")
    code = f"import sys, crosslayer; print([m for m in {heavy} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_public_names_stay_what_they_are_after_use(tmp_path: Path) -> None:
    go(pipeline(tmp_path), tmp_path)
    assert callable(cl.run)
    assert cl.__version__[0].isdigit()
    assert set(cl.__all__) == {"run", "Pipeline", "Run", "__version__"}
