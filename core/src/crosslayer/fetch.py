"""Real models and texts, too large or not ours to commit: downloaded once, checked, cached.

An asset is one file inside one pinned wheel (`assets.toml`). pip is the client, so that mirrors,
proxies and certificates that the user has set up are used. A file appears in the cache whole and
checked, or not at all: see `crosslayer.stored`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from crosslayer.errors import DependencyError, InputError, nearest
from crosslayer.places import cache_dir
from crosslayer.progress import Progress
from crosslayer.stored import stored


@dataclass(frozen=True)
class Asset:
    """One row of assets.toml: which member of which wheel, both with bytes and SHA-256."""

    summary: str
    licence: str
    requirement: str
    pip_options: tuple[str, ...]
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_bytes: int
    member_sha256: str


@dataclass(frozen=True)
class AssetStatus:
    """What `fetch --list` shows: where the file is or would be, and whether it is there.

    sha256: of the kept file. download_bytes: the wheel it comes in. bytes: the kept file.
    """

    name: str
    summary: str
    licence: str
    download_bytes: int
    bytes: int
    sha256: str
    path: Path
    present: bool


@cache
def catalogue() -> Mapping[str, Asset]:
    """The assets that ship with the core, by name."""
    return read_catalogue(resources.files("crosslayer").joinpath("assets.toml").read_text("utf-8"))


def read_catalogue(text: str) -> Mapping[str, Asset]:
    """Assets from the text of a file like assets.toml."""
    rows = tomllib.loads(text)
    return {
        name: Asset(**(row | {"pip_options": tuple(row.get("pip_options", ()))}))
        for name, row in rows.items()
    }


def assets(known: Mapping[str, Asset] | None = None) -> tuple[AssetStatus, ...]:
    """Every asset, by name; no network."""
    known = catalogue() if known is None else known
    return tuple(
        AssetStatus(
            name=name,
            summary=asset.summary,
            licence=asset.licence,
            download_bytes=asset.wheel_bytes,
            bytes=asset.member_bytes,
            sha256=asset.member_sha256,
            path=_path(name, asset),
            present=cached(name, known) is not None,
        )
        for name, asset in sorted(known.items())
    )


def cached(name: str, known: Mapping[str, Asset] | None = None) -> Path | None:
    """The asset's file if the cache holds it, byte for byte, else None; no network."""
    asset = _asset(name, known)
    path = _path(name, asset)
    return path if _is_whole(path, asset) else None


def _is_whole(path: Path, asset: Asset) -> bool:
    """Whether a file has the asset's SHA-256; hashed again only where size or time of change are
    not those of its stamp.
    """
    stamp = path.with_name(f".{path.name}.checked")
    try:
        found = path.stat()
        if not path.is_file() or found.st_size != asset.member_bytes:
            return False
        seen = f"{found.st_size} {found.st_mtime_ns} {asset.member_sha256}\n".encode()
        if stamp.is_file() and stamp.read_bytes() == seen:
            return True
        if _sha256(path) != asset.member_sha256:
            return False
    except OSError:
        return False
    with contextlib.suppress(OSError):  # a cache that cannot be written: hashed every time
        stamp.write_bytes(seen)
    return True


def fetch(
    name: str, progress: Progress | None = None, known: Mapping[str, Asset] | None = None
) -> Path:
    """The asset's file, downloaded first if the cache does not hold it.

    Safe to call from several processes at once: one downloads, the others wait and find it. A file
    that is not the asset's is deleted first, and named.
    Errors: InputError for an unknown name; DependencyError where there is no network or no pip,
    where a hash is wrong (the file is deleted) or the cache cannot be written.
    """
    progress = progress or Progress()
    asset = _asset(name, known)
    path = cached(name, known)
    if path is not None:
        return path
    target = _path(name, asset)

    def make(path: Path) -> None:
        if target.is_file():
            progress.say(f"{name}: {target} is damaged, its SHA-256 is another; it is deleted")
            target.unlink()
        if os.environ.get("CROSSLAYER_OFFLINE", "0") not in ("", "0"):
            raise DependencyError(
                f"{name} is not in the cache and CROSSLAYER_OFFLINE forbids the network; "
                f"{_later(name, asset)}"
            )
        _download(name, asset, path, progress)

    path = stored(target, make, progress, name, lambda path: cached(name, known) is not None)
    progress.say(f"{name}: stored as {path}")
    return path


