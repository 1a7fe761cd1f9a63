"""Sweeps that run: what is shared, kept, resumed, recorded, and what is left when one is ended."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_plugins import crosslayer
from sweep_parts import PIPELINE, alive, marks, registry

import crosslayer as cl
from crosslayer.errors import InputError
from crosslayer.sweeps.local import LocalExecutor


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., cl.SweepResult]:
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log"))
    (tmp_path / "p.toml").write_text(PIPELINE)

    def run(grid: dict[str, Any], **options: Any) -> cl.SweepResult:
        (tmp_path / "log").write_text("")
        options = {"jobs": 2, "registry": registry(), "runs_dir": tmp_path / "runs"} | options
        return cl.sweep(tmp_path / "p.toml", grid, **options)

    return run


def log_of(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


def test_points_that_share_a_step_make_it_once_and_the_models_weights_are_kept(
    go: Callable[..., cl.SweepResult], tmp_path: Path
) -> None:
    values = {"transform.mark.value": [0.25, 0.75], "transform.mark.wait_s": [0.3]}
    done = go({**values, "evaluate.worth.power": [1.0, 2.0, 3.0]})
    log = log_of(tmp_path)
    assert sorted(line for line in log if line.startswith("mark")) == [
        "mark 0.25 begins", "mark 0.25 ends", "mark 0.75 begins", "mark 0.75 ends",
    ]  # fmt: skip
    assert len([line for line in log if line.startswith("worth")]) == 6
    assert [point.parameters["evaluate.worth.power"] for point in done.points] == [1, 2, 3] * 2
    assert len({point.where for point in done.points}) <= 2
    assert sum(point.cached_steps for point in done.points) == 4 + 5  # marks, estimates
    assert done.exit_code == 0
    # the table, in every form
    rows = list(csv.DictReader((done.directory / "table.csv").open()))
    assert [float(row["quality"]) for row in rows] == [0.25] * 3 + [0.75] * 3
    assert [row["point"] for row in rows] == [point.id for point in done.points]
    assert [row[0] for row in done.table.rows] == [point.id for point in done.points]
    # a point is a run like any other
    point = done.points[4]
    run = done.run(point.id)
    assert run.metrics.value("quality") == 0.75
    assert run.directory == done.directory / "points" / point.id
    assert "power = 2.0" in (run.directory / "pipeline.toml").read_text()
    assert "power = 2.0" in run.lock
    # the front, by hand: both qualities at the lowest price, which is a draw to the third power
    found = {
        name: [p.metric(name).value for p in done.points]  # type: ignore[union-attr]
        for name in ("quality", "price")
    }
    best = {
        i for i in range(6)
        if not any(
            found["quality"][j] >= found["quality"][i] and found["price"][j] <= found["price"][i]
            and (found["quality"][j], found["price"][j]) != (found["quality"][i], found["price"][i])
            for j in range(6)
        )
    }  # fmt: skip
    asked = go({**values, "evaluate.worth.power": [1.0, 2.0, 3.0]}, pareto="quality,price")
    assert asked.ran == 0
    assert set(asked.front) == {done.points[i].id for i in best}
    html = (asked.directory / "report.html").read_text()
    assert "as asked" in html
    assert {figure.name for figure in asked.report.figures} == {"pareto", "parallel"}
    assert (asked.directory / "figures" / "parallel.svg").is_file()
    assert "quality" in asked._repr_html_()


def test_a_failing_or_dying_point_is_recorded_and_runs_again_next_time(
    go: Callable[..., cl.SweepResult], tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("one")
    grid = {
        "transform.mark.notes": ["notes.txt"],
        "transform.mark.end": ["good", "error", "killed"],
    }
    done = go(grid, jobs=1)
    good, error, killed = done.points
    assert [point.status for point in done.points] == ["ok", "failed", "failed"]
    assert "step transform 1 mark failed: ValueError: bad on purpose" in error.error
    assert "SIGKILL" in killed.error
    assert done.exit_code == 4
    assert done.failed == (error, killed)
    with pytest.raises(InputError, match=f"point {error.id} failed: "):
        done.run(error.id)
    failed = done.directory / "points" / f"{error.id}.failed"
    assert "bad on purpose" in (failed / "error.txt").read_text()
    lines = [json.loads(line) for line in (done.directory / "points.jsonl").open()]
    assert [line["status"] for line in lines] == ["ok", "failed", "failed"]
    assert "bad on purpose" in (done.directory / "table.csv").read_text()
    again = go(grid, jobs=1)
    assert again.ran == 2
    assert again.points[0] == good
    # a run directory that is not the recorded one counts for nothing
    (done.directory / "points" / good.id / "report.json").write_text("{}")
    assert go(grid | {"transform.mark.end": ["good"]}).ran == 1
    # a file that a point reads is part of it, and so is the definition
    notes.write_text("two")
    changed = go(grid | {"transform.mark.end": ["good"], "evaluate.worth.power": [1.0, 2.0]})
    assert changed.ran == 2
    assert changed.points[0].id != good.id


def test_points_run_alone_where_memory_is_short_in_a_process_that_is_used_again(
    go: Callable[..., cl.SweepResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what lies in the working directory is not imported
    (tmp_path / "queue.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    short = LocalExecutor(2, budget_bytes=1)
    done = go({"transform.mark.value": [0.1, 0.2, 0.3]}, executor=short)
    marks = [line for line in log_of(tmp_path) if line.startswith("mark")]
    assert [line.split()[2] for line in marks] == ["begins", "ends"] * 3
    assert len({point.where for point in done.points}) == 1


@pytest.mark.parametrize(("how", "count"), [(signal.SIGKILL, 12), (signal.SIGINT, 6)])
def test_a_sweep_that_was_ended_goes_on_without_repeating_what_was_finished(
    how: signal.Signals, count: int, go: Callable[..., cl.SweepResult], tmp_path: Path
) -> None:
    record = tmp_path / "runs" / "counted.sweep" / "points.jsonl"
    command = [sys.executable, "-c", "import sweep_parts; sweep_parts.main()"]
    command += [str(tmp_path / "p.toml"), str(tmp_path / "runs"), "0.2", str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["SWEEP_LOG"] = str(tmp_path / "first")
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 60
        while not record.exists() or len(record.read_bytes().splitlines()) < count // 3:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.02)
        assert len(alive(tmp_path / "first")) > 1  # it and its workers
        process.send_signal(how)
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode != 0
    ids = [json.loads(line)["id"] for line in record.open()]
    assert count // 3 <= len(ids) < count
    marked = [line.split()[1] for line in (tmp_path / "first").read_text().splitlines()]
    until = time.monotonic() + 20
    while alive(tmp_path / "first"):  # the workers end by themselves
        assert time.monotonic() < until
        time.sleep(0.05)
    done = go(marks(count, 0.2))
    assert done.ran == count - len(ids)
    assert [json.loads(line)["id"] for line in record.open()][: len(ids)] == ids
    assert sorted(json.loads(line)["id"] for line in record.open()) == sorted(
        point.id for point in done.points
    )
    finished = {
        str(point.parameters["transform.mark.value"]) for point in done.points if point.id in ids
    }
    marked_again = {line.split()[1] for line in log_of(tmp_path)}
    assert finished <= set(marked)
    assert not finished & marked_again
    assert [point.metric("quality").value for point in done.points] == marks(count, 0)[
        "transform.mark.value"
    ]  # type: ignore[union-attr]
    if how == signal.SIGINT:  # nothing half-written either
        assert not [one for one in record.parent.rglob(".*") if one.is_dir()]


def test_two_sweeps_of_one_name_do_not_mix(
    go: Callable[..., cl.SweepResult], tmp_path: Path
) -> None:
    import fcntl

    folder = tmp_path / "runs" / "counted.sweep"
    folder.mkdir(parents=True)
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another sweep of that name is running"):
        go({"transform.mark.value": [0.1]})
    os.close(held)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 10_000}, "threads = 10000, but"),
        ({"jobs": 0}, "jobs must be 1 or more"),
        ({"executor": "rai"}, "did you mean 'ray'"),
        ({"address": "127.0.0.1:1"}, "needs the executor 'ray'"),
    ],
)
def test_wrong_options_are_told_and_nothing_is_written(
    options: dict[str, Any], said: str, go: Callable[..., cl.SweepResult], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        go({"transform.mark.value": [0.1]}, **options)
    assert said in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_the_command_prints_the_front_and_where_the_report_is(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(
        '[model]\nuse = "smollm2-135m"\nlive = false\n[accelerator]\nuse = "roofline"\n'
    )
    command = ["sweep", "spec.toml", "--set", "workload.batch_size=1,8", "--jobs", "1"]
    command += ["--set", "accelerator.preset=a100-80g"]
    settings: Any = {"CROSSLAYER_CACHE_DIR": str(tmp_path / "cache"), "cwd": tmp_path}
    ended = crosslayer(*command, "--json", **settings)
    assert ended.returncode == 0, ended.stderr
    data = json.loads(ended.stdout)
    assert data["ran"] == 2
    assert len(data["front"]) == 1
    assert data["points"][0]["metrics"][0]["provenance"] == "modelled"
    ended = crosslayer(*command, **settings)
    assert "2 of 2 points are finished already" in ended.stderr
    assert "a100-80g" in ended.stdout
    assert "report: runs/spec.sweep/report.html" in ended.stdout
