"""Where a pipeline comes from (a file, or Python), and problems that point into it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosslayer.errors import InputError
from crosslayer.pipeline.toml_lines import KeyPath, NestedTooDeep, Position, key_positions

LARGEST_BYTES = 1_000_000
TOO_DEEP = "is nested too deeply; a pipeline needs no more than a few levels"

_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a pipeline: where, and a sentence that says the way out.

    line, column: from 1; None for a pipeline made in Python, or where the whole file is meant. key:
    as "transform[0].sparsity". exit_code: 2 the user's input, 3 a plugin or a dependency, 4 a
    component failed.
    """

    file: str
    line: int | None
    column: int | None
    key: str
    message: str
    exit_code: int = 2

    def __str__(self) -> str:
        place = ":".join(
            str(part) for part in (self.file, self.line, self.column) if part is not None
        )
        return f"{place}: {self.message}"


class PipelineErrors(InputError):
    """A pipeline cannot run; `problems` has all that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        codes = {problem.exit_code for problem in self.problems}
        self.exit_code = 2 if 2 in codes else min(codes, default=2)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Source:
    """A pipeline as data, the name it is reported under, and where its keys stand."""

    file: str
    folder: Path
    document: dict[str, Any]
    positions: dict[KeyPath, Position] = field(default_factory=dict)

    def problem(self, path: KeyPath, message: str, exit_code: int = 2) -> Problem:
        """A problem at a key path; a key that is not there is reported at the table that should
        hold it.
        """
        at = path
        while at and at not in self.positions:
            at = at[:-1]
        line, column = self.positions.get(at, (1, 1) if self.positions else (None, None))
        return Problem(self.file, line, column, key_text(path), message, exit_code)


def key_text(path: KeyPath) -> str:
    """("transform", 0, "sparsity") as "transform[0].sparsity"."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def read_source(path: Path) -> Source | Problem:
    """The file as data, or what keeps it from being read."""

    def bad(message: str, line: int | None = None, column: int | None = None) -> Problem:
        return Problem(str(path), line, column, "", message)

    try:
        if path.is_dir():
            return bad("is a directory; name the pipeline file in it")
        if path.exists() and not path.is_file():
            return bad("is no regular file; save the pipeline to one")
        with path.open("rb") as stream:
            raw = stream.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        return bad("there is no such file")
    except OSError as error:
        return bad(f"cannot be read: {error.strerror}")
    if len(raw) > LARGEST_BYTES:
        return bad(f"is larger than {LARGEST_BYTES:,} bytes, the most a pipeline file may have")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        return bad(f"is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}", line)
    if text.startswith("\ufeff"):
        return bad("begins with a byte order mark; save it as UTF-8 without one", 1, 1)
    try:
        document = tomllib.loads(text)
        positions = key_positions(text)
    except tomllib.TOMLDecodeError as error:
        return bad(*_syntax(str(error), text))
    except NestedTooDeep as error:
        return bad(TOO_DEEP, *error.position)
    except RecursionError:
        return bad(TOO_DEEP, *_where_too_deep(text))
    if not document:
        return bad("is empty; a pipeline needs at least a [model] table with a 'use' key", 1)
    return Source(str(path), path.absolute().parent, document, positions)


def _where_too_deep(text: str) -> Position | tuple[()]:
    """The place, in a text that tomllib could not read to its end."""
    try:
        key_positions(text)
    except NestedTooDeep as error:
        return error.position
    except (LookupError, AttributeError, ValueError):
        pass  # what comes before it is no TOML
    return ()


def _syntax(message: str, text: str) -> tuple[str, int, int]:
    """tomllib's sentence and its place; a table that is written twice gets the way out."""
    at = _AT.search(message)
    sentence = _AT.sub("", message)
    if at and at[1]:
        line, column = int(at[1]), int(at[2])
    else:
        last = text.rstrip("\n").split("\n")
        line, column = len(last), len(last[-1]) + 1
    twice = re.fullmatch(
        r"Cannot declare \('(model|accelerator|transform|instance|backend|simulate)',\) twice",
        sentence,
    )
    if twice:
        sentence = f"[{twice[1]}] appears twice; write [[{twice[1]}]] for each"
        if twice[1] in ("model", "accelerator"):
            sentence += ", with a name"
        return sentence, line, column
    return f"broken TOML: {sentence[:1].lower()}{sentence[1:]}", line, column
