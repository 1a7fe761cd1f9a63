"""What `crosslayer doctor` prints; it returns its exit code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crosslayer.cli_listing import print_json
from crosslayer.cli_running import columns
from crosslayer.doctor import Diagnosis, Needs, examine
from crosslayer.doctor_packages import OptionalModule


def doctor(only: Iterable[str] | None, as_json: bool) -> int:
    """The whole diagnosis, what is broken last."""
    found = examine(only)
    if as_json:
        print_json(found.as_json())
        return found.exit_code
    for title, lines in (
        (f"crosslayer {found.version}", _environment(found)),
        ("dependencies", _dependencies(found)),
        ("plugins", _plugins(found)),
        ("optional modules", _optional(found.optional)),
        ("cache", _cache(found)),
        ("built-in models and texts", _needs(found.needs)),
        ("notes", found.notes),
    ):
        _section(title, lines)
    if found.broken:
        _section(f"BROKEN: {len(found.broken)}", found.broken)
    else:
        print("usable: nothing is broken")
    return found.exit_code


def _section(title: str, lines: Iterable[str]) -> None:
    shown = list(lines)
    if shown:
        print(title)
        for line in shown:
            print(f"  {line}")


def _environment(found: Diagnosis) -> Iterator[str]:
    facts = found.environment
    kind = "virtual environment" if facts["virtual_environment"] else "no virtual environment"
    yield f"Python     {facts['implementation']} {facts['python']}, {facts['executable']} ({kind})"
    yield f"platform   {facts['system']}, {facts['architecture']}, {facts['cpu']}"
    allowed, cores = facts["cores_allowed"], facts["cores"]
    yield f"cores      {allowed} allowed of {cores}; a run uses {allowed} threads unless told"
    total, available = facts["memory_bytes"], facts["memory_available_bytes"]
    yield f"memory     {_size(available)} available of {_size(total)}"
    for name, value in facts["variables"].items():
        yield f"{name}={value}"


def _dependencies(found: Diagnosis) -> Iterator[str]:
    rows = [
        (one.name, one.installed or "MISSING", f"({one.wanted})" if one.wanted else "")
        for one in found.dependencies
    ]
    yield from list(columns(("", "", ""), rows))[1:]


def _plugins(found: Diagnosis) -> Iterator[str]:
    for one in found.plugins:
        count = f"{one.components} component{'s' * (one.components != 1)}"
        yield f"{one.distribution} {one.version}: {count}, {one.file}"
    for failure in found.failures:
        yield f"FAILED  {failure}"
    for wrong in found.wrong_distributions:
        yield f"WRONG   {wrong}"


def _optional(modules: Iterable[OptionalModule]) -> Iterator[str]:
    for one in modules:
        extra = f" [extra {one.extra}]" if one.extra else ""
        state = one.installed or "not installed"
        names = f"components {', '.join(one.components)}" if one.components else ""
        yield f"{one.module} {state}{extra}: {'; '.join(filter(None, (one.enables, names)))}"
        if one.install:
            yield f"    {one.install}"


def _cache(found: Diagnosis) -> Iterator[str]:
    cache = found.cache
    state = "writable" if cache.writable else "NOT WRITABLE"
    made = "" if cache.exists else ", not made yet"
    yield f"{cache.path}: {state}{made}, {_size(cache.free_bytes)} free"
    yield "offline: CROSSLAYER_OFFLINE is set" if found.offline else "online: downloads are allowed"


def _needs(needs: Iterable[Needs]) -> Iterator[str]:
    for one in needs:
        state = "in the cache" if one.present else f"{_size(one.download_bytes)} to download"
        memory = f", {_size(one.memory_bytes)} of memory a live copy" if one.memory_bytes else ""
        yield f"{one.name}: {state}; {_size(one.disk_bytes)} of the cache{memory}"


def _size(count: int | None) -> str:
    from crosslayer.render.values import format_value

    return "unknown" if count is None else format_value(count, "B")
