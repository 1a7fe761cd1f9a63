"""Runs a sweep: checks every point, keeps those that are finished, runs the others, shows all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crosslayer.errors import InputError, nearest
from crosslayer.filelock import only_one
from crosslayer.machine import allowed_cores
from crosslayer.pipeline.schema import Pipeline
from crosslayer.pipeline.source import Source
from crosslayer.pipeline.toml_text import toml_text
from crosslayer.progress import Progress
from crosslayer.registry import Registry
from crosslayer.rundir import slug
from crosslayer.stepcache import sha256_file
from crosslayer.sweeps.checking import Checked, check_points, source_of
from crosslayer.sweeps.identity import Identity, identity
from crosslayer.sweeps.pareto import read_pareto
from crosslayer.sweeps.points import points_of
from crosslayer.sweeps.record import FORMAT, PointResult, Record, result_of, write_whole
from crosslayer.sweeps.results import SweepResult, result_of_sweep, write
from crosslayer.sweeps.work import Executor, Task


def sweep(
    pipeline: Pipeline | str | Path,
    grid: Mapping[Any, Sequence[Any]] | None = None,
    *,
    side_by_side: bool = False,
    table: str | Path | Iterable[Mapping[str, Any]] | None = None,
    pareto: str | Sequence[str] | None = None,
    executor: str | Executor = "local",
    address: str | None = None,
    jobs: int | None = None,
    threads: int = 1,
    runs_dir: str | Path = "runs",
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Run a pipeline (or a pipeline file) at many points; writes `runs_dir`/<its name>.sweep/.

    grid: {"transform.flow.sparsity": [0.3, 0.5], "workload.batch_size": [1, 8]}: every combination,
    or, side_by_side, the first values of all keys, then the second ones, and so on. table: the
    points one by one instead, a .csv or .toml file or mappings. pareto: two metrics, "x,y".
    executor: "local" processes, `jobs` at once of `threads` each (default: as many as cores and
    memory allow), or "ray" on the cluster at `address` (None: one of its own).

    Points that finished before, with the same results to expect, are not run again; those that
    failed are. Errors: PipelineErrors for all problems of all points before anything runs, nothing
    written; a point that fails while running is recorded and the rest go on.
    """
    if registry is None:
        from crosslayer.discovery import discover

        registry = discover()
    progress = progress or Progress()
    wanted = read_pareto(pareto)
    points = points_of(grid or {}, side_by_side=side_by_side, table=table)
    chosen = _executor(executor, address, jobs, threads, progress)
    source, file = source_of(pipeline)
    checked = check_points(source, file, points, registry, progress)
    identities = [identity(one.pipeline, registry, threads) for one in checked]
    name = _name(source, file)
    folder = Path(runs_dir) / f"{slug(name)}.sweep"
    with _held(folder):
        started = datetime.now(UTC)
        _define(folder, name, file, checked, identities, threads)
        results, ran = _run(folder, checked, identities, threads, chosen, registry, progress)
        ordered = tuple(results[one.point.id] for one in checked)
        result = result_of_sweep(name, folder, ordered, wanted, ran)
        facts = {"executor": executor if isinstance(executor, str) else "given", "threads": threads}
        problem = write(result, toml_text(source.document), started, facts)
        if problem:
            progress.say(f"sweep: {problem}")
    return result


def _run(
    folder: Path, checked: Sequence[Checked], identities: Sequence[Identity], threads: int,
    executor: Executor, registry: Registry, progress: Progress,
) -> tuple[dict[str, PointResult], int]:  # fmt: skip
    """Every point's result, and how many points ran for it now."""
    record = Record(folder)
    results = _finished(folder, record, checked, identities)
    if results:
        progress.say(f"sweep: {len(results)} of {len(checked)} points are finished already")
    tasks, about = [], {}
    for one, its in zip(checked, identities, strict=True):
        about[one.point.id] = one.point, its.key
        if one.point.id not in results:
            place = _place(folder, one.point.id)
            tasks.append(Task(one.point.id, one.pipeline, one.text, place, threads, its.need_bytes))
    if tasks:
        with closing(executor.run(tasks, registry)) as ended:
            for done in ended:
                result = result_of(*about[done.id], done, _place(folder, done.id))
                if result.status == "ok":
                    shutil.rmtree(_place(folder, f"{done.id}.failed"), ignore_errors=True)
                record.append(result)
                results[done.id] = result
                progress.say(_line(result, len(results), len(checked)))
    return results, len(tasks)


def _finished(
    folder: Path, record: Record, checked: Sequence[Checked], identities: Sequence[Identity]
) -> dict[str, PointResult]:
    """The points whose last end was good and that would give the same results again."""
    last = {result.id: result for result in record.read()}
    finished = {}
    for one, its in zip(checked, identities, strict=True):
        found = last.get(one.point.id)
        if found is None or found.status != "ok" or found.key != its.key:
            continue
        report = _place(folder, found.id) / "report.json"
        if report.is_file() and sha256_file(report) == found.report:
            finished[found.id] = found
    return finished


def _executor(
    executor: str | Executor, address: str | None, jobs: int | None, threads: int,
    progress: Progress,
) -> Executor:  # fmt: skip
    """The executor of that name. Errors: InputError, DependencyError."""
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be 1 or more, not {value}")
    if not isinstance(executor, str):
        return executor
    if executor == "ray":
        from crosslayer.sweeps.cluster import RayExecutor

        return RayExecutor(address, jobs)
    if executor != "local":
        raise InputError(f"no executor {executor!r}; {nearest(executor, ('local', 'ray'))}")
    if address is not None:
        raise InputError("an address is of a Ray cluster; it needs the executor 'ray'")
    cores = allowed_cores()
    if threads > cores:
        raise InputError(f"threads = {threads}, but this process may use {cores} cores")
    fit = cores // threads
    if jobs is not None and jobs > fit:
        progress.say(f"sweep: {fit} points at once, not {jobs}: {cores} cores, {threads} each")
    from crosslayer.sweeps.local import LocalExecutor

    return LocalExecutor(min(jobs or fit, fit))


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The sweep's folder, for this sweep alone. Errors: InputError if another one is in it."""
    try:
        (folder / "points").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from error
    with only_one(folder) as ours:
        if not ours:
            raise InputError(f"{folder}: another sweep of that name is running; wait for it")
        yield


def _define(
    folder: Path, name: str, file: Path | None, checked: Sequence[Checked],
    identities: Sequence[Identity], threads: int,
) -> None:  # fmt: skip
    """sweep.json: what was asked for."""
    definition = {
        "format": FORMAT,
        "name": name,
        "pipeline": file and file.name,
        "threads": threads,
        "points": [
            {"id": one.point.id, "parameters": one.point.parameters, "key": its.key}
            for one, its in zip(checked, identities, strict=True)
        ],
    }
    text = json.dumps(definition, indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / "sweep.json", text.encode())


def _name(source: Source, file: Path | None) -> str:
    """The pipeline's name, that of its points aside."""
    about = source.document.get("pipeline")
    name = about.get("name") if isinstance(about, dict) else None
    return str(name or (file.stem if file else "pipeline"))


def _place(folder: Path, id: str) -> Path:
    """A point's run directory."""
    return folder.absolute() / "points" / id


def _line(result: PointResult, ended: int, count: int) -> str:
    """A line about a point that ended."""
    how = f"{result.seconds:.1f} s"
    if result.cached_steps:
        how += f", {result.cached_steps} of {len(result.steps)} steps cached"
    if result.status == "failed":
        how = f"failed: {result.error.splitlines()[0]}"
    return f"{ended}/{count} {result.id}: {how}"
