"""What a run leaves: the same bytes, a lock file that runs, failures that are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import toy_parts
from toy_parts import CALLS, toy_registry
from toy_runs import FOLDER, PIPELINE, go, pipeline
from toy_runs import own_cache as own_cache  # a fixture

import crosslayer as cl
from crosslayer.contracts.report import Metric, Report
from crosslayer.errors import ComponentError, InputError
from crosslayer.progress import Progress
from crosslayer.registry import KINDS, Registry
from crosslayer.runner import merged, report_json, run

pytestmark = pytest.mark.usefixtures("own_cache")


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
        found.append((runs / FOLDER / "report.json").read_bytes())
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
    assert os.listdir(tmp_path / "runs") == [FOLDER]
    report = (tmp_path / "runs" / FOLDER / "report.json").read_bytes()
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
    failed = tmp_path / "runs" / f"{FOLDER}.failed"
    assert "ZeroDivisionError" in (failed / "error.txt").read_text()
    assert sorted(os.listdir(tmp_path / "runs")) == [FOLDER, f"{FOLDER}.failed"]


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


@pytest.mark.parametrize("threads", [0, 999_999])
def test_more_threads_than_cores_and_fewer_than_one_are_refused(
    threads: int, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"threads = {threads}, but this process may use 1 to"):
        run(pipeline(tmp_path), registry=toy_registry(), threads=threads)


def test_a_file_in_the_place_of_the_runs_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(InputError, match=r"runs: it is a file or below one; take another"):
        go(pipeline(tmp_path), tmp_path)


def test_a_run_whose_steps_write_nothing_has_no_folder_for_files(tmp_path: Path) -> None:
    done = go(pipeline(tmp_path, '[model]\nuse = "toy"\n[evaluate]\nmean = {}\n'), tmp_path)
    assert not (done.directory / "files").exists()


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
    assert set(cl.__all__) >= {"run", "load", "compare", "Comparison", "Pipeline", "Run"}


def test_whoever_prices_what_the_first_refuses_is_among_the_recorded_versions(
    tmp_path: Path,
) -> None:
    found = [one for kind in KINDS for one in toy_registry().components(kind).values()]
    (machine,) = [one for one in found if one.component.name == "machine"]
    spare = replace(
        machine,
        component=replace(machine.component, name="spare"),
        origin=replace(machine.origin, distribution="spare-parts", version="4.5"),
    )
    text = PIPELINE.replace('use = "machine:small"', 'use = "machine:small"\nfallback = "spare"')
    done = run(
        pipeline(tmp_path, text), registry=Registry([*found, spare]), threads=1,
        runs_dir=tmp_path / "runs",
    )  # fmt: skip
    assert done.info["versions"]["spare-parts"] == "4.5"
    assert tomllib.loads(done.lock)["lock"]["versions"]["spare-parts"] == "4.5"
