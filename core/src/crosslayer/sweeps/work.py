"""One point of a sweep, run by whichever process an executor chose."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crosslayer.contracts.report import Metric
from crosslayer.errors import CrosslayerError
from crosslayer.kinds import ModelArtifact
from crosslayer.pipeline.parts import Part
from crosslayer.pipeline.schema import Pipeline
from crosslayer.progress import Progress
from crosslayer.registry import Registry
from crosslayer.results import Step
from crosslayer.stepkey import part_inputs, step_key


@dataclass(frozen=True)
class Task:
    """A point to run. place: the run directory it gets, absolute. need_bytes: of memory."""

    id: str
    pipeline: Pipeline
    text: str
    place: Path
    threads: int
    need_bytes: int


@dataclass(frozen=True)
class Done:
    """What became of a point: its metrics and steps, or the error that ended it.

    where: the machine and process that ran it, and the node of a cluster. files: the run directory
    as an archive, where it was not written in its place.
    """

    id: str
    error: str = ""
    metrics: tuple[Metric, ...] = ()
    steps: tuple[Step, ...] = ()
    seconds: float = 0.0
    where: str = ""
    files: bytes | None = None


class Executor(Protocol):
    """Runs tasks; gives each back as it ends, in any order. Closing the iterator stops the rest and
    leaves no process.
    """

    def run(self, tasks: Sequence[Task], registry: Registry) -> Generator[Done, None, None]: ...


class Models:
    """The models that the last point of this process had, so that the next one loads no weights
    again. No step changes its input.
    """

    def __init__(self) -> None:
        self.last: dict[str, ModelArtifact] = {}
        self.now: dict[str, ModelArtifact] = {}

    def next_point(self) -> None:
        """Forget what the last point did not use."""
        self.last, self.now = self.now, {}

    def build(self, part: Part, registry: Registry) -> ModelArtifact:
        """The part's model."""
        key = step_key("loaded", part=part_inputs(part))
        known = self.now.get(key) or self.last.get(key)
        if known is None:
            self.last.clear()  # make room first
            known = part.build(registry)
        self.now[key] = known
        return known


models = Models()


def do(task: Task, registry: Registry, written_in: Path | None = None) -> Done:
    """Run the point and write its run directory, in `written_in` if it is moved to its place later.

    Whatever a point raises is its result; only an interruption goes through.
    """
    from crosslayer.runner import run_checked

    models.next_point()
    start = time.perf_counter()
    where = f"{socket.gethostname()}:{os.getpid()}"
    try:
        run = run_checked(
            task.pipeline, task.text, task.place, registry=registry, threads=task.threads,
            progress=Progress(), written_in=written_in, build_model=models.build,
        )  # fmt: skip
    except CrosslayerError as error:
        failed = str(error)
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
    else:
        seconds = time.perf_counter() - start
        return Done(task.id, "", run.report.metrics, run.steps, seconds, where)
    return Done(task.id, failed, seconds=time.perf_counter() - start, where=where)
