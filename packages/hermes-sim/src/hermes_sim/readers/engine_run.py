"""Real runs of an engine, in the files that LLMServingSim records.

https://github.com/casys-kaist/LLMServingSim (MIT). A run is a folder with meta.json (the engine's
settings) and requests.jsonl (request_id, input_toks, output_toks, arrival_time in epoch seconds,
and the engine's monotonic queued_ts, scheduled_ts, first_token_ts, last_token_ts in seconds).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
    request.
    """

    engine: Mapping[str, Any]
    arrival_s: Floats
    queued_s: Floats
    scheduled_s: Floats
    first_token_s: Floats
    last_token_s: Floats
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.arrival_s)


_STAMPS = ("arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")


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
    stamps, lengths = _requests(folder / "requests.jsonl")
    order = np.argsort(stamps[:, 0], kind="stable")
    stamps, lengths = stamps[order], lengths[order]
    arrival = stamps[:, 0] - stamps[:, 0].min()
    clock = stamps[:, 1:] - stamps[:, 1].min()
    queued, scheduled, first, last = clock.T
    return EngineRun(engine, arrival, queued, scheduled, first, last, lengths[:, 0], lengths[:, 1])


def _requests(path: Path) -> tuple[Floats, NDArray[np.int64]]:
    stamps, lengths = [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text: {error.reason}") from None
    for number_, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            stamps.append([float(row[name]) for name in _STAMPS])
            lengths.append([int(row["input_toks"]), int(row["output_toks"])])
        except KeyError as error:
            raise InputError(f"{path}:{number_}: {error.args[0]} is missing") from None
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"{path}:{number_}: cannot be read: {error}") from None
        if not all(0 <= stamp <= LAST_NS / 1e9 for stamp in stamps[-1]):
            raise InputError(f"{path}:{number_}: holds a time that is none")
        if not all(1 <= length <= LONGEST_OUTPUT for length in lengths[-1]):
            raise InputError(f"{path}:{number_}: holds a length that is not 1 to {LONGEST_OUTPUT}")
    if not stamps:
        raise InputError(f"{path}: there is no request in the file")
    return np.array(stamps), np.array(lengths, dtype=np.int64)
