"""A run directory: written beside its place and moved there whole, so that a reader never sees half
a run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crosslayer.errors import InputError
from crosslayer.filelock import clear_abandoned, own_folder


def slug(name: str) -> str:
    """A name as a folder name: "SmolLM2 on a phone!" becomes "smollm2-on-a-phone"."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:80] or "run"


@contextmanager
def run_directory(runs: Path, name: str) -> Iterator[Path]:
    """A new folder to write a run into; afterwards it stands at `runs/<slug of name>`.

    A run of the same name that was there is replaced, and stays untouched if this one fails: what a
    failed run has written then stands at `runs/<slug>.failed`, with error.txt. Of two at once, the
    later one stays. What runs of this name left that were killed is taken away.
    """
    place = runs / slug(name)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        names = rf"\.{re.escape(place.name)}-[a-z0-9_]{{8}}(\.old)?"
        clear_abandoned(runs, re.compile(names))
        staging = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=runs))
        staging.chmod(0o755)
    except OSError as error:
        raise InputError(
            f"no run directory can be made in {runs}: {error.strerror or error}"
        ) from error
    with own_folder(staging):
        try:
            yield staging
        except Exception:
            (staging / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            _replace(place.with_name(f"{place.name}.failed"), staging)
            raise
        except BaseException:  # interrupted: leave nothing
            shutil.rmtree(staging, ignore_errors=True)
            raise
        _replace(place, staging)


def _replace(place: Path, new: Path) -> None:
    """`new` at `place`; what was there goes away, whole."""
    old = new.with_name(f"{new.name}.old")
    for _ in range(20):
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, old)
        try:
            os.rename(new, place)
            return
        except OSError as error:  # another run put its own there in between: take that away too
            failure = error
        finally:
            shutil.rmtree(old, ignore_errors=True)
    raise failure
