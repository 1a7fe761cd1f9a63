"""Progress that a person sees: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO, TypeVar

T = TypeVar("T")


class Progress:
    """Silent. Components call `track` around long loops and `say` for one line."""

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """The same items; shows how many are done."""
        yield from items

    def say(self, line: str) -> None:
        """One line about what happens now."""


class PlainProgress(Progress):
    """Lines on a stream, at most one every few seconds for each loop."""

    def __init__(self, stream: TextIO | None = None, every_s: float = 5.0) -> None:
        self._stream = stream or sys.stderr
        self._every_s = every_s

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        if total is None:
            total = len(items) if isinstance(items, Sized) else None
        last = time.monotonic()
        for done, item in enumerate(items):
            if time.monotonic() - last > self._every_s:
                last = time.monotonic()
                self.say(f"{label}: {done}/{total}" if total else f"{label}: {done}")
            yield item


class BarProgress(PlainProgress):
    """A rich progress bar for each loop."""

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        from rich.console import Console
        from rich.progress import track

        if total is None:
            total = len(items) if isinstance(items, Sized) else None
        yield from track(
            items,
            description=label,
            total=total,
            console=Console(file=self._stream),
            transient=True,
        )


def progress_for(stream: TextIO | None = None, quiet: bool = False) -> Progress:
    """The progress that fits the stream (stderr by default)."""
    stream = stream or sys.stderr
    if quiet:
        return Progress()
    return BarProgress(stream) if stream.isatty() else PlainProgress(stream)
