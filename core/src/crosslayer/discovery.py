"""Find plugins by entry point and load them one by one; what is broken is recorded, no more.

Discovery is a call, never a side effect of an import. Each plugin gets a plugin manager of its own,
so that nothing it registers, a hook wrapper for example, can reach what another plugin declares.
What a plugin raises is a recorded failure, SystemExit and KeyboardInterrupt too; only a SIGINT that
arrives meanwhile interrupts.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import signal
import sys
import threading
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy

from crosslayer import hookspecs
from crosslayer.catalogue import GROUP, packages
from crosslayer.component import PROJECT, RESERVED_COMMANDS, Command, Component
from crosslayer.errors import DependencyError, nearest
from crosslayer.hookspecs import COMMANDS_HOOK, HOOK_OF_KIND
from crosslayer.loading import one_line
from crosslayer.registry import (
    Failure,
    Origin,
    Registered,
    RegisteredCommand,
    Registry,
    Stage,
    kind_label,
)

HOOKS = (*HOOK_OF_KIND.values(), COMMANDS_HOOK)


class _Broken(Exception):
    """A plugin cannot be used; becomes a Failure."""

    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(reason)
        self.stage: Stage = stage
        self.reason = reason


def discover(*, only: Iterable[str] | None = None, strict: bool | None = None) -> Registry:
    """The built-in components and those of the installed plugins.

    only: names of the entry points to load (none of the others is imported); left out: what
    CROSSLAYER_PLUGINS names, comma-separated, or all. strict: the first failure is raised as
    DependencyError; left out: whether CROSSLAYER_STRICT is 1.
    """
    if only is None and "CROSSLAYER_PLUGINS" in os.environ:
        only = os.environ["CROSSLAYER_PLUGINS"].split(",")
    wanted = None if only is None else {name.strip() for name in only if name.strip()}
    if strict is None:
        strict = os.environ.get("CROSSLAYER_STRICT", "") not in ("", "0")

    components, commands = _built_in()
    failures: list[Failure] = []

    def record(point: str, distribution: str, version: str, broken: _Broken) -> None:
        failure = Failure(point, distribution, version, broken.stage, broken.reason)
        if strict:
            raise DependencyError(str(failure)) from broken
        failures.append(failure)

    points, unreadable = ([], {}) if wanted == set() else _entry_points()
    for name, broken in sorted(unreadable.items()):
        if wanted is None or name in wanted:
            record(name, name, "", broken)
    for name in sorted((wanted or set()) - {point.name for point in points} - set(unreadable)):
        hint = nearest(name, [point.name for point in points])
        record(name, "", "", _Broken("selection", f"no installed plugin has this name; {hint}"))

    loaded: dict[str, str] = {}  # entry point -> distribution
    with _interruptions() as interrupted:
        for point in points:
            if wanted is not None and point.name not in wanted:
                continue
            distribution, version = _name_and_version(point)
            try:
                if point.name in loaded:
                    raise _Broken(
                        "register", f"{loaded[point.name]} has an entry point of this name too"
                    )
                _check_core_version(point)
                more = _load(point, distribution, version, components, commands)
            except _Broken as broken:
                if interrupted:
                    raise KeyboardInterrupt from broken
                record(point.name, distribution, version, broken)
                continue
            loaded[point.name] = distribution
            components += more[0]
            commands += more[1]
    return Registry(components, commands, failures)


@contextlib.contextmanager
def _interruptions() -> Iterator[list[int]]:
    """The SIGINTs that arrive inside: a person's Ctrl-C, unlike a plugin's `raise`."""
    arrived: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield arrived  # nothing here turns the signal into an exception
        return

    def note(number: int, frame: Any) -> None:
        arrived.append(number)
        handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield arrived
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, handler)


@cache
def core_version() -> str:
    """The version of crosslayer: its source tree's where it is imported from one."""
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        file = (
            Path(__file__).resolve().parents[2] / "pyproject.toml"
        )  # core/src/crosslayer/discovery.py
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        if project["name"] == PROJECT:
            return str(project["version"])
    return metadata.version(PROJECT)


