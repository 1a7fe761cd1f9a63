"""What is wrong with a trace file: every problem with its line and column, in one error."""

from __future__ import annotations

from dataclasses import dataclass

from crosslayer.errors import InputError

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. line, column: from 1, in characters; field: the trace's own name."""

    line: int
    column: int
    field: str
    message: str


class TraceErrors(InputError):
    """A trace file cannot be used. problems: the first 20 in the order of the file; count: all."""

    def __init__(self, file: str, problems: tuple[Problem, ...], count: int) -> None:
        self.file, self.problems, self.count = file, problems, count
        lines = [f"{file}:{one.line}:{one.column}: {one.message}" for one in problems]
        if count > len(problems):
            lines.append(f"... and {count - len(problems)} more problems, {count} in all")
        super().__init__("\n".join(lines))


class Problems:
    """Collects problems: keeps the first of them, counts the rest."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.count = 0
        self._kept: list[Problem] = []

    def add(self, line: int, column: int, field: str, message: str) -> None:
        """One more. Those of one pass come in the order of the file."""
        self.count += 1
        if len(self._kept) < 2 * SHOWN:
            self._kept.append(Problem(line, column, field, message))

    def more(self, count: int) -> None:
        """Problems that are counted only."""
        self.count += count

    def raise_any(self) -> None:
        """Errors: TraceErrors if there was a problem."""
        if self.count:
            kept = sorted(self._kept, key=lambda one: (one.line, one.column))
            raise TraceErrors(self.file, tuple(kept[:SHOWN]), self.count)


def refuse(file: str, message: str, line: int = 1, column: int = 1) -> TraceErrors:
    """The error of a file with one problem that makes reading on pointless."""
    return TraceErrors(file, (Problem(line, column, "", message),), 1)
