"""Reads a trace file of any known format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from crosslayer.contracts.requests import RequestTrace
from crosslayer.traces.chunks import first_lines
from crosslayer.traces.csv_reader import read_csv
from crosslayer.traces.formats import CsvFormat, check_format, format_of
from crosslayer.traces.mooncake import read_mooncake
from crosslayer.traces.own import read_own


def format_name(path: str | Path) -> str:
    """The name of a file's format, from its first line. Errors: TraceErrors if it has none."""
    first, line = first_lines(Path(path))
    found = format_of(first, str(path), line, None)
    return found if isinstance(found, str) else found.name


def read_trace(path: str | Path, format: str | None = None, *, sort: bool = False) -> RequestTrace:
    """The requests of a trace file (.gz too), in order of arrival.

    format: one of `FORMATS`; None: what the first line looks like. sort: put rows in order of
    arrival (rows of one instant stay as they are); without it, rows out of order are an error.
    Instants are exact nanoseconds, counted from the first request; our own format keeps its own,
    and says whether the requests are recorded; those of the public formats are.
    Errors: InputError for what cannot be opened; TraceErrors with the first 20 problems of the
    file, each with line and column, and the count of all.
    """
    file = Path(path)
    wanted = None if format is None else check_format(format)
    first, line = first_lines(file)
    found = format_of(first, str(file), line, wanted)
    if isinstance(found, CsvFormat):
        trace, recorded = read_csv(file, found, line, sort), True
    elif found == "mooncake":
        trace, recorded = read_mooncake(file, sort), True
    else:
        trace, recorded = read_own(file, line, sort), json.loads(first).get("recorded") is True
    return replace(trace, recorded=recorded)
