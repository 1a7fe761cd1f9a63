"""Where a swept key stands in a pipeline: transform.flow.sparsity at ("transform", 0, "sparsity").

A table of which there are several is named by its own `name`, by the component it uses, or by its
place from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosslayer.errors import InputError, nearest
from crosslayer.pipeline.source import key_text
from crosslayer.pipeline.tables import TABLES
from crosslayer.pipeline.toml_lines import KeyPath
from crosslayer.sweeps.settings import Key, key_name

SWEPT = (*TABLES, "evaluate")


def locate(document: Mapping[str, Any], key: Key) -> KeyPath:
    """The path of the key in the data of a pipeline file. InputError with the nearest name."""
    table, *rest = key
    text = key_name(key)
    if table not in SWEPT:
        raise InputError(f"{text}: a pipeline has no table {table!r}; {nearest(table, SWEPT)}")
    value = document.get(table, {})
    path: KeyPath = (table,)
    if not isinstance(value, Mapping | list):
        raise InputError(f"{text}: {table} = {str(value)[:40]} stands where a table should")
    if isinstance(value, list):
        if not rest:
            raise InputError(f"{text}: names a table; add one of its keys")
        at = _place(table, value, rest[0], text)
        path, rest = (table, at), rest[1:]
    elif len(rest) > 1 and rest[0] not in value and rest[0] in _names(value):
        rest = rest[1:]  # the only model or accelerator, by its name
    elif table in ("transform", "simulate", "instance", "backend"):
        raise InputError(f"{text}: there is no [[{table}]]")
    if table == "evaluate" and rest and rest[0] not in value:
        raise InputError(f"{text}: nothing evaluates {rest[0]!r} here; {nearest(rest[0], value)}")
    if not rest:
        raise InputError(f"{text}: names a table; add one of its keys")
    return (*path, *rest)


def _place(table: str, rows: list[Any], name: str, text: str) -> int:
    """Which of several tables a name or a number means."""
    if name.isdecimal():
        if int(name) < len(rows):
            return int(name)
        raise InputError(f"{text}: there are {len(rows)} [[{table}]] tables, the first is 0")
    names = [_names(row) for row in rows]
    for rank in range(3):  # what a table is called comes before what it uses
        found = [at for at, of_row in enumerate(names) if name in of_row[rank : rank + 1]]
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(f"{table}.{at}" for at in found)
            raise InputError(f"{text}: {name!r} means {len(found)} tables; say which: {places}")
    known = [one for of_row in names for one in of_row if one]
    raise InputError(f"{text}: no {table} is called {name!r}; {nearest(name, known)}")


def _names(row: Any) -> tuple[str, ...]:
    """A table's name, what it uses, and that without its preset."""
    if not isinstance(row, Mapping):
        return ()
    use = str(row.get("use", row.get("model", "")))
    return str(row.get("name", "")), use, use.partition(":")[0]


def placed(document: Mapping[str, Any], values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """A copy of the data with these values in it. Errors: InputError for a key below a value that
    is no table.
    """
    changed: dict[str, Any] = _copied(document)
    for path, value in values.items():
        table: Any = changed
        for part, following in zip(path, (*path[1:], None), strict=True):
            at = part
            if isinstance(table, list):
                at = int(part) if str(part).isdecimal() else len(table)
                if at >= len(table):
                    raise InputError(f"{key_text(path)}: the list has no element {part!r}")
            elif not isinstance(table, dict):
                raise InputError(f"{key_text(path)}: there is no table above {part!r}")
            if following is None:
                table[at] = _copied(value)
            else:
                table = table.setdefault(at, {}) if isinstance(table, dict) else table[at]
    return changed


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(inner) for name, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value
