"""What a person writes: "key=v1,v2" on the command line, a table of points in a file."""

from __future__ import annotations

import csv
import io
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crosslayer.errors import InputError

Key = tuple[str, ...]

_PART = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s."'=]+))\s*(\.|$)""")
_OPENS, _CLOSES = "[{", "]}"


def read_key(text: str) -> Key:
    """ "transform.flow.sparsity" as its parts; a part with a dot in it is quoted. InputError."""
    parts, at = [], 0
    while match := _PART.match(text, at):
        basic, literal, bare, dot = match.groups()
        parts.append(next(part for part in (basic, literal, bare) if part is not None))
        at = match.end()
        if not dot:
            return tuple(parts)
    raise InputError(
        f"{text!r} is no key; write it as in transform.flow.sparsity, a part with a dot in quotes"
    )


def key_name(key: Key) -> str:
    """The parts as one text, which `read_key` takes apart again."""
    return ".".join(part if re.fullmatch(r"[^\s.\"'=]+", part) else f'"{part}"' for part in key)


def read_setting(text: str) -> tuple[Key, tuple[Any, ...]]:
    """ "key=v1,v2" as key and values: see `read_value`. Errors: InputError."""
    key, equals, values = text.partition("=")
    if not equals:
        raise InputError(f"--set {text!r} says no value; write key=value or key=value,value")
    found = tuple(read_value(value) for value in split(values))
    if None in found:
        raise InputError(f'--set {text!r} has an empty value; an empty text is written ""')
    return read_key(key.strip()), found


def split(text: str) -> Iterator[str]:
    """The parts between commas that stand in no quotes and no brackets."""
    start, depth, quote = 0, 0, ""
    for at, character in enumerate(text):
        if quote:
            if character == quote and text[at - 1] != "\\":
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in _OPENS:
            depth += 1
        elif character in _CLOSES:
            depth -= 1
        elif character == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]


def read_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none (2:4, flexcim); None for nothing at all."""
    text = text.strip()
    if not text:
        return None
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except (RecursionError, ValueError):  # thousands of brackets or digits
        raise InputError(f"{text[:40]}...: no pipeline has a value like that") from None
    value = found["value"]
    plain = isinstance(value, str | int | float | list | dict)
    return value if plain and len(found) == 1 else text  # a date is text: a pipeline has none


def read_points(path: Path) -> list[dict[Key, Any]]:
    """The points of a table: a .csv with a column a key, or a .toml with a [[point]] each.

    An empty cell leaves the value to the pipeline. Errors: InputError with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # with the mark that spreadsheets put first
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such table of points") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if path.suffix.lower() == ".csv":
        return _csv_points(path, text)
    if path.suffix.lower() != ".toml":
        raise InputError(f"{path}: a table of points is a .csv or a .toml file")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: broken TOML: {error}") from None
    rows = document.get("point")
    if not isinstance(rows, list) or not rows or set(document) != {"point"}:
        raise InputError(f"{path}: holds a [[point]] for each point, and nothing else")
    return [point(row) for row in rows]


def point(row: Mapping[str, Any]) -> dict[Key, Any]:
    """One point from keys with dots, or from tables in tables, or from both."""
    found: dict[Key, Any] = {}
    for name, value in row.items():
        for rest, inner in _leaves(value):
            found[(*read_key(name), *rest)] = inner
    return found


def _leaves(value: Any) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            for rest, leaf in _leaves(inner):
                yield (name, *rest), leaf
    else:
        yield (), value


def _csv_points(path: Path, text: str) -> list[dict[Key, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: broken CSV: {error}") from None
    if len(rows) < 2:
        raise InputError(f"{path}: has no points; its first line names keys, each other is a point")
    keys = [read_key(name) for name in rows[0][1]]
    if len(set(keys)) < len(keys):
        raise InputError(f"{path}:1: names a key twice")
    points = []
    for line, row in rows[1:]:
        if not row:
            continue
        if len(row) != len(keys):
            raise InputError(f"{path}:{line}: has {len(row)} cells for {len(keys)} keys")
        values = zip(keys, map(read_value, row), strict=True)
        points.append({key: value for key, value in values if value is not None})
    return points