def _asset(name: str, known: Mapping[str, Asset] | None) -> Asset:
    known = catalogue() if known is None else known
    if name not in known:
        raise InputError(f"no asset is called {name!r}; {nearest(name, known)}")
    return known[name]


def _path(name: str, asset: Asset) -> Path:
    return cache_dir("assets", name, asset.member.rsplit("/", 1)[-1])


def _later(name: str, asset: Asset) -> str:
    return f"run `crosslayer fetch {name}` when online, it will be stored as {_path(name, asset)}"


def _download(name: str, asset: Asset, path: Path, progress: Progress) -> None:
    """Wheel -> check -> member -> check, all beside `path`."""
    wheel = _pip_download(name, asset, path.parent, progress)
    _check(name, wheel, asset.wheel_sha256)
    with zipfile.ZipFile(wheel) as archive, path.open("wb") as out:
        with archive.open(asset.member) as source:
            shutil.copyfileobj(source, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())
    _check(name, path, asset.member_sha256, asset.member)


def _check(name: str, path: Path, expected: str, shown: str | None = None) -> None:
    got = _sha256(path)
    if got != expected:
        path.unlink()
        raise DependencyError(
            f"{name}: {shown or path.name} has SHA-256 {got}, expected {expected}; the file was "
            "deleted. "
            "Fetch it again, and if this repeats ask whoever runs your package mirror"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip_download(name: str, asset: Asset, stage: Path, progress: Progress) -> Path:
    """The wheel, downloaded by this Python's pip into `stage`; dependencies are not followed."""
    wheels, scratch = stage / "wheels", stage / "scratch"
    wheels.mkdir()
    scratch.mkdir()
    size = asset.wheel_bytes
    progress.say(f"{name}: downloading {asset.requirement}, {_megabytes(size)}, {asset.licence}")
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--disable-pip-version-check", "--no-input", "--quiet", "--progress-bar", "off"),
        *("--dest", str(wheels), *asset.pip_options, asset.requirement),
    ]
    # pip writes the download to the temporary folder first; inside the staging folder it shares its
    # fate.
    environment = os.environ | {"TMPDIR": str(scratch)}
    with (
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as pip,
        _watched(pip, lambda: progress.say(f"{name}: {_megabytes(_bytes_below(stage))} so far")),
    ):
        output, _ = pip.communicate()
    if "No module named pip" in output:
        raise DependencyError(
            f"fetching {name} needs pip and {sys.executable} has none; run `{sys.executable} -m "
            "ensurepip` "
            "(Debian: install python3-pip), then try again"
        )
    found = sorted(wheels.glob("*.whl"))
    if pip.returncode or len(found) != 1:
        if "No space left" in output:
            raise OSError(f"pip found no space left for {_megabytes(size)}")
        errors = [line for line in output.splitlines() if line.startswith("ERROR")] or ["no output"]
        reason = re.sub(r"//[^/@\s]*@", "//", errors[-1])  # an index address may carry a password
        raise DependencyError(
            f"{asset.requirement} could not be downloaded by pip ({reason}); {_later(name, asset)}"
        )
    return found[0]


@contextlib.contextmanager
def _watched(
    process: subprocess.Popen[str], tick: Callable[[], None], every_s: float = 10.0
) -> Iterator[None]:
    """Call `tick` every few seconds during the block; an exception in it ends the process."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every_s):
            tick()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException:
        process.kill()
        raise
    finally:
        done.set()
        watcher.join()


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
