"""What `crosslayer plugins` and `crosslayer describe` print."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from crosslayer.catalogue import installed_version, packages, wrong_distributions
from crosslayer.registry import KINDS, Origin, Registered, Registry, kind_label


def print_json(data: Any) -> None:
    """Data for programs: one JSON document on stdout."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def show_plugins(registry: Registry, as_json: bool) -> None:
    """Every plugin with what it registers; then what failed, one line each; then strangers."""
    wrong = wrong_distributions()
    if as_json:
        print_json(
            {
                "plugins": [_plugin_data(registry, origin) for origin in _origins(registry)],
                "failures": [_fields(failure) for failure in registry.failures],
                "wrong_distributions": [_fields(distribution) for distribution in wrong],
            }
        )
        return
    for origin in _origins(registry):
        print(f"{origin.distribution} {origin.version}  {origin.file}")
        for label, names in _by_label(registry, origin):
            _print_wrapped(f"  {label:<18}", ", ".join(names))
    for failure in registry.failures:
        print(f"FAILED  {failure}")
    for distribution in wrong:
        print(f"WARNING  {distribution}")


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _origins(registry: Registry) -> Iterator[Origin]:
    """Each plugin once, the core first."""
    found = [one.origin for kind in KINDS for one in registry.components(kind).values()]
    once = dict.fromkeys([*found, *(one.origin for one in registry.commands.values())])
    yield from sorted(once, key=lambda origin: origin.distribution != "crosslayer")


def _by_label(registry: Registry, origin: Origin) -> Iterator[tuple[str, list[str]]]:
    for kind in KINDS:
        names = [name for name, one in registry.components(kind).items() if one.origin == origin]
        if names:
            yield kind_label(kind), names
    commands = [name for name, one in registry.commands.items() if one.origin == origin]
    if commands:
        yield "command", commands


def _plugin_data(registry: Registry, origin: Origin) -> dict[str, Any]:
    components = [
        {"kind": kind, "name": name, "summary": one.component.summary, "paper": one.component.paper}
        for kind in KINDS
        for name, one in registry.components(kind).items()
        if one.origin == origin
    ]
    commands = [
        {"name": name, "summary": one.command.summary}
        for name, one in registry.commands.items()
        if one.origin == origin
    ]
    return _fields(origin) | {"components": components, "commands": commands}


def show_available(as_json: bool) -> None:
    """The catalogue: every package of this project and whether it is installed."""
    versions = {package.name: installed_version(package) for package in packages()}
    if as_json:
        print_json(
            [package.as_json() | {"installed": versions[package.name]} for package in packages()]
        )
        return
    for package in packages():
        version = versions[package.name]
        state = f"installed, {version}" if version else f"not installed; in {package.path}"
        print(f"{package.name}  {package.paper}  ({state})")
        _print_wrapped("  ", package.summary)
        for kind, names in package.kinds.items():
            _print_wrapped(f"  {kind_label(kind):<18}", ", ".join(names))


def show_component(registry: Registry, name: str, as_json: bool) -> None:
    """Every component of that name, of whatever kind. InputError with the nearest name."""
    found = registry.find(name)
    if as_json:
        print_json([component_data(registry, one) for one in found])
        return
    for place, one in enumerate(found):
        if place:
            print()
        for line in component_lines(registry, one, _width()):
            print(line)


def component_data(registry: Registry, one: Registered) -> dict[str, Any]:
    """A component as plain data."""
    component = one.component
    parameters = registry.schema(one.kind, component.name)
    return {
        "kind": one.kind,
        "name": component.name,
        "summary": component.summary,
        "paper": component.paper,
        "presets": list(component.presets),
        "needs": list(component.needs),
        "parameters": [_fields(parameter) for parameter in parameters],
        **_fields(one.origin),
    }


def component_lines(registry: Registry, one: Registered, width: int) -> Iterator[str]:
    """A component as text: what it is, where it is from, every parameter."""
    component = one.component
    yield f"{component.name}: {kind_label(one.kind)}"
    yield from _wrapped("  ", component.summary, width)
    facts = (
        ("paper", component.paper),
        ("from", f"{one.distribution} {one.version}"),
        ("file", one.file),
        ("needs", ", ".join(component.needs)),
        ("presets", ", ".join(f"{component.name}:{preset}" for preset in component.presets)),
    )
    for label, text in facts:
        if text:
            yield from _wrapped(f"  {label:<9}", text, width)
    parameters = registry.schema(one.kind, component.name)
    yield "  parameters" if parameters else "  no parameters"
    for parameter in parameters:
        default = "required" if parameter.required else f"default {parameter.default_text}"
        facts_of = "; ".join(filter(None, (parameter.type, parameter.bounds, default)))
        yield from _wrapped("    ", f"{parameter.name} ({facts_of})", width)
        yield from _wrapped("        ", parameter.description or "(not described)", width)


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 100)


def _print_wrapped(start: str, text: str) -> None:
    for line in _wrapped(start, text, _width()):
        print(line)


def _wrapped(start: str, text: str, width: int) -> Sequence[str] | Iterable[str]:
    return textwrap.wrap(
        text,
        width=max(width, 40),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
        break_long_words=False,
    )
