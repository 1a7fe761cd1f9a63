"""Things in the cache that are made once: whole or not at all, by one process at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from crosslayer.errors import DependencyError
from crosslayer.progress import Progress


def stored(
    target: Path,
    make: Callable[[Path], None],
    progress: Progress,
    what: str,
    present: Callable[[Path], bool] = Path.exists,
) -> Path:
    """`target`, a file or folder; if not `present`, `make(path)` writes it and it is renamed.

    The other place is a staging folder beside the target, so the rename is atomic; it goes away
    when `make` fails or is interrupted, and what a killed process left is swept by the next one. A
    lock file lets one process work while others wait and then find the result. `what` names the
    thing in messages.
    Errors: DependencyError where the folder cannot be written or is full.
    """
    if present(target):
        return target
    import fcntl

    prefix = f".{target.name}.staging-"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.parent / f".{target.name}.lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.say(f"{what}: another process is preparing it; waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if present(target):
                return target
            for left in target.parent.glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as stage:
                new = Path(stage, target.name)
                make(new)
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(new, target)
    except OSError as error:
        raise DependencyError(
            f"{what} cannot be stored in {target.parent}: {error.strerror or error}; make room, or "
            "set "
            "CROSSLAYER_CACHE_DIR to a folder that can be written"
        ) from error
    return target
