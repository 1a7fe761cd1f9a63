"""Rows as they come from a file, on their way to a trace: put in order, each with its line."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.requests import Labels, Prefixes, RequestTrace
from crosslayer.traces.problems import SHOWN, Problems, refuse

Ints = NDArray[np.int64]


class Lines:
    """Which line of the file each row is from: runs of rows on successive lines."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._lines: list[int] = []
        self.count = 0

    def run(self, first_line: int, rows: int) -> None:
        """The next rows stand on successive lines."""
        self._rows.append(self.count)
        self._lines.append(first_line)
        self.count += rows

    def one(self, line: int) -> None:
        """The next row stands on this line."""
        if self._rows and self._lines[-1] + self.count - self._rows[-1] == line:
            self.count += 1
        else:
            self.run(line, 1)

    def of(self, row: int) -> int:
        """The line of a row."""
        at = bisect_right(self._rows, row) - 1
        return self._lines[at] + row - self._rows[at]


@dataclass
class Names:
    """A column of names as it grows: pieces of codes, and the codes that are known."""

    known: dict[str, int] = field(default_factory=dict)
    pieces: list[Ints] = field(default_factory=list)

    def code(self, name: str | None) -> int:
        """The code of a name, a new one if need be; -1 for none."""
        return -1 if not name else self.known.setdefault(name, len(self.known))

    def labels(self, order: Ints | None) -> Labels | None:
        """The column; None where no row has a name."""
        if not self.known:
            return None
        codes = joined(self.pieces)
        return Labels(codes if order is None else codes[order], tuple(self.known))


def joined(pieces: Sequence[Ints]) -> Ints:
    """Pieces of a column in one array."""
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)


def order_of(times: Ints, lines: Lines, problems: Problems, sort: bool, column: str) -> Ints | None:
    """How to put rows in order of arrival; None if they are. Without `sort`, problems if not."""
    falls = np.flatnonzero(np.diff(times) < 0) + 1
    if not len(falls):
        return None
    if sort:
        return np.argsort(times, kind="stable")
    for row in falls[:SHOWN].tolist():
        before = f"{column} is before that of line {lines.of(row - 1)}"
        message = f"{before}; read with sort to put rows in order"
        problems.add(lines.of(row), 1, column, message)
    problems.more(max(0, len(falls) - SHOWN))
    return None


def trace_of(
    times: Ints,
    prompt_tokens: Ints,
    output_tokens: Ints,
    names: dict[str, Names],
    order: Ints | None,
    prefix: Prefixes | None = None,
    *,
    from_first: bool = True,
) -> RequestTrace:
    """The trace of these columns. from_first: arrivals count from the first of them."""
    if order is not None:
        times, prompt_tokens, output_tokens = (
            column[order] for column in (times, prompt_tokens, output_tokens)
        )
        prefix = prefix and reordered(prefix, order)
    labels = {name: one.labels(order) for name, one in names.items()}
    return RequestTrace(
        times - times[0] if from_first else times,
        prompt_tokens,
        output_tokens,
        prefix=prefix,
        session=labels.get("session"),
        slo_class=labels.get("slo_class"),
        model=labels.get("model"),
    )


def reordered(prefix: Prefixes, order: Ints) -> Prefixes:
    """The prefixes of calls in another order."""
    counts = np.diff(prefix.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    starts = prefix.offsets[:-1][order]
    at = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, counts)
    return Prefixes(prefix.block_tokens, offsets, prefix.hashes[at])


def no_rows(file: str, line: int) -> Exception:
    """The error of a file that has a header and nothing else."""
    return refuse(file, "there is no request in the file", line)


def first_requests(trace: RequestTrace, count: int | None) -> RequestTrace:
    """The first `count` requests of a trace; None: all."""
    if count is None or count >= len(trace):
        return trace
    calls = int(trace.first_call[count])
    prefix = trace.prefix
    if prefix is not None:
        offsets = prefix.offsets[: calls + 1]
        prefix = Prefixes(prefix.block_tokens, offsets, prefix.hashes[: offsets[-1]])

    def some(labels: Labels | None, rows: int) -> Labels | None:
        return None if labels is None else Labels(labels.codes[:rows], labels.names)

    return RequestTrace(
        trace.arrival_ns[:count],
        trace.prompt_tokens[:calls],
        trace.output_tokens[:calls],
        owner=None if trace.owner is None else trace.owner[:calls],
        ids=None if trace.ids is None else trace.ids[:count],
        deadline_ns=None if trace.deadline_ns is None else trace.deadline_ns[:count],
        session=some(trace.session, count),
        slo_class=some(trace.slo_class, count),
        model=some(trace.model, calls),
        prefix=prefix,
        whole=None if trace.whole is None else trace.whole[:count],
        recorded=trace.recorded,
    )
