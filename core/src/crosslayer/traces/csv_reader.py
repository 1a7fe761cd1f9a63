"""Reads CSV traces: chunk by chunk as columns, and line by line where a chunk is not plain."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crosslayer.contracts.requests import RequestTrace
from crosslayer.traces import cells, vectors
from crosslayer.traces.chunks import Chunk, chunks
from crosslayer.traces.formats import CsvColumn, CsvFormat
from crosslayer.traces.problems import Problems
from crosslayer.traces.rows import Ints, Lines, Names, joined, no_rows, order_of, trace_of

_CELL: dict[str, Callable[[str], int]] = {
    "seconds": lambda text: cells.scaled(text, 1_000_000_000),
    "count": cells.whole,
}


def read_csv(path: Path, layout: CsvFormat, header_line: int, sort: bool) -> RequestTrace:
    """The trace of a CSV file. Errors: TraceErrors with the first 20 problems."""
    reader = _Reader(path, layout)
    for chunk in chunks(path):
        if chunk.first_line <= header_line:  # the header, and blank lines before it
            skip = header_line + 1 - chunk.first_line
            after = chunk.data.split(b"\n", skip)[skip:]
            if not after or not after[0]:
                continue
            chunk = Chunk(after[0], header_line + 1)
        reader.add(chunk)
    return reader.trace(sort, header_line)


class _Reader:
    def __init__(self, path: Path, layout: CsvFormat) -> None:
        self.layout = layout
        self.problems = Problems(str(path))
        self.file = str(path)
        self.lines = Lines()
        self.times: list[Ints] = []
        self.zoned: bool | None = None
        self.counts: dict[str, list[Ints]] = {}
        self.names: dict[str, Names] = {}
        for column in layout.columns:
            if column.kind == "count":
                self.counts[column.field] = []
            elif column.kind == "name":
                self.names[column.field] = Names()

    def add(self, chunk: Chunk) -> None:
        """The rows of a chunk."""
        plain = vectors.split(chunk.data, len(self.layout.columns))
        columns = None if plain is None else self._plain(plain)
        if columns is None:
            columns = self._careful(chunk)
        else:
            assert plain is not None
            self.lines.run(chunk.first_line, len(plain))
        for column, values in zip(self.layout.columns, columns, strict=True):
            if column.kind in ("instant", "seconds"):
                self.times.append(values)
            elif column.kind == "count":
                self.counts[column.field].append(values)
            elif column.kind == "name":
                self.names[column.field].pieces.append(values)

    def _plain(self, plain: vectors.Cells) -> list[Ints] | None:
        columns: list[Ints] = []
        for column, start, end in zip(self.layout.columns, plain.starts, plain.ends, strict=True):
            values: Ints | None = start
            if column.kind == "instant":
                found = vectors.instants(plain.data, start, end)
                if found is None or self.zoned not in (None, found[1]):
                    return None
                values, self.zoned = found
            elif column.kind == "seconds":
                values = vectors.seconds(plain.data, start, end)
            elif column.kind == "count":
                values = vectors.digits(plain.data, start, end)
            elif column.kind == "name":
                values = vectors.labels(plain.data, start, end, self.names[column.field].known)
            if values is None:
                return None
            columns.append(values)
        return columns

    def _careful(self, chunk: Chunk) -> list[Ints]:
        columns: list[list[int]] = [[] for _ in self.layout.columns]
        lines = chunk.data.split(b"\n")
        for i, raw in enumerate(lines):
            raw = raw.removesuffix(b"\r")
            if not raw.strip():
                continue
            row = self._row(raw, chunk.first_line + i)
            if row is not None:
                self.lines.one(chunk.first_line + i)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
        return [_array(column) for column in columns]

    def _row(self, raw: bytes, line: int) -> list[int] | None:
        """One line, or None with its problems reported."""
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            at = len(raw[: error.start].decode("utf-8")) + 1
            bad = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
            self.problems.add(line, at, "", bad)
            return None
        try:
            parts = next(csv.reader([text]), [])
        except csv.Error as error:
            self.problems.add(line, 1, "", f"is no row of CSV: {error}")
            return None
        wanted = len(self.layout.columns)
        if len(parts) != wanted:
            how = "cut off" if len(parts) < wanted else "too long"
            message = f"the row has {len(parts)} cells, not {wanted}: it is {how}"
            self.problems.add(line, len(text) + 1, "", message)
            return None
        row: list[int] = []
        good = True
        for j, (column, cell) in enumerate(zip(self.layout.columns, parts, strict=True)):
            try:
                row.append(self._cell(column, cell))
            except ValueError as error:
                good = False
                at = _starts(text)[j] + 1
                self.problems.add(line, at, column.name, f"{column.name} {error}")
        return row if good else None

    def _cell(self, column: CsvColumn, cell: str) -> int:
        if column.kind == "ignored":
            return 0
        if column.kind == "name":
            return self.names[column.field].code(cell)
        if column.kind != "instant":
            return _CELL[column.kind](cell)
        value, zoned = cells.instant(cell)
        if self.zoned not in (None, zoned):
            which = "has a time zone, the rows before have none"
            raise ValueError(which if zoned else "has no time zone, the rows before have one")
        self.zoned = zoned
        return value

    def trace(self, sort: bool, header_line: int) -> RequestTrace:
        """What was read."""
        times = joined(self.times)
        order = order_of(times, self.lines, self.problems, sort, self.layout.columns[0].name)
        self.problems.raise_any()
        if not len(times):
            raise no_rows(self.file, header_line + 1)
        counts = {name: joined(pieces) for name, pieces in self.counts.items()}
        return trace_of(times, counts["prompt_tokens"], counts["output_tokens"], self.names, order)


def _starts(text: str) -> list[int]:
    """Where each cell of a line begins; a comma between quotes separates nothing."""
    starts, quoted = [0], False
    for i, character in enumerate(text):
        quoted ^= character == '"'
        if character == "," and not quoted:
            starts.append(i + 1)
    return starts


def _array(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)
