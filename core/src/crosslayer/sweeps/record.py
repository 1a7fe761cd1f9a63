"""What a sweep keeps on disk: its definition, and a line for each point as it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from crosslayer.contracts.report import Metric
from crosslayer.results import Step
from crosslayer.stepcache import sha256_file
from crosslayer.sweeps.points import Point
from crosslayer.sweeps.work import Done

FORMAT = 1


@dataclass(frozen=True)
class PointResult:
    """A point that ended. key: the hash of all that its results depend on. where: the machine,
    process and node that ran it. report: SHA-256 of its report.json, "" if it failed.
    """

    id: str
    key: str
    parameters: Mapping[str, Any]
    status: Literal["ok", "failed"]
    metrics: tuple[Metric, ...] = ()
    steps: tuple[Step, ...] = ()
    seconds: float = 0.0
    error: str = ""
    where: str = ""
    report: str = ""

    @property
    def cached_steps(self) -> int:
        """How many of its steps came from the cache."""
        return sum(step.cached for step in self.steps)

    def metric(self, name: str) -> Metric | None:
        """The metric of that name; None where this point has none."""
        return next((metric for metric in self.metrics if metric.name == name), None)


def result_of(point: Point, key: str, done: Done, place: Path) -> PointResult:
    """The point as it is recorded; `place` is its run directory."""
    return PointResult(
        point.id, key, point.parameters, "failed" if done.error else "ok", done.metrics,
        done.steps, round(done.seconds, 3), done.error, done.where,
        report="" if done.error else sha256_file(place / "report.json"),
    )  # fmt: skip


class Record:
    """points.jsonl: the results in the order in which the points ended."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "points.jsonl"

    def read(self) -> list[PointResult]:
        """Every whole line; what a killed sweep left half written is taken away."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return []
        whole = raw[: raw.rfind(b"\n") + 1]
        if whole != raw:
            write_whole(self.path, whole)
        found = (_result(line) for line in whole.splitlines())
        return [result for result in found if result is not None]

    def append(self, result: PointResult) -> None:
        """One line, on the disk when this returns."""
        line = asdict(result) | {
            "metrics": [metric.model_dump(mode="json") for metric in result.metrics],
            "cached_steps": result.cached_steps,
        }
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, text.encode())  # one write: a line is there whole or cut at its end
            os.fsync(handle)
        finally:
            os.close(handle)


def _result(line: bytes) -> PointResult | None:
    """The result of a line; None for one of another version, whose point then runs again."""
    try:
        data = json.loads(line)
        del data["cached_steps"]
        data["metrics"] = tuple(Metric.from_json(json.dumps(one)) for one in data["metrics"])
        data["steps"] = tuple(Step(**step) for step in data["steps"])
        return PointResult(**data)
    except (ValueError, TypeError, KeyError, AttributeError, ValidationError):
        return None


def write_whole(path: Path, content: bytes) -> None:
    """The file with this content: at any instant there is the old one or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    os.replace(new, path)
