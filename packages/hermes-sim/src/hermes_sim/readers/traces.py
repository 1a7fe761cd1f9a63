"""Traces of other simulators, beside those that the core reads.

vidur: arrived_at,num_prefill_tokens,num_decode_tokens (seconds). splitwise: request_id,
request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size (seconds).
LLMServingSim: JSON lines of input_toks, output_toks, arrival_time_ns and perhaps input_tok_ids, of
which prefixes of 16 tokens are hashed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from crosslayer.contracts.calls import LAST_NS
from crosslayer.contracts.requests import Prefixes, RequestTrace
from crosslayer.errors import InputError, nearest
from crosslayer.traces import format_name, read_trace
from hermes_sim.readers.tables import header, number, rows, whole

BLOCK_TOKENS = 16
_COLUMNS = ("arrival_time_ns", "input_toks", "output_toks")  # of LLMServingSim
FORMATS = ("vidur", "splitwise", "llmservingsim")


def read_any(file: Path, format: str | None = None) -> tuple[RequestTrace, str]:
    """(trace, name of its format). format None: what it looks like.

    Errors: InputError naming file and line.
    """
    name = format or _looks_like(file)
    if name in FORMATS:
        readers: dict[str, Callable[[Path], RequestTrace]] = {
            "vidur": read_vidur, "splitwise": read_splitwise, "llmservingsim": read_llmservingsim
        }  # fmt: skip
        return readers[name](file), name
    try:
        return read_trace(file, name), name or format_name(file)
    except InputError as error:
        if format is not None and "no trace format" in str(error):
            known = ("azure-llm", "burstgpt", "mooncake", "crosslayer", *FORMATS)
            raise InputError(
                f"no trace format is called {format!r}; {nearest(format, known)}"
            ) from None
        raise


def _looks_like(file: Path) -> str | None:
    if file.suffix == ".gz":
        return None
    first = ",".join(header(file))
    if "num_prefill_tokens" in first:
        return "vidur"
    if "arrival_timestamp" in first and "prompt_size" in first:
        return "splitwise"
    return "llmservingsim" if '"input_toks"' in first else None


def read_vidur(file: Path) -> RequestTrace:
    """A processed trace of vidur; a length-only one has no arrivals and is refused."""
    columns = [("arrived_at", number), ("num_prefill_tokens", whole), ("num_decode_tokens", whole)]
    return _of_rows(file, [(line, *values) for line, values in rows(file, columns)])


def read_splitwise(file: Path) -> RequestTrace:
    """A trace of splitwise-sim."""
    columns = [("arrival_timestamp", number), ("prompt_size", whole), ("token_size", whole)]
    return _of_rows(file, [(line, *values) for line, values in rows(file, columns)])


def _of_rows(file: Path, table: list[tuple[int, float, int, int]]) -> RequestTrace:
    if not table:
        raise InputError(f"{file}: there is no request in the file")
    for (_, before, *_rest), (line, at, *_more) in pairwise(table):
        if at < before:
            raise InputError(f"{file}:{line}: arrives at {at} s, before the row above ({before} s)")
    if table[-1][1] > LAST_NS / 2e9:
        raise InputError(f"{file}:{table[-1][0]}: arrives after the end of time")
    arrival = np.rint(np.array([row[1] for row in table]) * 1e9)
    return RequestTrace(
        (arrival - arrival[0]).astype(np.int64),
        np.array([row[2] for row in table]),
        np.array([row[3] for row in table]),
    )


def read_llmservingsim(file: Path) -> RequestTrace:
    """A workload of LLMServingSim."""
    arrival, prompts, outputs = list[int](), list[int](), list[int]()
    hashes, offsets = list[int](), [0]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is no UTF-8 text: {error.reason}") from None
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
            if "sub_requests" in row:
                raise InputError(f"{file}:{line}: sessions with sub_requests are not read")
            for column, key in zip((arrival, prompts, outputs), _COLUMNS, strict=True):
                column.append(whole(str(row[key])))
            hashes += prefix_hashes(row.get("input_tok_ids") or [])
        except KeyError as error:
            raise InputError(f"{file}:{line}: {error.args[0]} is missing") from None
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"{file}:{line}: cannot be read: {error}") from None
        offsets.append(len(hashes))
        if len(arrival) > 1 and arrival[-1] < arrival[-2]:
            raise InputError(f"{file}:{line}: arrives before the line above")
    if not arrival:
        raise InputError(f"{file}: there is no request in the file")
    prefix = None
    if hashes:
        prefix = Prefixes(BLOCK_TOKENS, np.array(offsets), np.array(hashes, dtype=np.uint64))
    return RequestTrace(
        np.array(arrival) - arrival[0], np.array(prompts), np.array(outputs), prefix=prefix
    )


def prefix_hashes(tokens: list[int]) -> list[int]:
    """A hash a whole block of the tokens; each covers its block and all before it."""
    found = []
    state = hashlib.sha256()
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        state.update(np.array(tokens[start : start + BLOCK_TOKENS], dtype=np.int64).tobytes())
        found.append(int.from_bytes(state.digest()[:8], "little"))
    return found
