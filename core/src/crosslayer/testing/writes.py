"""Which files a piece of code wrote: what Python itself reports through its audit events."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crosslayer.places import cache_dir

_watchers: list[list[Path]] = []
_installed = False
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_TARGETS = {
    "os.mkdir": 0,
    "os.rename": 1,
    "os.link": 1,
    "os.symlink": 1,
    "os.truncate": 0,
    "os.remove": 0,
}


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watchers:
        return
    target: Any = None
    if event == "open":
        path, mode, flags = arguments
        writes = any(letter in mode for letter in "wax+") if mode else bool((flags or 0) & _WRITES)
        target = path if writes else None
    elif event in _TARGETS:
        target = arguments[_TARGETS[event]]
    if isinstance(target, str | bytes | os.PathLike):
        path = Path(os.path.abspath(os.fsdecode(target)))
        for watcher in _watchers:
            watcher.append(path)


@contextlib.contextmanager
def watched_writes() -> Iterator[list[Path]]:
    """Collects absolute paths that this process opens for writing, makes, renames to or removes."""
    global _installed
    if not _installed:  # an audit hook cannot be taken away again, so there is one for all watchers
        sys.addaudithook(_listen)
        _installed = True
    seen: list[Path] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)


def strays(seen: list[Path], output: Path) -> list[Path]:
    """Those outside the output folder, the cache, temporary files, devices and byte code."""
    allowed = [output, cache_dir(), Path("/dev"), Path("/proc")]
    for name in ("HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"):
        if os.environ.get(name):
            allowed.append(Path(os.environ[name]))
    temporary = Path(tempfile.gettempdir())
    roots = [root.resolve() for root in allowed]
    found = []
    for path in dict.fromkeys(seen):
        whole = path.resolve()
        anonymous = whole.parent == temporary.resolve() and whole.name.startswith("tmp")
        if (
            not anonymous
            and "__pycache__" not in whole.parts
            and not any(whole.is_relative_to(r) for r in roots)
        ):
            found.append(path)
    return found
