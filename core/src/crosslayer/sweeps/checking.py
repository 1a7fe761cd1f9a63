"""Every point of a sweep as a pipeline, validated before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crosslayer.errors import InputError
from crosslayer.pipeline.check import check_source
from crosslayer.pipeline.schema import Pipeline
from crosslayer.pipeline.source import PipelineErrors, Problem, Source, key_text, read_source
from crosslayer.pipeline.toml_lines import KeyPath
from crosslayer.pipeline.toml_text import toml_text
from crosslayer.progress import Progress
from crosslayer.registry import Registry
from crosslayer.sweeps.keys import locate, placed
from crosslayer.sweeps.points import Point
from crosslayer.sweeps.settings import Key


@dataclass(frozen=True)
class Checked:
    """A point, its pipeline without a problem, and the text of the file that says the same."""

    point: Point
    pipeline: Pipeline
    text: str


def source_of(pipeline: Pipeline | str | Path) -> tuple[Source, Path | None]:
    """A pipeline as data, and its file. Errors: PipelineErrors for a file that cannot be read."""
    if isinstance(pipeline, Pipeline):
        name = str(pipeline.file or "pipeline")
        return Source(name, pipeline.folder, pipeline.document()), pipeline.file
    source = read_source(Path(pipeline))
    if isinstance(source, Problem):
        raise PipelineErrors((source,))
    source.document.pop("lock", None)  # what a lock file says is of one run, not of these points
    return source, Path(pipeline)


def check_points(
    source: Source, file: Path | None, points: Sequence[Point], registry: Registry,
    progress: Progress,
) -> tuple[Checked, ...]:  # fmt: skip
    """Each point as a pipeline that can run. Errors: PipelineErrors with all problems of all
    points: those of the pipeline itself once, the others with their point and value; InputError for
    a key that the pipeline has no place for.
    """
    paths = _paths(source, points)
    checked, found = [], []
    for point in progress.track(points, "checking points", len(points)):
        values = {paths[key]: value for key, value in point.values}
        own = _with(source, values)
        pipeline, problems = check_source(own, registry, file)
        found.append(problems)
        if pipeline is not None and not problems:
            checked.append(Checked(point, pipeline, toml_text(own.document)))
    if any(found):
        raise PipelineErrors(_told(points, paths, found))
    return tuple(checked)


def _paths(source: Source, points: Sequence[Point]) -> dict[Key, KeyPath]:
    keys = dict.fromkeys(key for point in points for key, _ in point.values)
    paths, problems = {}, []
    for key in keys:
        try:
            paths[key] = locate(source.document, key)
        except InputError as error:
            problems.append(source.problem(key, str(error)))
    if problems:
        raise PipelineErrors(replace(problem, line=None, column=None) for problem in problems)
    places: dict[KeyPath, Key] = {}
    for key, path in paths.items():
        if path in places:
            raise InputError(f"two keys of the sweep mean the same: {key_text(path)}")
        places[path] = key
    return paths


def _with(source: Source, values: dict[KeyPath, Any]) -> Source:
    """The source with a point's values; what they replace stands in no line of the file."""
    document = placed(source.document, values)
    kept = {
        path: place
        for path, place in source.positions.items()
        if not any(path[: len(swept)] == swept for swept in values)
    }
    return Source(source.file, source.folder, document, kept)


def _told(
    points: Sequence[Point], paths: dict[Key, KeyPath], found: Sequence[Sequence[Problem]]
) -> list[Problem]:
    """Each problem once: by itself if every point has it, else with the points that have it."""
    having: dict[Problem, list[Point]] = {}
    for point, problems in zip(points, found, strict=True):
        for problem in problems:
            having.setdefault(problem, []).append(point)
    told = []
    for problem, those in having.items():
        if len(those) == len(points) > 1 and not _is_swept(problem, paths):
            told.append(problem)
            continue
        which = f"{those[0].id} ({those[0]})"
        if problem.key.startswith("backend"):  # what was given may be a secret in the wrong place
            which = f"{points.index(those[0]) + 1} ({', '.join(those[0].parameters)})"
        others = len(those) - 1
        more = f" and {others} other point{'s' * (others > 1)}" if others else ""
        told.append(replace(problem, message=f"point {which}{more}: {problem.message}"))
    return told


def _is_swept(problem: Problem, paths: dict[Key, KeyPath]) -> bool:
    return any(problem.key.startswith(key_text(path)) for path in paths.values())
