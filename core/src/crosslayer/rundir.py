"""A run directory: written beside its place and moved there whole, so that a reader never sees half
a run.
"""

from __future__ import annotations

import contextlib
import hashlib
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

READABLE = 80  # characters of a folder name
RESERVED = (".failed", ".old", ".part", ".sweep")  # what stands beside the run of a name
OURS = ("run.json", "error.txt")  # one of them is in every run directory


def readable(text: str) -> str:
    """What of a text a folder name can hold: "SmolLM2 on a phone!" becomes "smollm2-on-a-phone"."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:READABLE].strip("-.")


def slug(name: str) -> str:
    """A name as a folder name that other names do not have.

    Capitals, spaces, dashes and underscores do not count; where more is lost, or the ending is
    reserved, a hash of the name follows: "SmolLM2 on a phone" becomes "smollm2-on-a-phone".
    """
    short = readable(name)
    if short == re.sub(r"[\s_-]+", "-", name.lower()).strip("-") and not short.endswith(RESERVED):
        return short or "run"
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{short[: READABLE - 9].strip('-.') or 'run'}-{digest}"


@contextmanager
def run_directory(place: Path) -> Iterator[Path]:
    """A new folder to write a run into; afterwards it stands at `place`.

    A run that was there is replaced, and stays untouched if this one fails: what a failed run has
    written then stands at `<place>.failed`, with error.txt. Of two at once, the later one stays.
    What runs of this place left that were killed is taken away. Errors: InputError, before anything
    is written, if something else than a run stands at one of the two.
    """
    runs, failed = place.parent, place.with_name(f"{place.name}.failed")
    for there in (place, failed):
        _refuse_what_is_no_run(there)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        names = rf"\.{re.escape(place.name)}-[a-z0-9_]{{8}}(\.old)?"
        clear_abandoned(runs, re.compile(names))
        staging = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=runs))
        staging.chmod(0o755)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"no run directory can be made in {runs}: it is a file or below one; take another"
        ) from error
    except OSError as error:
        raise InputError(
            f"no run directory can be made in {runs}: {error.strerror or error}"
        ) from error
    with own_folder(staging):
        try:
            yield staging
        except Exception:
            (staging / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            _replace(failed, staging)
            raise
        except BaseException:  # interrupted: leave nothing
            shutil.rmtree(staging, ignore_errors=True)
            raise
        _replace(place, staging)


def _refuse_what_is_no_run(place: Path) -> None:
    if not os.path.lexists(place):
        return
    is_folder = place.is_dir() and not place.is_symlink()
    if is_folder and any((place / name).is_file() for name in OURS):
        return
    what = "a folder that no run has written" if is_folder else "no folder"
    raise InputError(
        f"{place} is {what}, and a run would replace it; move it away, or give the run another name"
    )


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
