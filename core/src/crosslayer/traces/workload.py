"""The requests of a pipeline's [workload]: read from its trace file, or made from its numbers."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import InputError
from crosslayer.traces.arrivals import gamma, on_off, poisson
from crosslayer.traces.closed_loop import ClosedLoop
from crosslayer.traces.lengths import Lengths, empirical, independent
from crosslayer.traces.reading import read_trace
from crosslayer.traces.rows import first_requests

if TYPE_CHECKING:
    from crosslayer.kinds import RunContext
    from crosslayer.pipeline.workload import Workload


def requests_of(
    workload: Workload, folder: Path, context: RunContext
) -> RequestTrace | ClosedLoop | None:
    """What a simulator gets: a trace, a closed loop, or None where a workload says lengths alone.

    folder: where the workload's paths start. The same seed gives the same requests to every step.
    Errors: InputError for a file that cannot be read as a trace.
    """
    if workload.trace is not None:
        return first_requests(_file(workload, workload.trace, folder), workload.requests)
    if workload.arrivals is None:
        return None
    count = workload.requests or 0
    lengths = _lengths(workload, folder)
    draw = context.rng("workload", "arrivals")
    if workload.arrivals == "closed":
        users, think_s = _given(workload.users), _given(workload.think_s)
        return ClosedLoop.draw(int(users), think_s, count, lengths, draw)
    rate = _given(workload.rate_per_s)
    if workload.arrivals == "gamma":
        at = gamma(rate, _given(workload.cv), count, draw)
    elif workload.arrivals == "on-off":
        at = on_off(rate, _given(workload.on_s), _given(workload.off_s), count, draw)
    else:
        at = poisson(rate, count, draw)
    return RequestTrace(at, *lengths(count, context.rng("workload", "lengths")))


def with_lengths(workload: Workload, folder: Path) -> Workload:
    """The workload with the median lengths of its file, where it has one, as its own lengths."""
    name = workload.trace or workload.lengths
    if name is None:
        return workload
    trace = _file(workload, name, folder)
    known = trace.output_tokens[trace.output_tokens >= 0]
    changes = {"prompt_tokens": _median(trace.prompt_tokens)} if len(trace.prompt_tokens) else {}
    if len(known):
        changes["output_tokens"] = _median(known)
    return workload.model_copy(update=changes)


def workload_inputs(workload: Workload, folder: Path) -> dict[str, Any]:
    """What the requests depend on, as plain data: a file counts with its content."""
    from crosslayer.stepkey import content_digest

    table = workload.table()
    for key in ("trace", "lengths"):
        if key in table and not table[key].startswith("@"):  # a step's file is there when it ran
            table[key] = content_digest(folder / table[key])
    return table


def _lengths(workload: Workload, folder: Path) -> Lengths:
    if workload.lengths is not None:
        return empirical(_file(workload, workload.lengths, folder))
    cvs = workload.prompt_cv, workload.output_cv
    return independent(workload.prompt_tokens, workload.output_tokens, *cvs)


def _file(workload: Workload, name: str, folder: Path) -> RequestTrace:
    return known_trace(folder / name, workload.format, workload.sort)


def known_trace(path: Path, format: str | None = None, sort: bool = False) -> RequestTrace:
    """The trace of a file, read once while the file stays as it is."""
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return _read(path, format, sort, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)
def _read(path: Path, format: str | None, sort: bool, _time: int, _size: int) -> RequestTrace:
    return read_trace(path, format, sort=sort)


def _median(values: Any) -> int:
    return max(1, int(np.median(values)))


def _given(value: float | None) -> float:
    assert value is not None  # the workload's own check has seen to it
    return value
