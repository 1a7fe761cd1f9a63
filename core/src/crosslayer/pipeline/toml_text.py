"""Writes TOML: the few kinds of value that a pipeline has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def toml_text(document: Mapping[str, Any]) -> str:
    """A document as TOML that tomllib reads back equal.

    Top-level tables get a header each, lists of tables `[[...]]`; whatever lies deeper is written
    inline. Keys whose value is None are left out: TOML has no null. Errors: TypeError for any other
    kind of value.
    """
    plain, tables = [], []
    for key, value in document.items():
        if isinstance(value, Mapping):
            tables.append(f"[{_key(key)}]\n{_pairs(value)}")
        elif (
            value
            and isinstance(value, list | tuple)
            and all(isinstance(item, Mapping) for item in value)
        ):
            tables += [f"[[{_key(key)}]]\n{_pairs(item)}" for item in value]
        else:
            plain.append(_pairs({key: value}))
    return "\n".join(["".join(plain), *tables] if plain else tables)


def _pairs(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(k)} = {_value(v)}\n" for k, v in table.items() if v is not None)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)  # inf and nan too are spelled as TOML spells them
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = [f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None]
        return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
    raise TypeError(f"TOML has no way to write {value!r}")
