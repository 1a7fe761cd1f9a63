"""Reads a run directory back: `crosslayer.load(path)` is the `Run` that wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crosslayer.contracts.report import Metric, Report, Table
from crosslayer.errors import InputError, nearest
from crosslayer.pipeline.check import read_pipeline
from crosslayer.pipeline.lock import FORMAT
from crosslayer.pipeline.source import key_text
from crosslayer.results import Run, Step
from crosslayer.rundir import slug

REPORT, INFO, LOCK, ERROR = "report.json", "run.json", "pipeline.lock.toml", "error.txt"


def load(path: str | Path, *, runs_dir: str | Path = "runs") -> Run:
    """The run of a directory, or of a name under `runs_dir`.

    Wall-clock metrics and tables come back from run.json. Errors: InputError that names the file,
    and where in it, for a directory that is no run, a failed run, or files of another version.
    """
    folder = find_run(path, Path(runs_dir))
    info = _json(folder / INFO)
    if not isinstance(info, dict):
        raise InputError(f"{folder / INFO}: is no JSON object, so no run wrote it")
    writer = str(_mapping(info.get("versions")).get("crosslayer", "an unknown version"))
    report = _value(Report, folder / REPORT, _json(folder / REPORT), "", writer)
    clocks = tuple(
        _value(Metric, folder / INFO, data, f"wall_clock[{i}].", writer)
        for i, data in enumerate(_listed(info, "wall_clock", folder))
    )
    timed = tuple(
        _value(Table, folder / INFO, data, f"wall_clock_tables[{i}].", writer)
        for i, data in enumerate(_listed(info, "wall_clock_tables", folder))
    )
    lock = _text(folder / LOCK)
    pipeline = read_pipeline(folder / LOCK)
    found = pipeline.locked.get("format")
    if found != FORMAT:
        raise InputError(
            f"{folder / LOCK}: lock.format is {found!r}, written by crosslayer {writer}; this"
            f" version reads {FORMAT}; run the pipeline again"
        )
    try:
        steps = tuple(
            Step(str(step["step"]), float(step["seconds"]), bool(step["cached"]))
            for step in _listed(info, "steps", folder)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / INFO}: steps: an entry is damaged ({error!r})") from error
    whole = report.replace(metrics=report.metrics + clocks, tables=report.tables + timed)
    return Run(pipeline, whole, folder, steps, info, lock)


def find_run(path: str | Path, runs_dir: Path) -> Path:
    """The directory that a path or a run's name means. InputError for anything but a finished
    run.
    """
    path = Path(path)
    places = [path, runs_dir / slug(str(path))]
    if len(path.parts) == 1:
        places.insert(1, runs_dir / path)
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        _refuse_missing(path, runs_dir)
    assert folder is not None
    if (folder / ERROR).is_file() or folder.name.endswith(".failed"):
        raise InputError(f"{folder}: that run failed{_last_line(folder / ERROR)}; run it again")
    missing = [name for name in (REPORT, INFO, LOCK) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: is no run directory, there is no {missing[0]} in it")
    return folder


def _refuse_missing(path: Path, runs_dir: Path) -> None:
    if path.is_file():
        raise InputError(f"{path}: is a file; name the run's directory")
    failed = [
        place.with_name(f"{place.name}.failed")
        for place in (path, runs_dir / path.name, runs_dir / slug(str(path)))
    ]
    for place in failed:
        if place.is_dir():
            why = _last_line(place / ERROR)
            raise InputError(f"{path}: has no finished run, and its last one failed{why}")
    there = runs_dir.iterdir() if runs_dir.is_dir() else ()
    names = [place.name for place in there if (place / REPORT).is_file()]
    hint = nearest(path.name, names) if names else f"there is no run under {runs_dir}"
    raise InputError(f"{path}: there is no such run directory; {hint}")


def _last_line(error: Path) -> str:
    """The last line of a traceback, to stand behind a sentence; "" without one."""
    try:
        lines = error.read_text("utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" ({lines[-1].strip()})" if lines else ""


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8, at byte {error.start}") from error


def _json(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except json.JSONDecodeError as error:
        place = f"{file}:{error.lineno}:{error.colno}"
        raise InputError(f"{place}: broken JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{file}: is nested too deeply, so no run wrote it") from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{file}: holds a number that no run wrote") from error


def _value(cls: Any, file: Path, data: Any, above: str, writer: str) -> Any:
    try:
        return cls.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(
            f"{file}: {above}{key_text(first['loc'])}: {first['msg']}{more}; it is of another"
            f" schema, written by crosslayer {writer}; run the pipeline again"
        ) from error


def _listed(info: Mapping[str, Any], name: str, folder: Path) -> list[Any]:
    """A list of run.json; an empty one where it is missing. Errors: InputError."""
    found = info.get(name) or []
    if not isinstance(found, list):
        raise InputError(f"{folder / INFO}: {name} is {found!r:.40}, not a list")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
