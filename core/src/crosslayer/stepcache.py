"""Results of finished steps, by the hash of all that they depend on.

An entry is a folder of `entry.json` and the files that the step wrote; it appears whole, by a
rename. What does not match its own checksum is thrown away with a line and never used. When the
cache grows past its bound, the entries that were not used for longest go first. Everything here can
be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from crosslayer.filelock import clear_abandoned, exclusive, own_folder
from crosslayer.places import cache_dir
from crosslayer.progress import Progress

FORMAT = 1
BOUND_BYTES = 10 << 30
ABANDONED = re.compile(r"\.writing-\w+")  # what a killed run may leave


@dataclass(frozen=True)
class Entry:
    """A finished step: what it recorded, and the files it wrote, by their path below its output
    folder.
    """

    body: Mapping[str, Any]
    files: Mapping[str, Path]

    def put_files(self, output: Path) -> None:
        """Copies of the files below `output`, as the step wrote them."""
        for name, path in self.files.items():
            target = output / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


class StepCache:
    """The cache in a folder, by default `steps` in the user's; safe for several runs at once."""

    def __init__(
        self,
        folder: Path | None = None,
        progress: Progress | None = None,
        bound_bytes: int = BOUND_BYTES,
    ) -> None:
        self.folder = cache_dir("steps") if folder is None else folder
        self.progress = progress or Progress()
        self.bound_bytes = bound_bytes

    def get(self, key: str, what: str = "a step") -> Entry | None:
        """The entry of that key; None if there is none, or a broken one, which is deleted."""
        place = self.folder / key
        try:
            text = (place / "entry.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            return self._discard(place, what, str(error))
        try:
            entry = json.loads(text)
            body = entry["body"]
            if entry["sha256"] != _sha256_of(body):
                return self._discard(place, what, "its checksum is wrong")
            files = {name: place / "files" / name for name in body["files"]}
            for name, path in files.items():
                if sha256_file(path) != body["files"][name]:
                    return self._discard(place, what, f"its file {name} is not what was written")
        except (ValueError, KeyError, TypeError, OSError) as error:
            return self._discard(place, what, f"{type(error).__name__}: {error}")
        if body.get("format") != FORMAT:
            return self._discard(place, what, "it was written by another version")
        self._touch(place)
        return Entry(body["step"], files)

    def put(self, key: str, step: Mapping[str, Any], output: Path) -> None:
        """Keep what a step recorded (JSON values) and a copy of every file below `output`.

        A cache that cannot be written costs a line, not the run.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            clear_abandoned(self.folder, ABANDONED)
            with (
                tempfile.TemporaryDirectory(prefix=".writing-", dir=self.folder) as stage,
                own_folder(Path(stage)),
            ):
                new = Path(stage, "entry")
                digests = _copy_tree(output, new / "files")
                body = {"format": FORMAT, "step": step, "files": digests}
                entry = {"sha256": _sha256_of(body), "body": body}
                (new / "entry.json").write_text(json.dumps(entry), encoding="utf-8")
                try:
                    os.rename(new, self.folder / key)
                except OSError:
                    if not (self.folder / key).is_dir():  # else another run was faster
                        raise
            self._make_room(keep=key)
        except OSError as error:
            self.progress.say(
                f"step cache: {self.folder} cannot be written ({error.strerror or error}); "
                "going on without"
            )

    @contextmanager
    def making(self, key: str, what: str = "a step") -> Iterator[None]:
        """Nobody else who asks makes that entry meanwhile; waits for one who does already."""

        def say() -> None:
            self.progress.say(f"{what}: waiting for another run that does the same")

        with exclusive(self.folder / "locks" / key, say):
            yield

    @contextmanager
    def unfinished(self, key: str) -> Iterator[Path | None]:
        """A folder that stays if the step fails or is interrupted and has put something there, for
        its next run; None if the cache cannot be written. One that `making` holds has it alone.
        """
        folder = self.folder / "unfinished" / key
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder if os.access(folder, os.W_OK) else None
        except BaseException:
            with contextlib.suppress(OSError):
                folder.rmdir()  # empty, else it stays
            raise
        shutil.rmtree(folder, ignore_errors=True)

    def discard(self, key: str, what: str, reason: str) -> None:
        """Delete an entry that turned out to be of no use."""
        self._discard(self.folder / key, what, reason)

    def _discard(self, place: Path, what: str, reason: str) -> Entry | None:
        self.progress.say(f"step cache: the result of {what} is broken and was deleted: {reason}")
        shutil.rmtree(place, ignore_errors=True)
        return None

    @staticmethod
    def _touch(place: Path) -> None:
        with contextlib.suppress(OSError):  # a cache that is read-only keeps no order
            os.utime(place / "entry.json")

    def _make_room(self, keep: str) -> None:
        """Delete what was not used for longest until the rest fits the bound."""
        entries = []
        for place in self.folder.iterdir():
            try:
                used = (place / "entry.json").stat().st_mtime_ns
                size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            except OSError:
                continue  # another run is writing or deleting it
            entries.append((used, size, place))
        total = sum(size for _, size, _ in entries)
        for _, size, place in sorted(entries, key=lambda entry: entry[0]):
            if total <= self.bound_bytes:
                return
            if place.name != keep:
                shutil.rmtree(place, ignore_errors=True)
                total -= size


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256_of(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _copy_tree(source: Path, target: Path) -> dict[str, str]:
    """Copies regular files, no links, and says each one's SHA-256."""
    target.mkdir(parents=True)
    digests = {}
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.is_symlink():
            name = PurePosixPath(path.relative_to(source)).as_posix()
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
            digests[name] = sha256_file(target / name)
    return digests
