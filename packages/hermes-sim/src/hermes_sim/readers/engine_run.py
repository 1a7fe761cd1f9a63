"""Real runs of an engine, in the files that LLMServingSim records.

https://github.com/casys-kaist/LLMServingSim (MIT). A run is a folder with meta.json (the engine's
settings) and requests.jsonl (request_id, input_toks, output_toks, arrival_time in epoch seconds,
and the engine's monotonic queued_ts, scheduled_ts, first_token_ts, last_token_ts in seconds).
A request that failed has no output tokens, or null or zero where a time was never taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.calls import LAST_NS, LONGEST_OUTPUT
from crosslayer.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EngineRun:
    """A real run, in order of arrival. Instants in seconds from the first arrival.

    engine: meta.json. queued_s, scheduled_s: by the engine's own clock, aligned at its first
    request. failed: requests that were never served, which are left out.
    """

    engine: Mapping[str, Any]
    arrival_s: Floats
    queued_s: Floats
    scheduled_s: Floats
    first_token_s: Floats
    last_token_s: Floats
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    failed: int = 0

    def __len__(self) -> int:
        return len(self.arrival_s)


_STAMPS = ("arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
_SERVED = _STAMPS[2:]


def read_run(folder: Path) -> EngineRun:
    """A run's folder. Errors: InputError with file and line for what is missing or no number."""
    meta = folder / "meta.json"
    try:
        engine = json.loads(meta.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{meta}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{meta}: is no JSON: {error}") from None
    if not isinstance(engine, dict):
        raise InputError(f"{meta}: an object of settings is needed")
    stamps, lengths, failed = _requests(folder / "requests.jsonl")
    order = np.argsort(stamps[:, 0], kind="stable")
    stamps, lengths = stamps[order], lengths[order]
    arrival = stamps[:, 0] - stamps[:, 0].min()
    clock = stamps[:, 1:] - stamps[:, 1].min()
    queued, scheduled, first, last = clock.T
    prompts, outputs = lengths.T
    return EngineRun(
        engine, arrival, queued, scheduled, first, last, prompts, outputs, failed
    )  # fmt: skip


def _requests(path: Path) -> tuple[Floats, NDArray[np.int64], int]:
    """(stamps, lengths) of the requests that were served, and how many were not."""
    stamps, lengths, failed = [], [], 0
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text: {error.reason}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("it is no object of named values")
            if _never_served(row):
                failed += 1
                continue
            times = [float(row[name]) for name in _STAMPS]
            tokens = [_count(row, name) for name in ("input_toks", "output_toks")]
        except KeyError as error:
            raise InputError(f"{path}:{number}: {error.args[0]} is missing") from None
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"{path}:{number}: cannot be read: {error}") from None
        if not all(0 <= stamp <= LAST_NS / 1e9 for stamp in times):
            raise InputError(f"{path}:{number}: holds a time that is none")
        if not all(1 <= length <= LONGEST_OUTPUT for length in tokens):
            raise InputError(f"{path}:{number}: holds a length that is not 1 to {LONGEST_OUTPUT}")
        for (before, at), (after, then) in pairwise(zip(_STAMPS[1:], times[1:], strict=True)):
            if then < at:
                raise InputError(f"{path}:{number}: {after} ({then}) lies before {before} ({at})")
        stamps.append(times)
        lengths.append(tokens)
    if not stamps:
        why = f"; {failed} failed" if failed else ""
        raise InputError(f"{path}: there is no request in the file that was served{why}")
    return np.array(stamps), np.array(lengths, dtype=np.int64), failed


def _never_served(row: dict[str, Any]) -> bool:
    """Whether it is a whole row of a request that got no token."""
    absent = [name for name in (*_STAMPS, "input_toks", "output_toks") if name not in row]
    if absent:
        raise KeyError(absent[0])
    began = isinstance(row["queued_ts"], int | float) and row["queued_ts"] > 0
    untimed = any(row[name] is None or (began and row[name] == 0) for name in _SERVED)
    return untimed or row["output_toks"] in (0, None)


def _count(row: dict[str, Any], name: str) -> int:
    """A whole number of tokens."""
    value = float(row[name])
    if value != int(value):
        raise ValueError(f"{name} is {row[name]!r}, no whole number")
    return int(value)
