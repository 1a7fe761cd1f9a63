"""The points of a sweep: a grid, values side by side, or a table."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosslayer.errors import InputError
from crosslayer.rundir import readable
from crosslayer.sweeps.settings import Key, key_name, point, read_key, read_points

READABLE = 17  # characters of a point's values in its name


@dataclass(frozen=True)
class Point:
    """What is different at one point. id: its values in short and a hash of them, the same in every
    sweep that has this point.
    """

    id: str
    values: tuple[tuple[Key, Any], ...]

    @property
    def parameters(self) -> dict[str, Any]:
        """The values by the name of their key."""
        return {key_name(key): value for key, value in self.values}

    def __str__(self) -> str:
        return ", ".join(f"{name}={value_text(v)}" for name, v in self.parameters.items())


def value_text(value: Any) -> str:
    """A value in one line: text as it is, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def points_of(
    grid: Mapping[Any, Sequence[Any]],
    *,
    side_by_side: bool = False,
    table: str | Path | Iterable[Mapping[str, Any]] | None = None,
) -> tuple[Point, ...]:
    """The points in order: every combination (the last key changes fastest), or side by side the
    first values of all keys, then the second ones; or the rows of a table. Errors: InputError.
    """
    if table is not None:
        if grid or side_by_side:
            raise InputError("a sweep takes a table of points or values of keys, not both")
        if isinstance(table, str | Path):
            rows = read_points(Path(table))
        else:
            rows = [point(row) for row in table]
        return _distinct(rows)
    if not grid:
        raise InputError(
            "a sweep needs something to vary; say --set key=value,value or name a --table"
        )
    keys = [read_key(key) if isinstance(key, str) else tuple(key) for key in grid]
    values = [_several(key, value) for key, value in zip(keys, grid.values(), strict=True)]
    if side_by_side:
        counts = {key_name(key): len(of_key) for key, of_key in zip(keys, values, strict=True)}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise InputError(f"values side by side must be equally many, but {said}")
        combined: Iterable[tuple[Any, ...]] = zip(*values, strict=True)
    else:
        combined = itertools.product(*values)
    return _distinct([dict(zip(keys, row, strict=True)) for row in combined])


def _several(key: Key, values: Any) -> Sequence[Any]:
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise InputError(f"{key_name(key)}: the values to take are a list, not {values!r}")
    found = [value.item() if hasattr(value, "item") else value for value in values]  # of NumPy
    if not found:
        raise InputError(f"{key_name(key)}: has no value to take")
    return found


def _distinct(rows: Sequence[Mapping[Key, Any]]) -> tuple[Point, ...]:
    points: dict[str, Point] = {}
    for row in rows:
        made = Point(_id(row), tuple(row.items()))
        if made.id in points:
            raise InputError(f"two points of the sweep are the same: {made}")
        points[made.id] = made
    if not points:
        raise InputError("the sweep has no points")
    return tuple(points.values())


def _id(row: Mapping[Key, Any]) -> str:
    try:
        text = json.dumps(sorted((list(key), value) for key, value in row.items()), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"a point holds a value that no pipeline can have: {error}") from None
    values = (value_text(value).rpartition(":")[2] for value in row.values())  # without "roofline:"
    short = readable("-".join(values))[:READABLE].strip("-.") or "point"
    return f"{short}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
