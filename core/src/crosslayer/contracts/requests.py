"""Requests and traces of them: millions of calls as NumPy columns, any one of them as a `Request`.

What every request has in common is columns; what few have (stages, messages, reference answers)
stays a `Request` beside them, so that a plain trace costs a few dozen bytes a call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crosslayer.contracts.calls import (
    NANOSECONDS,
    LLMCall,
    Message,
    Parameters,
    Prefix,
    Request,
    Stage,
    in_order_of_arrival,
    nanoseconds,
    single,
)
from crosslayer.errors import InputError

__all__ = [
    "NANOSECONDS",
    "LLMCall",
    "Labels",
    "Message",
    "Parameters",
    "Prefix",
    "Prefixes",
    "Request",
    "RequestTrace",
    "Stage",
    "in_order_of_arrival",
    "nanoseconds",
    "single",
]

Column = NDArray[np.int64]
UNKNOWN = -1  # in a column: this row has no such value


def column(name: str, values: ArrayLike, low: int) -> Column:
    """A read-only int64 column. Errors: InputError for what is no row of whole numbers from
    `low` on.
    """
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"trace column {name}: whole numbers in one dimension are needed,"
            f" not {array.dtype} of shape {array.shape}"
        )
    if array.size and (int(array.min()) < low or int(array.max()) > np.iinfo(np.int64).max):
        row = int(array.argmin() if int(array.min()) < low else array.argmax())
        raise InputError(
            f"trace column {name}: row {row} holds {array[row]}, which is out of range"
        )
    array = array.astype(np.int64)
    array.flags.writeable = False
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """A column of names: `codes` holds positions in `names`, -1 for none."""

    codes: Column
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        codes = column("labels", self.codes, UNKNOWN)
        if codes.size and int(codes.max()) >= len(self.names):
            raise InputError(
                f"label code {int(codes.max())} has no name; there are {len(self.names)}"
            )
        object.__setattr__(self, "codes", codes)

    @classmethod
    def of(cls, names: Sequence[str | None]) -> Labels | None:
        """The column of these names, or None where no row has one."""
        known = {
            name: code for code, name in enumerate(dict.fromkeys(n for n in names if n is not None))
        }
        if not known:
            return None
        codes = np.array(
            [UNKNOWN if name is None else known[name] for name in names], dtype=np.int64
        )
        return cls(codes, tuple(known))

    def at(self, row: int) -> str | None:
        """The name in one row."""
        code = int(self.codes[row])
        return None if code < 0 else self.names[code]


@dataclass(frozen=True, slots=True, eq=False)
class Prefixes:
    """Prefix hashes of all calls in one array: those of call i are `hashes[offsets[i]:offsets[i
    + 1]]`.
    """

    block_tokens: int
    offsets: Column
    hashes: NDArray[np.uint64]

    def __post_init__(self) -> None:
        offsets = column("prefix offsets", self.offsets, 0)
        hashes = np.array(self.hashes, dtype=np.uint64)
        hashes.flags.writeable = False
        if self.block_tokens < 1 or not len(offsets) or offsets[0] or offsets[-1] != len(hashes):
            raise InputError(
                f"prefixes: blocks of {self.block_tokens} tokens, {len(offsets)} offsets for"
                f" {len(hashes)} hashes; offsets run from 0 to the number of hashes"
            )
        if (np.diff(offsets) < 0).any():
            raise InputError("prefixes: offsets must not fall")
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "hashes", hashes)

    @classmethod
    def of(cls, prefixes: Sequence[Prefix | None]) -> Prefixes | None:
        """The column of these prefixes; None where there is none, or where block sizes differ."""
        sizes = {prefix.block_tokens for prefix in prefixes if prefix is not None}
        if len(sizes) != 1:
            return None
        counts = [0 if prefix is None else len(prefix.hashes) for prefix in prefixes]
        hashes = [value for prefix in prefixes if prefix is not None for value in prefix.hashes]
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return cls(sizes.pop(), offsets, np.array(hashes, dtype=np.uint64))

    def at(self, row: int) -> Prefix | None:
        """The prefix of one call; None where it has no hashes."""
        found = self.hashes[self.offsets[row] : self.offsets[row + 1]]
        return (
            Prefix(block_tokens=self.block_tokens, hashes=tuple(found.tolist()))
            if len(found)
            else None
        )


@dataclass(frozen=True, slots=True, eq=False)
class RequestTrace:
    """Requests in order of arrival. Columns of requests [n] and of their calls [m]; m = n where
    each has one.

    Requests: arrival_ns; ids (None: the row's number); deadline_ns (-1: none); session; slo_class.
    Calls: prompt_tokens; output_tokens (-1: not known beforehand); owner, the request each belongs
    to (None: one call each); model; prefix. whole[i]: the request of row i where the columns cannot
    say all of it, else None. recorded: someone's real requests; else they were made. Errors:
    InputError for a column that falls, is negative or has another length, and for an id used twice.
    """

    arrival_ns: Column
    prompt_tokens: Column
    output_tokens: Column
    owner: Column | None = None
    ids: tuple[str, ...] | None = None
    deadline_ns: Column | None = None
    session: Labels | None = None
    slo_class: Labels | None = None
    model: Labels | None = None
    prefix: Prefixes | None = None
    whole: tuple[Request | None, ...] | None = None
    recorded: bool = False

    def __post_init__(self) -> None:
        lows = {"arrival_ns": 0, "prompt_tokens": 0, "output_tokens": UNKNOWN}
        for name, low in (lows | {"owner": 0, "deadline_ns": UNKNOWN}).items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, column(name, getattr(self, name), low))
        self._check_lengths()
        _never_falls("arrival_ns", self.arrival_ns)
        if self.ids is not None and len(set(self.ids)) < len(self.ids):
            twice = next(name for name, count in Counter(self.ids).items() if count > 1)
            raise InputError(f"request id {twice!r} is used twice; ids must be unique in a trace")
        if self.deadline_ns is not None:
            late = (self.deadline_ns >= 0) & (self.deadline_ns < self.arrival_ns)
            if late.any():
                raise InputError(
                    f"trace row {int(late.argmax())}: the deadline is before the arrival"
                )
        if self.owner is not None:
            _never_falls("owner", self.owner)
        self._check_whole()

    def _check_whole(self) -> None:
        first = self.first_call
        counts = np.diff(first)
        kept = self.whole or (None,) * len(self) if (counts != 1).any() else self.whole or ()
        for row, request in enumerate(kept):
            if request is None and counts[row] != 1:
                raise InputError(
                    f"trace row {row} has {counts[row]} calls in the columns"
                    " but no graph in `whole`"
                )
            if request is None:
                continue
            if request.id != self.id(row) or request.arrival_ns != self.arrival_ns[row]:
                raise InputError(
                    f"trace row {row}: `whole` and the columns differ in id or arrival"
                )
            tokens = self.prompt_tokens[first[row] : first[row + 1]].tolist()
            if [call.prompt_tokens for call in request.calls] != tokens:
                raise InputError(f"trace row {row}: `whole` and the columns differ in their calls")

    def _check_lengths(self) -> None:
        of_requests, of_calls = len(self.arrival_ns), len(self.prompt_tokens)
        one_each = self.owner is None
        lengths: dict[str, tuple[int | None, int]] = {
            "prompt_tokens": (of_calls, of_requests if one_each else of_calls),
            "ids": (_length(self.ids), of_requests),
            "deadline_ns": (_length(self.deadline_ns), of_requests),
            "session": (_length(self.session and self.session.codes), of_requests),
            "slo_class": (_length(self.slo_class and self.slo_class.codes), of_requests),
            "whole": (_length(self.whole), of_requests),
            "output_tokens": (len(self.output_tokens), of_calls),
            "owner": (_length(self.owner), of_calls),
            "model": (_length(self.model and self.model.codes), of_calls),
            "prefix.offsets": (_length(self.prefix and self.prefix.offsets), of_calls + 1),
        }
        for name, (length, wanted) in lengths.items():
            if length is not None and length != wanted:
                raise InputError(f"trace column {name} has {length} rows, not {wanted}")
        if self.owner is not None and of_calls and int(self.owner.max()) >= of_requests:
            raise InputError(
                f"trace column owner names row {int(self.owner.max())} of {of_requests}"
            )

    @classmethod
    def from_requests(cls, requests: Iterable[Request]) -> RequestTrace:
        """The trace of these requests, in order of arrival; `list(trace)` gives them back."""
        rows = list(in_order_of_arrival(requests))
        calls = [(row, call) for row, request in enumerate(rows) for call in request.calls]
        plain: dict[str, Any] = {
            "arrival_ns": [r.arrival_ns for r in rows],
            "prompt_tokens": [c.prompt_tokens for _, c in calls],
            "output_tokens": [
                UNKNOWN if c.output_tokens is None else c.output_tokens for _, c in calls
            ],
            "session": Labels.of([r.session for r in rows]),
            "slo_class": Labels.of([r.slo_class for r in rows]),
            "model": Labels.of([c.model for _, c in calls]),
            "prefix": Prefixes.of([c.prefix for _, c in calls]),
        }
        if any(r.deadline_ns is not None for r in rows):
            plain["deadline_ns"] = [
                UNKNOWN if r.deadline_ns is None else r.deadline_ns for r in rows
            ]
        if any(r.id != str(row) for row, r in enumerate(rows)):
            plain["ids"] = tuple(r.id for r in rows)
        index = [row for row, _ in calls]
        if index != list(range(len(rows))):
            plain["owner"] = index
        # First with every request beside it, to see for which rows the columns alone are enough.
        full = cls(**plain, whole=tuple(rows))
        single_call = np.diff(full.first_call) == 1
        rest = tuple(
            None if single_call[row] and full._from_columns(row) == request else request
            for row, request in enumerate(rows)
        )
        return cls(**plain, whole=rest if any(rest) else None)

    def __len__(self) -> int:
        return len(self.arrival_ns)

    def __iter__(self) -> Iterator[Request]:
        return (self.request(row) for row in range(len(self)))

    @property
    def first_call(self) -> Column:
        """[n + 1]: the calls of request i are rows first_call[i] to first_call[i + 1]."""
        if self.owner is None:
            return np.arange(len(self) + 1)
        return np.searchsorted(self.owner, np.arange(len(self) + 1))

    def id(self, row: int) -> str:
        """The id of one request."""
        return str(row) if self.ids is None else self.ids[row]

    def request(self, row: int) -> Request:
        """One row as a `Request`."""
        if not 0 <= row < len(self):
            raise InputError(f"trace row {row} does not exist; there are {len(self)} requests")
        kept = None if self.whole is None else self.whole[row]
        return self._from_columns(row) if kept is None else kept

    def _from_columns(self, row: int) -> Request:
        # Where each request has one call, its row is the request's own; else the trace says which.
        at = row if self.owner is None else int(np.searchsorted(self.owner, row))
        output = int(self.output_tokens[at])
        deadline = UNKNOWN if self.deadline_ns is None else int(self.deadline_ns[row])
        call = LLMCall(
            model=None if self.model is None else self.model.at(at),
            prompt_tokens=int(self.prompt_tokens[at]),
            prefix=None if self.prefix is None else self.prefix.at(at),
            output_tokens=None if output < 0 else output,
        )
        return Request(
            id=self.id(row),
            arrival_ns=int(self.arrival_ns[row]),
            nodes=(call,),
            session=None if self.session is None else self.session.at(row),
            deadline_ns=None if deadline < 0 else deadline,
            slo_class=None if self.slo_class is None else self.slo_class.at(row),
        )


def _never_falls(name: str, values: Column) -> None:
    falls = np.diff(values) < 0
    if falls.any():
        row = int(falls.argmax()) + 1
        raise InputError(
            f"trace column {name} falls from {values[row - 1]} to {values[row]} in row {row};"
            " sort the trace by arrival"
        )


def _length(values: Any) -> int | None:
    return None if values is None else len(values)
