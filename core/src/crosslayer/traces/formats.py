"""The formats of traces by name, and which one a file is, from its first line.

azure-llm: Azure's LLM inference traces, https://github.com/Azure/AzurePublicDataset (2023: times
with 7 digits of a second and no zone; 2024: 6 digits and a zone). burstgpt:
https://github.com/HPMLL/BurstGPT (files 1 and 2 without sessions, 3 with). mooncake:
https://github.com/kvcache-ai/Mooncake. crosslayer: our own, which holds all that a trace holds.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crosslayer.errors import InputError, nearest
from crosslayer.traces.problems import refuse

Kind = Literal["instant", "seconds", "count", "name", "ignored"]
OWN_VERSION = 1
OWN_KEY = "crosslayer_trace"
MOONCAKE_BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class CsvColumn:
    """A column of a CSV format: its name, what it holds, and the trace's field."""

    name: str
    kind: Kind
    field: str = ""


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """A CSV format; the first column is the time."""

    name: str
    columns: tuple[CsvColumn, ...]

    @property
    def header(self) -> tuple[str, ...]:
        """Names of its columns."""
        return tuple(column.name for column in self.columns)


AZURE = CsvFormat(
    "azure-llm",
    (
        CsvColumn("TIMESTAMP", "instant"),
        CsvColumn("ContextTokens", "count", "prompt_tokens"),
        CsvColumn("GeneratedTokens", "count", "output_tokens"),
    ),
)
_TIME = (CsvColumn("Timestamp", "seconds"),)
_SESSION = (CsvColumn("Session ID", "name", "session"), CsvColumn("Elapsed time", "ignored"))
_REST = (
    CsvColumn("Model", "name", "model"),
    CsvColumn("Request tokens", "count", "prompt_tokens"),
    CsvColumn("Response tokens", "count", "output_tokens"),
    CsvColumn("Total tokens", "ignored"),
    CsvColumn("Log Type", "name", "slo_class"),
)
BURSTGPT = CsvFormat("burstgpt", _TIME + _REST)
BURSTGPT_SESSIONS = CsvFormat("burstgpt", _TIME + _SESSION + _REST)
CSV_FORMATS = (AZURE, BURSTGPT, BURSTGPT_SESSIONS)
FORMATS = ("azure-llm", "burstgpt", "mooncake", "crosslayer")


def check_format(name: str) -> str:
    """The name itself. Errors: InputError with the nearest one if there is no such format."""
    if name not in FORMATS:
        raise InputError(f"no trace format is called {name!r}; {nearest(name, FORMATS)}")
    return name


def format_of(first: str, file: str, line: int, wanted: str | None) -> CsvFormat | str:
    """The format of a file by its first line: a CSV format, or "mooncake" or "crosslayer".

    Errors: TraceErrors with the nearest known format if there is none, or if it is not `wanted`.
    """
    found: CsvFormat | str | None = None
    if first.lstrip().startswith("{"):
        found = _json_format(first, file, line)
    if found is None:
        try:
            header = tuple(next(csv.reader([first])))
        except csv.Error as error:
            raise refuse(file, f"is no header of CSV: {error}", line) from None
        found = next((one for one in CSV_FORMATS if one.header == header), None)
        if found is None:
            raise refuse(file, _header_problem(header, wanted), line)
    name = found if isinstance(found, str) else found.name
    if wanted is not None and name != wanted:
        raise refuse(file, f"is in the format {name}, not {wanted}; leave the format out", line)
    return found


def _json_format(first: str, file: str, line: int) -> str:
    try:
        value = json.loads(first)
    except RecursionError:
        raise refuse(file, "is nested too deeply", line) from None
    except ValueError as error:
        column = getattr(error, "colno", 1)
        raise refuse(file, f"is no JSON: {getattr(error, 'msg', error)}", line, column) from None
    if OWN_KEY in value:
        if value[OWN_KEY] != OWN_VERSION:
            message = f"{OWN_KEY} is {value[OWN_KEY]!r}; this release reads {OWN_VERSION}"
            raise refuse(file, message, line)
        return "crosslayer"
    if "timestamp" in value or "input_length" in value or "hash_ids" in value:
        return "mooncake"
    keys = ", ".join(map(repr, list(value)[:8]))
    message = (
        f"JSON with the keys {keys} is no known trace; the nearest known formats are mooncake"
        f" (timestamp, input_length, output_length, hash_ids) and crosslayer (first line"
        f' {{"{OWN_KEY}": {OWN_VERSION}}})'
    )
    raise refuse(file, message, line)


def _header_problem(header: Sequence[str], wanted: str | None) -> str:
    """How the header differs from that of the nearest format."""
    candidates = [one for one in CSV_FORMATS if wanted in (None, one.name)] or list(CSV_FORMATS)

    def distance(one: CsvFormat) -> int:
        return len(set(one.header) ^ set(header))

    best = min(candidates, key=distance)
    missing = [name for name in best.header if name not in header]
    extra = [name for name in header if name not in best.header]
    if not missing and not extra:
        how = "its columns are in another order"
    else:
        said = [f"{', '.join(missing)} missing"] if missing else []
        said += [f"{', '.join(name[:40] for name in extra[:8])} unknown"] if extra else []
        how = "; ".join(said)
    known = f"{best.name} ({','.join(best.header)})"
    return f"unknown header; the nearest known format is {known}: {how}"
