"""The fast way to read cells: whole columns of a chunk at once, as NumPy arrays of bytes.

Each function returns None for what is not plainly right; the careful way (`cells`) then reads the
same lines again, one by one, and either agrees or says what is wrong and where.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.calls import NANOSECONDS

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
_DAY_0 = date(1970, 1, 1).toordinal()
_COMMA, _NEWLINE, _RETURN, _DOT = 44, 10, 13, 46
_LONGEST_LABEL = 200


@dataclass(frozen=True, slots=True)
class Cells:
    """Where the cells of a chunk stand: `starts[j]`, `ends[j]` are of column j, one entry a row."""

    data: Bytes
    starts: tuple[Ints, ...]
    ends: tuple[Ints, ...]

    def __len__(self) -> int:
        return len(self.starts[0])


def split(raw: bytes, columns: int) -> Cells | None:
    """The cells of plain lines: ASCII, no quotes, no blank line, a cell for each column."""
    if not raw.isascii() or b'"' in raw or b"\0" in raw:
        return None
    data = np.frombuffer(raw, dtype=np.uint8)
    ends = np.flatnonzero(data == _NEWLINE)
    if not raw.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    if b"\r" in raw:
        ends = ends - (data[ends - 1] == _RETURN)
    commas = np.flatnonzero(data == _COMMA)
    if len(commas) != len(ends) * (columns - 1):
        return None
    inner = commas.reshape(len(ends), columns - 1)
    if (inner[:, 0] < starts).any() or (inner[:, -1] >= ends).any():
        return None
    return Cells(
        data,
        (starts, *(inner[:, j] + 1 for j in range(columns - 1))),
        (*(inner[:, j] for j in range(columns - 1)), ends),
    )


def digits(data: Bytes, starts: Ints, ends: Ints, most: int = 15) -> Ints | None:
    """Numbers of 1 to `most` digits and nothing else."""
    widths = ends - starts
    if not len(widths) or widths.min() < 1 or widths.max() > most:
        return None
    value = np.zeros(len(widths), dtype=np.int64)
    for place in range(int(widths.max())):
        # From the right; where a number has ended, its first digit is read again, at no weight.
        digit = data[np.maximum(ends - 1 - place, starts)] - np.uint8(48)
        if (digit > 9).any():
            return None
        value += np.where(place < widths, digit, 0).astype(np.int64) * 10**place
    return value


def _fractions(data: Bytes, starts: Ints, ends: Ints) -> Ints | None:
    """Nanoseconds of what follows the dot: 1 to 9 digits; none where start is end."""
    widths = ends - starts
    value = np.zeros(len(widths), dtype=np.int64)
    there = np.flatnonzero(widths > 0)
    if len(there):
        found = digits(data, starts[there], ends[there], 9)
        if found is None:
            return None
        value[there] = found * 10 ** (9 - widths[there])
    return value


def seconds(data: Bytes, starts: Ints, ends: Ints) -> Ints | None:
    """Decimal seconds, exactly in nanoseconds."""
    dots = np.append(np.flatnonzero(data == _DOT), len(data))
    dot = np.minimum(dots[np.searchsorted(dots, starts)], ends)
    if (dot + 1 == ends).any():
        return None
    before = digits(data, starts, dot, 9)
    after = _fractions(data, np.minimum(dot + 1, ends), ends)
    return None if before is None or after is None else before * NANOSECONDS + after


def instants(data: Bytes, starts: Ints, ends: Ints) -> tuple[Ints, bool] | None:
    """Dates with times of day, in nanoseconds since 1970 UTC, and whether they have zones.

    All with +hh:mm or -hh:mm, all with Z, or all without a zone, which counts as UTC.
    """
    if not len(starts) or (ends - starts).min() < 19:
        return None
    offset, zoned = np.zeros(len(starts), dtype=np.int64), False
    last = data[ends - 1]
    if (last == ord("Z")).all():
        ends, zoned = ends - 1, True
    elif (ends - starts).min() >= 25 and (data[ends - 3] == ord(":")).all():
        found = _zones(data, ends)
        sign = data[ends - 6]
        if found is not None and np.isin(sign, (ord("+"), ord("-"))).all():
            offset, ends, zoned = np.where(sign == ord("+"), found, -found), ends - 6, True
    clock = _clocks(data, starts)
    has_dot = ends > starts + 19
    if clock is None or (data[(starts + 19)[has_dot]] != _DOT).any():
        return None
    if (ends < starts + 19).any() or (ends == starts + 20).any():
        return None
    nanos = _fractions(data, np.minimum(starts + 20, ends), ends)
    return None if nanos is None else ((clock - offset) * NANOSECONDS + nanos, zoned)


def _zones(data: Bytes, ends: Ints) -> Ints | None:
    hours, minutes = digits(data, ends - 5, ends - 3), digits(data, ends - 2, ends)
    if hours is None or minutes is None or hours.max() > 23 or minutes.max() > 59:
        return None
    return hours * 3600 + minutes * 60


def _clocks(data: Bytes, starts: Ints) -> Ints | None:
    """Seconds since 1970 of `YYYY-MM-DD hh:mm:ss` (or with a T) at each start."""
    text = data[starts[:, None] + np.arange(19)]
    for at, marks in ((4, b"-"), (7, b"-"), (10, b" T"), (13, b":"), (16, b":")):
        if not np.isin(text[:, at], list(marks)).all():
            return None
    number = (text - np.uint8(48)).astype(np.int32)
    is_digit = np.delete(text, (4, 7, 10, 13, 16), axis=1) - np.uint8(48)
    if is_digit.max() > 9:
        return None

    def two(at: int) -> NDArray[np.int32]:
        pair: NDArray[np.int32] = number[:, at] * 10 + number[:, at + 1]
        return pair

    day = ((two(0) * 100 + two(2)) * 100 + two(5)) * 100 + two(8)
    hour, minute, second = two(11), two(14), two(17)
    if hour.max() > 23 or minute.max() > 59 or second.max() > 59:
        return None
    days, which = np.unique(day, return_inverse=True)
    try:
        numbers = [
            date(one // 10000, one // 100 % 100, one % 100).toordinal() - _DAY_0
            for one in days.tolist()
        ]
    except ValueError:
        return None
    if days[0] < 16780101 or days[-1] > 22611231:
        return None
    seconds_of_day = (hour * 60 + minute) * 60 + second
    total: Ints = np.array(numbers, dtype=np.int64)[which] * 86400 + seconds_of_day
    return total


def labels(data: Bytes, starts: Ints, ends: Ints, known: dict[str, int]) -> Ints | None:
    """Codes of names, -1 where a cell is empty; new names are added to `known`."""
    widths = ends - starts
    longest = int(widths.max())
    codes = np.full(len(widths), -1, dtype=np.int64)
    if longest > _LONGEST_LABEL:
        return None
    rows = np.flatnonzero(widths)
    if not len(rows):
        return codes
    at = np.arange(longest)
    text = data[np.minimum(starts[rows, None] + at, len(data) - 1)]
    text[at >= widths[rows, None]] = 0
    found, first, which = _distinct(text)
    if (text != text[first[which]]).any():  # two names with one hash
        return None
    new = [known.setdefault(bytes(one).rstrip(b"\0").decode(), len(known)) for one in found]
    codes[rows] = np.array(new, dtype=np.int64)[which]
    return codes


def _distinct(text: Bytes) -> tuple[Bytes, Ints, Ints]:
    """(the distinct rows in order of appearance, where each is first, which one each row is)."""
    code = np.zeros(len(text), dtype=np.uint64)
    for column in text.T:  # a hash sorts faster than text does
        code = code * np.uint64(0x9E3779B97F4A7C15) + column
        code ^= code >> np.uint64(29)
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return text[first[order]], first[order], place[which]
