"""Lines of JSON objects, and their fields with the place of what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from crosslayer.errors import nearest
from crosslayer.traces import cells
from crosslayer.traces.chunks import chunks
from crosslayer.traces.problems import Problems


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


# Fractions stay decimal, so that an instant of 12.3456789 ms is exact.
_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_number)


class BadField(ValueError):
    """A field cannot be used; the message begins with its name."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field} {message}")


def objects(
    path: Path, first: int, problems: Problems
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(line, text, object) of each line from line `first` on; what is none becomes a problem."""
    for chunk in chunks(path):
        for i, raw in enumerate(chunk.data.split(b"\n")):
            line = chunk.first_line + i
            if line < first or not raw.strip():
                continue
            text = ""
            try:
                text = raw.decode("utf-8").rstrip("\r")
                value, end = _DECODER.raw_decode(text.lstrip())
                end += len(text) - len(text.lstrip())
                if after := text[end:].lstrip():
                    at = len(text) - len(after) + 1
                    problems.add(line, at, "", "there is more on the line after the object")
                elif not isinstance(value, dict):
                    problems.add(line, 1, "", f"is {text.strip()[:40]}, not an object {{...}}")
                else:
                    yield line, text, value
            except UnicodeDecodeError as error:
                at = len(raw[: error.start].decode("utf-8")) + 1
                bad = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
                problems.add(line, at, "", bad)
            except json.JSONDecodeError as error:
                end = error.pos >= len(text) - 1 or error.msg.startswith("Unterminated")
                said = error.msg.lower() + (" (the line is cut off)" if end else "")
                problems.add(line, error.pos + 1, "", f"broken JSON: {said}")
            except ValueError as error:  # NaN, infinities, thousands of digits
                said = str(error)
                name = said.partition(" ")[0]
                if not said.endswith("JSON number"):
                    said = "a number of the line has thousands of digits"
                problems.add(line, max(text.find(name), 0) + 1, "", said)
            except RecursionError:
                problems.add(line, 1, "", "is nested too deeply")


def column_of(text: str, field: str) -> int:
    """Where a field's name stands on its line, from 1."""
    return max(text.find(f'"{field}"'), 0) + 1


def count(value: dict[str, Any], field: str, *, needed: bool = True) -> int:
    """A field that holds a whole number from 0 on; -1 where it may be missing and is.

    Errors: BadField.
    """
    number = value.get(field)
    if type(number) is int and 0 <= number < 2**63:
        return number
    if number is None and not needed:
        return -1
    return _exact(field, number, lambda text: cells.whole(text))


def instant(value: dict[str, Any], field: str, unit_ns: int) -> int:
    """A field that holds an instant in units of so many nanoseconds. Errors: BadField."""
    number = value.get(field)
    if type(number) is int and 0 <= number < 2**62 // unit_ns:
        return number * unit_ns
    return _exact(field, number, lambda text: cells.scaled(text, unit_ns))


def _exact(field: str, number: Any, read: Any) -> int:
    if number is None:
        raise BadField(field, "is missing")
    if isinstance(number, bool) or not isinstance(number, int | Decimal):
        raise BadField(field, f"is {number!r}; a number is needed")
    try:
        exact: int = read(str(number))
    except ValueError as error:
        raise BadField(field, str(error)) from None
    return exact


def name(value: dict[str, Any], field: str) -> str | None:
    """A field that holds a name, or is missing. Errors: BadField."""
    found = value.get(field)
    if isinstance(found, str) and re.search("[\ud800-\udfff]", found):
        raise BadField(field, f"is {found!r}, which holds half a character (a lone surrogate)")
    if found is None or (isinstance(found, str) and found):
        return found
    raise BadField(field, f"is {found!r}; a text is needed")


def hashes(value: dict[str, Any], field: str, prompt_tokens: int, block_tokens: int) -> list[int]:
    """A field that holds the prefix hashes of a prompt's blocks. Errors: BadField."""
    found = value.get(field)
    if not isinstance(found, list):
        how = "is missing" if found is None else f"is {found!r}; a list is needed"
        raise BadField(field, how)
    for one in found:
        if type(one) is not int or not 0 <= one < 2**64:
            raise BadField(field, f"holds {one!r}; whole numbers of 64 bits are needed")
    if len(found) > -(-prompt_tokens // block_tokens):
        blocks = f"{len(found)} blocks of {block_tokens} tokens"
        raise BadField(field, f"has {blocks} for a prompt of {prompt_tokens} tokens")
    return found


def no_others(value: Iterable[str], known: Iterable[str]) -> None:
    """Errors: BadField for a key that is not known."""
    for key in value:
        if key not in known:
            raise BadField(key, f"is an unknown key; {nearest(key, known)}")
