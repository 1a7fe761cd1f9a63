"""`crosslayer doctor`: is this installation usable, and what would make it better?

Broken (exit 3): a requirement not met, a plugin that failed, a stranger's distribution under one of
our names, a cache that cannot be written. All else is information.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosslayer.catalogue import WrongDistribution, wrong_distributions
from crosslayer.component import PROJECT
from crosslayer.discovery import core_version, discover
from crosslayer.doctor_packages import (
    Dependency,
    OptionalModule,
    dependencies,
    optional,
)
from crosslayer.errors import CrosslayerError
from crosslayer.loading import one_line
from crosslayer.machine import THREAD_VARIABLES, machine_facts
from crosslayer.places import cache_dir
from crosslayer.registry import KINDS, Failure, Registry

SETTINGS = ("CROSSLAYER_CACHE_DIR", "CROSSLAYER_OFFLINE", "CROSSLAYER_PLUGINS", "CROSSLAYER_STRICT")
LIVE_BYTES = 4  # live modules compute in fp32


@dataclass(frozen=True, slots=True)
class Cache:
    """Where the cache is or would be, whether it can be written, bytes that are free there."""

    path: str
    exists: bool
    writable: bool
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Needs:
    """What a built-in asset takes. download_bytes: over the network; disk_bytes: in the cache at
    the end; peak_bytes: there on the way; memory_bytes: each live copy in fp32, 0 for a text.
    """

    name: str
    present: bool
    download_bytes: int
    disk_bytes: int
    peak_bytes: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Plugin:
    """A distribution that registers components, and how many."""

    distribution: str
    version: str
    file: str
    components: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that `doctor` prints. broken: what must be repaired; notes: what may surprise."""

    version: str
    environment: dict[str, Any]
    dependencies: tuple[Dependency, ...]
    plugins: tuple[Plugin, ...]
    failures: tuple[Failure, ...]
    wrong_distributions: tuple[WrongDistribution, ...]
    optional: tuple[OptionalModule, ...]
    cache: Cache
    offline: bool
    needs: tuple[Needs, ...]
    broken: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 when usable, 3 when something is broken."""
        return 3 if self.broken else 0

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as plain data."""
        return {"usable": not self.broken} | asdict(self)


def examine(only: Iterable[str] | None = None) -> Diagnosis:
    """Look at everything. only: the plugins to load, as `discover` takes them; none stops it."""
    registry = discover(only=only, strict=False)
    met = dependencies()
    wrong = wrong_distributions()
    modules = optional(registry)
    cache = cache_state()
    environment = _environment()
    offline = os.environ.get("CROSSLAYER_OFFLINE", "0") not in ("", "0")
    broken = [one.problem for one in met if one.problem]
    broken += [str(failure) for failure in registry.failures]
    broken += [str(one) for one in wrong]
    if not cache.writable:
        broken.append(
            f"the cache {cache.path} cannot be written; repair its permissions, or set "
            "CROSSLAYER_CACHE_DIR to another folder"
        )
    needs: tuple[Needs, ...] = ()
    try:
        needs = asset_needs()
    except (CrosslayerError, ImportError) as error:
        broken.append(f"what the built-in models need cannot be found out: {one_line(error)}")
    notes = [one.problem for one in modules if one.problem]
    notes += shortages(needs, cache, environment["memory_available_bytes"], offline)
    return Diagnosis(
        version=core_version(),
        environment=environment,
        dependencies=met,
        plugins=_plugins(registry),
        failures=registry.failures,
        wrong_distributions=wrong,
        optional=modules,
        cache=cache,
        offline=offline,
        needs=needs,
        broken=tuple(broken),
        notes=tuple(notes),
    )


def _environment() -> dict[str, Any]:
    known = [name for name in (*SETTINGS, *THREAD_VARIABLES) if name in os.environ]
    return machine_facts() | {
        "executable": sys.executable,
        "implementation": platform.python_implementation(),
        "virtual_environment": sys.prefix != sys.base_prefix,
        "memory_available_bytes": available_memory(),
        "variables": {name: os.environ[name] for name in known},
    }


def available_memory() -> int | None:
    """Bytes that a new process can have: the system's, or its control group's if that is less."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        rows = {line.partition(":")[0]: line.split() for line in lines}
        found.append(int(rows["MemAvailable"][1]) * 1024)
    except (OSError, KeyError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # "max": ValueError
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found.append(max(0, limit - used + int(stat.get("inactive_file", 0))))
    except (OSError, ValueError):
        pass
    return min(found)


def _plugins(registry: Registry) -> tuple[Plugin, ...]:
    counts: dict[tuple[str, str, str], int] = {}
    for kind in KINDS:
        for one in registry.components(kind).values():
            key = (one.distribution, one.version, one.file)
            counts[key] = counts.get(key, 0) + 1
    for command in registry.commands.values():
        origin = command.origin
        counts.setdefault((origin.distribution, origin.version, origin.file), 0)
    core_first = sorted(counts, key=lambda key: key[0] != PROJECT)
    return tuple(Plugin(*key, components=counts[key]) for key in core_first)


def cache_state() -> Cache:
    """The cache folder; nothing is written to find out, the folder is not made."""
    path = cache_dir().absolute()
    there = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    usable = os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK) and _can_be(path)
    return Cache(str(path), os.path.isdir(path), usable, shutil.disk_usage(there).free)


def _can_be(path: Path) -> bool:
    """Whether a folder is there or could be made: its name is not too long, it may be looked at."""
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def asset_needs() -> tuple[Needs, ...]:
    """What each built-in model and text takes, from its pinned sizes and its spec."""
    from crosslayer.fetch import assets
    from crosslayer.models.presets import config_names

    return tuple(
        _model_needs(asset) if asset.name in config_names() else _text_needs(asset)
        for asset in assets()
    )


def _text_needs(asset: Any) -> Needs:
    # pip keeps the wheel twice for a moment: in its temporary folder and where it goes
    peak = 2 * asset.download_bytes + asset.bytes
    return Needs(asset.name, asset.present, asset.download_bytes, asset.bytes, peak, 0)


def _model_needs(asset: Any) -> Needs:
    from crosslayer.contracts.model import ModelSpec
    from crosslayer.models.presets import preset_config

    spec = ModelSpec.from_hf_config(preset_config(asset.name), name=asset.name)
    # the file as it came, and the weights converted from it
    disk = asset.bytes + spec.weight_bytes
    return Needs(
        name=asset.name,
        present=asset.present,
        download_bytes=asset.download_bytes,
        disk_bytes=disk,
        peak_bytes=max(disk, 2 * asset.download_bytes + asset.bytes),
        memory_bytes=LIVE_BYTES * spec.parameters,
    )


def shortages(
    needs: Iterable[Needs], cache: Cache, memory: int | None, offline: bool
) -> Iterable[str]:
    for one in needs:
        if offline and not one.present:
            yield (
                f"{one.name} is not in the cache and CROSSLAYER_OFFLINE forbids the network; "
                f"run `crosslayer fetch {one.name}` when online"
            )
        if not one.present and one.peak_bytes > cache.free_bytes:
            yield (
                f"{one.name} needs {one.peak_bytes / 1e6:.0f} MB in the cache, "
                f"{cache.free_bytes / 1e6:.0f} MB are free; set CROSSLAYER_CACHE_DIR to another "
                "disk"
            )
        if memory is not None and one.memory_bytes > memory:
            yield (
                f"{one.name} takes {one.memory_bytes / 1e6:.0f} MB of memory a live copy, "
                f"{memory / 1e6:.0f} MB are available; use it with live = false"
            )
