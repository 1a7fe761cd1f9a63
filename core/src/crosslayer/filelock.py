"""Locks between processes, on files and folders. They end with their holder, however it ends.

Where the system or the file system has none, everything goes on as if nobody else were there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

YOUNG_S = 60.0  # a folder that is younger may be one that its maker does not hold yet


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file at `path`, made for this and removed afterwards; `on_wait` is called once
    if someone else holds it.
    """
    held = _hold(path, on_wait)
    try:
        yield
    finally:
        if held is not None:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is held: whoever waits for it sees that it is gone
            os.close(held)


def _hold(path: Path, on_wait: Callable[[], None]) -> int | None:
    if fcntl is None:
        return None
    told = False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    on_wait()
                told = True
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except FileNotFoundError:
            pass  # its holder removed it while we waited: take the new one
        except OSError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        os.close(file)


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Hold a folder that was just made, so that nobody takes it for abandoned."""
    handle = _hold_folder(folder, wait=True)  # someone may be looking at it for an instant
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def only_one(folder: Path) -> Iterator[bool]:
    """Hold a folder if nobody else does; False if another process has it."""
    handle = _hold_folder(folder, wait=False)
    try:
        yield handle is not None or fcntl is None
    finally:
        if handle is not None:
            os.close(handle)


def _hold_folder(folder: Path, wait: bool) -> int | None:
    if fcntl is None:
        return None
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if handle is not None:
            os.close(handle)
        return None
    return handle


def clear_abandoned(parent: Path, names: re.Pattern[str]) -> None:
    """Delete the folders of such names whose holders were killed: old, and held by nobody.

    Where there are no locks nothing is deleted.
    """
    for folder in parent.iterdir():
        held = _hold_folder(folder, wait=False) if names.fullmatch(folder.name) else None
        if held is None:
            continue
        try:
            if time.time() - folder.stat().st_mtime > YOUNG_S:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # someone else took it away
        finally:
            os.close(held)
