"""Where each key of a TOML document stands: tomllib keeps no line numbers.

`key_positions` reads text that tomllib has accepted, so it skips values instead of checking them.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]
Position = tuple[int, int]
DEEPEST = 64  # parts of a key path; a pipeline has five


class NestedTooDeep(ValueError):
    """A key path of more than DEEPEST parts begins at `position`."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"nested too deeply at {position}")
        self.position = position


_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_FILLER = re.compile(r"(?:[ \t\n]|#[^\n]*)*")  # what may stand between values and statements
_SCALAR = re.compile(r"[^,\]}#\n]+")
_BASIC = re.compile(r'"(?:[^"\\]|\\.)*"')
_LITERAL = re.compile(r"'[^']*'")
_LONG_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL)


def key_positions(text: str) -> dict[KeyPath, Position]:
    """(line, column), both from 1, of every table, key and array element of a valid TOML document.

    A key stands where it is written, an array element where its value begins, an element of an
    array of tables at its `[[`. A table that only longer headers or dotted keys imply stands where
    it is first implied. Errors: NestedTooDeep.
    """
    return _Reader(text.replace("\r\n", "\n")).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[KeyPath, int] = {}
        self.elements: dict[KeyPath, int] = {}  # how many `[[...]]` each array of tables has so far

    def read(self) -> dict[KeyPath, Position]:
        table: KeyPath = ()
        self.skip(_FILLER)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(_FILLER)
        starts = [0, *(match.end() for match in re.finditer("\n", self.text))]
        return {path: _line_and_column(starts, offset) for path, offset in self.found.items()}

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not valid TOML at character {self.at}")
        self.at = match.end()
        return match[0]

    def header(self) -> KeyPath:
        """`[a.b]` or `[[a.b]]`: the path of the table that the next pairs belong to."""
        start = self.at
        many = self.text.startswith("[[", start)
        self.at += 2 if many else 1
        *parents, (last, _) = self.key()
        self.at += 2 if many else 1
        path: KeyPath = ()
        for name, _ in parents:
            path = (*path, name)
            self.found.setdefault(path, start)
            if path in self.elements:  # a header under an array of tables means its last element
                path = (*path, self.elements[path] - 1)
        path = (*path, last)
        if not many:
            self.found[path] = start
            return path
        self.found.setdefault(path, start)
        self.elements[path] = self.elements.get(path, 0) + 1
        path = (*path, self.elements[path] - 1)
        self.found[path] = start
        return path

    def key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key with where each stands."""
        parts = []
        while True:
            self.skip(_BLANK)
            start = self.at
            quote = self.text[start]
            if quote in "\"'":
                raw = self.skip(_BASIC if quote == '"' else _LITERAL)
                parts.append((tomllib.loads(f"key = {raw}")["key"], start))
            else:
                parts.append((self.skip(_BARE), start))
            self.check_depth(len(parts), start)
            self.skip(_BLANK)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def pair(self, table: KeyPath) -> None:
        path = table
        for name, start in self.key():
            path = (*path, name)
            self.found.setdefault(path, start)
        self.at += 1  # the equals sign
        self.skip(_BLANK)
        self.value(path)

    def check_depth(self, depth: int, at: int) -> None:
        if depth > DEEPEST:
            starts = [0, *(match.end() for match in re.finditer("\n", self.text))]
            raise NestedTooDeep(_line_and_column(starts, at))

    def value(self, path: KeyPath) -> None:
        self.check_depth(len(path), self.at)
        rest = self.text[self.at : self.at + 3]
        if rest == '"""':
            self.skip(_LONG_BASIC)
        elif rest == "'''":
            self.skip(_LONG_LITERAL)
        elif rest[:1] == '"':
            self.skip(_BASIC)
        elif rest[:1] == "'":
            self.skip(_LITERAL)
        elif rest[:1] in ("[", "{"):
            self.container(path, "]" if rest[0] == "[" else "}")
        else:
            self.skip(_SCALAR)

    def container(self, path: KeyPath, end: str) -> None:
        """An array or an inline table; commas, newlines and comments lie between what it holds."""
        self.at += 1
        index = 0
        self.skip(_FILLER)
        while self.text[self.at] != end:
            if end == "}":
                self.pair(path)
            else:
                self.found[(*path, index)] = self.at
                self.value((*path, index))
                index += 1
            self.skip(_FILLER)
            if self.text[self.at] == ",":
                self.at += 1
                self.skip(_FILLER)
        self.at += 1


def _line_and_column(starts: list[int], offset: int) -> Position:
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1