def _entry_points() -> tuple[list[metadata.EntryPoint], dict[str, _Broken]]:
    """Entry points, and by distribution what keeps its own from being read. Ours come first, in the
    catalogue's order: a stranger cannot displace one of ours.
    """
    found: list[metadata.EntryPoint] = []
    unreadable: dict[str, _Broken] = {}
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name = "unknown"
        try:
            name = _folder_name(distribution)
            if name in seen:
                continue  # another one of this name is imported before it
            seen.add(name)
            text = distribution.read_text("entry_points.txt") or ""
            if GROUP in text:  # most distributions have none of ours: their text is not parsed
                found += [one for one in distribution.entry_points if one.group == GROUP]
        except Exception as error:
            reason = f"its entry points cannot be read: {one_line(error)}"
            unreadable[name] = _Broken("metadata", reason)
    ours = {package.name: place for place, package in enumerate(packages())}

    def order(point: metadata.EntryPoint) -> tuple[int, str, str]:
        distribution, _ = _name_and_version(point)
        known = point.name == _normalised(distribution) and point.name in ours
        return ours[point.name] if known else len(ours), point.name, distribution

    return sorted(found, key=order), unreadable


def _folder_name(distribution: metadata.Distribution) -> str:
    """A distribution's name as its folder has it, which costs no reading of METADATA."""
    path = getattr(distribution, "_path", None)
    if path is None:
        return _normalised(distribution.name)
    return _normalised(re.split(r"-|\.egg-info$|\.dist-info$", path.name)[0])


def _name_and_version(point: metadata.EntryPoint) -> tuple[str, str]:
    try:
        return str(point.dist.name), str(point.dist.version)  # type: ignore[union-attr]
    except Exception:  # metadata of strangers: no METADATA file, no Version field
        return "unknown", "unknown"


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _check_core_version(point: metadata.EntryPoint) -> None:
    """Whether the distribution's own requirement admits this core; read before any import."""
    try:
        requires: Sequence[str] = point.dist.requires or ()  # type: ignore[union-attr]
        ours = [line for line in requires if _requires_core(line) and not _OF_EXTRA.search(line)]
        lines = [line for line in ours if not _plainly_admits(line, core_version())]
    except Exception as error:
        raise _Broken("version", f"its metadata cannot be read: {one_line(error)}") from error
    for line in lines:
        from packaging.requirements import InvalidRequirement, Requirement

        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise _Broken("version", f"its metadata cannot be read: {one_line(error)}") from error
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if not requirement.specifier.contains(core_version(), prereleases=True):
            raise _Broken(
                "version", f"it needs crosslayer {requirement.specifier}, this is {core_version()}"
            )


# What holds for somebody who asks for an extra: "crosslayer[torch]>=0.1; extra == 'local'".
_OF_EXTRA = re.compile(r""";\s*extra\s*==\s*("[^"]*"|'[^']*')\s*$""")
# What nearly every plugin says: "crosslayer[torch]<0.2,>=0.1".
_PLAIN = re.compile(r"\s*[\w.-]+\s*(?:\[[^\]]*\]\s*)?((?:(?:>=|<)\s*\d+(?:\.\d+)*\s*(?:,\s*|$))*)")


def _plainly_admits(requirement: str, version: str) -> bool:
    """Whether a requirement of plain bounds admits a plain version; False leaves it to `packaging`,
    whose import is a tenth of what a listing takes.
    """
    match = _PLAIN.fullmatch(requirement)
    if match is None or not re.fullmatch(r"\d+(\.\d+)*", version):
        return False
    here = _release(version)
    for clause in filter(None, re.split(r"[,\s]+", match[1])):
        bound = _release(clause.lstrip("<>="))
        if not (here >= bound if clause.startswith(">=") else here < bound):
            return False
    return True


def _release(version: str) -> list[int]:
    """The numbers of a version without the zeros at its end, in which equal versions differ."""
    return [int(part) for part in re.sub(r"(\.0+)+$", "", version.strip()).split(".")]


def _requires_core(requirement: str) -> bool:
    name = re.match(r"\s*([A-Za-z0-9._-]+)", requirement)
    return name is not None and _normalised(name.group(1)) == PROJECT


