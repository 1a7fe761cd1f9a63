"""What `doctor` says of distributions: what crosslayer requires, and what is optional.

It reads metadata and imports none of them.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from crosslayer.catalogue import CataloguePackage, packages
from crosslayer.component import PROJECT
from crosslayer.machine import installed_version
from crosslayer.registry import KINDS

if TYPE_CHECKING:
    from crosslayer.registry import Registry

# What crosslayer itself or its packages do with each optional module. The names that plugins add
# come from their components.
PURPOSE = {
    "torch": "live models: perplexity, transforms of real weights, sampling",
    "transformers": "live models and their tokenizers",
    "gguf": "the weights of the built-in model",
    "safetensors": "reading and writing weights",
    "pandas": "results as data frames",
    "pyarrow": "Parquet files of sweeps",
    "ray": "sweeps over a cluster",
    "openai": "OpenAI-compatible endpoints as backends",
    "triton": "kernels of packages that run on a GPU",
    "mamba_ssm": "the fused scan of Mamba models on a GPU",
}

UNKNOWN = "of unknown version"


@dataclass(frozen=True, slots=True)
class Dependency:
    """A requirement of crosslayer and what is installed; problem: "" where it is met."""

    name: str
    wanted: str
    installed: str | None
    problem: str


@dataclass(frozen=True, slots=True)
class OptionalModule:
    """A module that some parts need. extra: of crosslayer, "" for none. components: that need it.

    install: the line that installs it; "" where it is here, or comes from no index.
    """

    module: str
    distribution: str
    installed: str | None
    extra: str
    enables: str
    components: tuple[str, ...]
    install: str
    problem: str


def requirements() -> tuple[tuple[str, Requirement], ...]:
    """(extra or "", requirement) of crosslayer: of its source tree where it runs from one."""
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"  # core/src/crosslayer/<this>
    project = _project(file)
    if project is not None:
        groups = {"": project.get("dependencies", ()), **project.get("optional-dependencies", {})}
        return tuple(
            (extra, Requirement(line)) for extra, group in groups.items() for line in group
        )
    distribution = metadata.distribution(PROJECT)
    lines = [Requirement(line) for line in distribution.requires or ()]
    extras = distribution.metadata.get_all("Provides-Extra") or []
    return tuple(_by_extra(lines, extras))


def _project(file: Path) -> Mapping[str, Any] | None:
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return None
    found: Mapping[str, Any] = project
    return found if project.get("name") == PROJECT else None


def _by_extra(lines: list[Requirement], extras: list[str]) -> Iterator[tuple[str, Requirement]]:
    for line in lines:
        if line.marker is None or line.marker.evaluate({"extra": ""}):
            yield "", line
            continue
        yield from ((extra, line) for extra in extras if line.marker.evaluate({"extra": extra}))


def dependencies() -> tuple[Dependency, ...]:
    """Each requirement of crosslayer without extras."""
    found = []
    for extra, line in requirements():
        if not extra:
            installed = installed_version(line.name)
            problem = _problem(line, installed)
            found.append(Dependency(line.name, _bounds(line), installed, problem))
    return tuple(found)


def _problem(line: Requirement, installed: str | None) -> str:
    wanted = f"{line.name}{_bounds(line)}"
    if installed is None:
        return f"crosslayer needs {wanted}, which is not installed: {_install(wanted)}"
    if not _contains(line, installed):
        return f"crosslayer needs {wanted}, installed is {installed}: {_install(wanted)}"
    return ""


def _contains(line: Requirement, version: str) -> bool:
    try:
        return line.specifier.contains(version, prereleases=True)
    except InvalidVersion:  # of a distribution with damaged metadata
        return False


def _bounds(line: Requirement) -> str:
    """The specifier as people write it, the lower bound first."""
    return ",".join(sorted(map(str, line.specifier), reverse=True))


def _install(wanted: str) -> str:
    return f"python -m pip install {shlex.quote(wanted)}"


def optional(registry: Registry) -> tuple[OptionalModule, ...]:
    """Each optional module: those of the extras, those that are named here, those plugins need."""
    extras: dict[str, tuple[str, Requirement | None]] = {}
    for name, requirement in requirements():
        if name:
            extras.setdefault(requirement.name.replace("-", "_"), (name, requirement))
    needed = _needed_by(registry)
    ways = _install_lines(registry)
    found = []
    for module in dict.fromkeys([*PURPOSE, *extras, *needed]):
        extra, line = extras.get(module, ("", None))
        distribution = line.name if line else module.replace("_", "-")
        installed = _version_of(module, distribution)
        problem, install = "", ways.get(module, "")
        if line:
            install = _install(f"{line.name}{_bounds(line)}")
            problem = _problem(line, installed) if installed not in (None, UNKNOWN) else ""
        elif module in PURPOSE:
            install = _install(distribution)
        if installed or _ours(module):
            install = ""
        found.append(
            OptionalModule(
                module=module,
                distribution=distribution,
                installed=installed,
                extra=extra,
                enables=PURPOSE.get(module, ""),
                components=needed.get(module, ()),
                install=install,
                problem=problem,
            )
        )
    return tuple(found)


def _version_of(module: str, distribution: str) -> str | None:
    """The installed version; UNKNOWN for a module that no distribution of that name brings."""
    version = installed_version(distribution)
    if version is not None:
        return version
    try:
        return UNKNOWN if util.find_spec(module) is not None else None
    except (ImportError, ValueError):
        return None


def _needed_by(registry: Registry) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        for name, one in registry.components(kind).items():
            for module in one.component.needs:
                found.setdefault(module, []).append(name)
    return {module: tuple(dict.fromkeys(names)) for module, names in found.items()}


def _install_lines(registry: Registry) -> dict[str, str]:
    """What plugins say about the modules they need. A module's name is no distribution's."""
    found: dict[str, str] = {}
    for kind in KINDS:
        for one in registry.components(kind).values():
            for module in one.component.needs if one.component.install else ():
                found.setdefault(module, one.component.install)
    return found


def _ours(module: str) -> CataloguePackage | None:
    """The package of this project that brings a module: never to be installed by name."""
    return next((package for package in packages() if package.module == module), None)
