"""Runs a pipeline: check, steps, report, run directory."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crosslayer.contracts.report import Report
from crosslayer.execution import BuildModel, Execution
from crosslayer.machine import checked_threads, limit_threads, machine_facts
from crosslayer.pipeline.check import check_file, check_pipeline
from crosslayer.pipeline.lock import file_digest, lock_text
from crosslayer.pipeline.schema import Pipeline
from crosslayer.pipeline.source import PipelineErrors
from crosslayer.pipeline.toml_text import toml_text
from crosslayer.progress import Progress
from crosslayer.registry import Registry
from crosslayer.results import Run
from crosslayer.rundir import run_directory, slug
from crosslayer.stepkey import library_versions


def run(
    pipeline: Pipeline | str | Path,
    *,
    registry: Registry | None = None,
    threads: int | None = None,
    runs_dir: str | Path = "runs",
    progress: Progress | None = None,
) -> Run:
    """Run a pipeline (or a pipeline file) and write `runs_dir`/<its name>/.

    threads: cores that live steps may use (default: all this process is allowed). A run of the same
    name is replaced; a run that fails leaves it alone and writes `<name>.failed` with error.txt.
    Errors: PipelineErrors with every problem before anything runs, nothing written; ComponentError
    for a step.
    """
    if registry is None:
        from crosslayer.discovery import discover

        registry = discover()
    threads = checked_threads(threads)
    checked = _checked(pipeline, registry)
    place = Path(runs_dir) / slug(checked.name)
    return run_checked(
        checked, _text(checked), place, registry=registry, threads=threads,
        progress=progress or Progress(),
    )  # fmt: skip


def run_checked(
    checked: Pipeline,
    text: str,
    place: Path,
    *,
    registry: Registry,
    threads: int,
    progress: Progress,
    written_in: Path | None = None,
    build_model: BuildModel | None = None,
) -> Run:
    """Run a pipeline without a problem and write the run directory `place`.

    text: of the pipeline file that the directory keeps. written_in: the folder that gets the run
    directory, if it is moved to its place afterwards. build_model: gives the models of the pipeline
    (default: each is built).
    """
    limit_threads(threads)
    started, clock = datetime.now(UTC), time.perf_counter()
    with (
        run_directory((written_in or place.parent) / place.name) as folder,
        tempfile.TemporaryDirectory(prefix="crosslayer-") as scratch,
    ):
        execution = Execution(
            checked, registry, folder, Path(scratch), threads, progress, build_model
        )
        execution.run()
        report = merged(checked.name, execution.steps.reports)
        versions = _versions(execution)
        info = {
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 3),
            "threads": threads,
            "machine": machine_facts(),
            "versions": versions,
            "steps": [
                {"step": step.name, "seconds": round(step.seconds, 3), "cached": step.cached}
                for step in execution.steps.done
            ],
            "wall_clock": [
                json.loads(metric.to_json()) for metric in report.metrics if metric.wall_clock
            ],
            "wall_clock_tables": [
                json.loads(table.to_json()) for table in report.tables if table.wall_clock
            ],
        }
        _say_what_changed(checked, versions, execution.tuned, progress)
        lock = lock_text(checked, execution.parts, versions, place, execution.tuned)
        _write(folder, report, info, text, lock)
    return Run(checked, report, place, tuple(execution.steps.done), info, lock)


def _checked(pipeline: Pipeline | str | Path, registry: Registry) -> Pipeline:
    if isinstance(pipeline, Pipeline):
        problems = check_pipeline(pipeline, registry)
        found: Pipeline | None = pipeline
    else:
        found, problems = check_file(pipeline, registry)
    if problems or found is None:
        raise PipelineErrors(problems)
    return found


def merged(title: str, reports: list[tuple[str, Report]]) -> Report:
    """One report of many. A metric, table or figure name that several use gets its step's name in
    front.
    """

    def gather(field: str) -> tuple[Any, ...]:
        items = [(step, item) for step, report in reports for item in getattr(report, field)]
        often = Counter(item.name for _, item in items)
        taken: Counter[str] = Counter()
        found = []
        for step, item in items:
            name = item.name if often[item.name] == 1 else f"{step}.{item.name}"
            taken[name] += 1
            found.append(item.replace(name=name if taken[name] == 1 else f"{name} ({taken[name]})"))
        return tuple(found)

    notes = dict.fromkeys(note for _, report in reports for note in report.notes)
    files = gather("files")
    return Report(
        title=title, metrics=gather("metrics"), tables=gather("tables"), figures=gather("figures"),
        files=files, notes=tuple(notes),
    )  # fmt: skip


def report_json(report: Report) -> str:
    """The report as the same bytes for the same numbers: sorted keys, no times of this machine."""
    steady = report.replace(
        metrics=tuple(metric for metric in report.metrics if not metric.wall_clock),
        tables=tuple(table for table in report.tables if not table.wall_clock),
    )
    return (
        json.dumps(json.loads(steady.to_json()), sort_keys=True, indent=1, ensure_ascii=False)
        + "\n"
    )


def _write(folder: Path, report: Report, info: Mapping[str, Any], pipeline: str, lock: str) -> None:
    from crosslayer.render.html import render

    def write(name: str, text: str) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")

    write("pipeline.toml", pipeline)
    write("pipeline.lock.toml", lock)
    write("report.json", report_json(report))
    write("run.json", json.dumps(info, indent=1, ensure_ascii=False) + "\n")
    write("report.html", render(report, run_info=info, pipeline_text=pipeline, lock_text=lock))
    if report.figures:
        from crosslayer.render.figures import to_svg

        for figure in report.figures:
            write(f"figures/{slug(figure.name)}.svg", to_svg(figure))


def _say_what_changed(
    pipeline: Pipeline,
    versions: Mapping[str, str],
    tuned: Mapping[str, Any],
    progress: Progress,
) -> None:
    """A line for each distribution that is not the one a lock file was written with, for each file
    that holds something else, and for each choice of hardware that came out otherwise.
    """
    locked = pipeline.locked.get("versions")
    for name, version in locked.items() if isinstance(locked, dict) else ():
        if versions.get(name) != version:
            here = versions.get(name, "none")
            progress.say(f"lock file: written with {name} {version}, here it is {here}")
    files = pipeline.locked.get("files")
    for name, digest in files.items() if isinstance(files, dict) else ():
        if file_digest(pipeline.folder / name) != digest:
            progress.say(f"lock file: {name} does not hold what it held then")
    chosen = pipeline.locked.get("hardware")
    for name, hardware in chosen.items() if isinstance(chosen, dict) else ():
        if tuned.get(name) != hardware:
            progress.say(f"lock file: the hardware chosen for {name} is not the one it names")


def _text(pipeline: Pipeline) -> str:
    """The pipeline file as it was written, or the one that a Python pipeline would be."""
    if pipeline.file is not None:
        return pipeline.file.read_text(encoding="utf-8")
    return toml_text(pipeline.document())


def _versions(execution: Execution) -> dict[str, str]:
    """Every distribution that took part, and the numerical libraries if a live model did."""
    from crosslayer.discovery import core_version

    versions = {"crosslayer": core_version()}
    for parts in execution.parts.values():
        versions |= {
            part.found.distribution: part.found.version for part in parts if part.found.distribution
        }
    if execution.live:
        versions |= library_versions()
    return dict(sorted(versions.items()))