def _load(
    point: metadata.EntryPoint,
    distribution: str,
    version: str,
    components: Sequence[Registered],
    commands: Sequence[RegisteredCommand],
) -> tuple[list[Registered], list[RegisteredCommand]]:
    """What one plugin declares, all of it checked; _Broken if anything is wrong."""
    if point.pattern.match(point.value) is None:
        raise _Broken("metadata", f"its entry point {point.value!r} names no module")
    with _guard("import"):
        plugin = point.load()
        file = str(getattr(sys.modules.get(point.module), "__file__", None) or point.module)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    with _guard("hooks"):
        _check_names(plugin)
    with _guard("register"):
        manager.register(plugin, point.name)
        manager.check_pending()
    declared: dict[str, list[Any]] = {hook: [] for hook in HOOKS}
    for hook in HOOKS:
        # Each implementation itself, not `manager.hook`: pluggy drops a None, which is a forgotten
        # return.
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            with _guard("call", f"{hook} raised "):
                declared[hook] += _items(hook, implementation.function())
    origin = Origin(point.name, distribution, version, file)
    more_commands = [RegisteredCommand(command, origin) for command in declared.pop(COMMANDS_HOOK)]
    more = [
        Registered(kind, component, origin)
        for kind, hook in HOOK_OF_KIND.items()
        for component in declared[hook]
    ]
    _check_duplicates([*components, *more], [*commands, *more_commands])
    return more, more_commands


@contextlib.contextmanager
def _guard(stage: Stage, what: str = "") -> Iterator[None]:
    """Run a plugin's code: whatever it raises becomes _Broken; it prints to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except _Broken:
        raise
    except BaseException as error:
        raise _Broken(stage, f"{what}{one_line(error)}") from error


def _check_names(plugin: object) -> None:
    """pluggy overlooks a function that it does not know, so a misspelt hook would be silence."""
    for name in dir(plugin):
        if not name.startswith(f"{PROJECT}_") or not callable(getattr(plugin, name)):
            continue
        if name not in HOOKS:
            close = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.0)[0]
            raise _Broken("hooks", f"there is no hook {name!r}; did you mean {close!r}?")
        if not hasattr(getattr(plugin, name), f"{PROJECT}_impl"):
            raise _Broken("hooks", f"{name} is not marked with @hookimpl")


def _items(hook: str, result: Any) -> list[Any]:
    """The descriptors that a hook returned; _Broken unless it is a list of the right type."""
    wanted = Command if hook == COMMANDS_HOOK else Component
    if not isinstance(result, list | tuple):
        raise _Broken(
            "components", f"{hook} returned {_type(result)}, not a list of {wanted.__name__}"
        )
    for item in result:
        if not isinstance(item, wanted):
            raise _Broken(
                "components", f"{hook} returned a list with {_type(item)}, not {wanted.__name__}"
            )
    return list(result)


def _type(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _check_duplicates(
    components: Sequence[Registered], commands: Sequence[RegisteredCommand]
) -> None:
    """No two components of a kind, and no two commands, share a name. The last ones are new."""
    owners: dict[tuple[str, str], str] = {}
    for found in components:
        key = (found.kind, found.component.name)
        if key in owners:
            what = f"{kind_label(found.kind)} {found.component.name!r}"
            raise _Broken("components", f"{what} is registered by {owners[key]} already")
        owners[key] = found.distribution
    for one in commands:
        key = ("command", one.command.name)
        if one.command.name in RESERVED_COMMANDS:
            raise _Broken("components", f"the command {one.command.name!r} is crosslayer's own")
        if key in owners:
            raise _Broken(
                "components", f"command {one.command.name!r} is registered by {owners[key]} already"
            )
        owners[key] = one.origin.distribution


def _built_in() -> tuple[list[Registered], list[RegisteredCommand]]:
    """The core's own plugin. It is not guarded: if it is broken, crosslayer is."""
    from crosslayer import builtins

    origin = Origin(PROJECT, PROJECT, core_version(), str(builtins.__file__))
    found = [
        Registered(kind, component, origin)
        for kind, hook in HOOK_OF_KIND.items()
        for component in getattr(builtins, hook, list)()
    ]
    return found, []
