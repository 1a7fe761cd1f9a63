"""What the repository contains, from plugins.toml: for the wrapper, the noxfile, the checks.

Standard library only, because `ci/nox` imports it before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GROUP = "crosslayer"  # the entry-point group that discovery reads


@dataclass(frozen=True)
class Package:
    """One distribution of this repository: a `[[package]]` of plugins.toml, or the core."""

    name: str
    path: str
    module: str
    paper: str = ""
    summary: str = ""
    kinds: dict[str, list[str]] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    torch: bool = False


CORE = Package(
    name="crosslayer",
    path="core",
    module="crosslayer",
    extras=("data", "openai", "ray", "torch"),
    torch=True,
)


def read_catalogue(root: Path = ROOT) -> tuple[Package, ...]:
    """The packages of plugins.toml in the order of the file, without the core."""
    with (root / "plugins.toml").open("rb") as file:
        tables = tomllib.load(file).get("package", [])
    return tuple(
        Package(
            name=table["name"],
            path=table["path"],
            module=table["import"],
            paper=table["paper"],
            summary=table["summary"],
            kinds=table["kinds"],
            extras=tuple(table["extras"]),
            torch=table["torch"],
        )
        for table in tables
    )


def read_pyproject(package: Package, root: Path = ROOT) -> dict[str, Any]:
    """The parsed pyproject.toml of a package."""
    with (root / package.path / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def requirement_name(requirement: str) -> str:
    """A requirement's normalised distribution name: that of "Flow_X[a]>=0.1" is "flow-x"."""
    match = re.match(r"\s*([A-Za-z0-9._-]+)", requirement)
    return re.sub(r"[-_.]+", "-", match.group(1)).lower() if match else ""


def requirement_extras(requirement: str) -> list[str]:
    """The extras a requirement asks for: "crosslayer[torch,data]" gives ["torch", "data"]."""
    match = re.match(r"\s*[A-Za-z0-9._-]+\s*\[([^\]]*)\]", requirement)
    return [extra.strip() for extra in match.group(1).split(",")] if match else []


def dependencies(package: Package, root: Path = ROOT) -> list[str]:
    """What a package's pyproject requires, without its extras."""
    return list(read_pyproject(package, root)["project"].get("dependencies", []))


def needs_of_tests(package: Package, root: Path = ROOT) -> list[str]:
    """What a package's own tests need beside pytest: its dependency group `test`."""
    return list(read_pyproject(package, root).get("dependency-groups", {}).get("test", []))


def third_party(package: Package, root: Path = ROOT) -> list[str]:
    """Requirements of a package, its extras and its test group included, that are not ours.

    What it asks of the core is replaced by what the core asks of others.
    """
    optional = read_pyproject(package, root)["project"].get("optional-dependencies", {})
    wanted = dependencies(package, root) + needs_of_tests(package, root)
    for extra in package.extras:
        wanted += optional.get(extra, [])
    found: set[str] = set()
    for requirement in wanted:
        if requirement_name(requirement) != CORE.name:
            found.add(requirement)
            continue
        found.update(dependencies(CORE, root))
        core = read_pyproject(CORE, root)["project"]
        for extra in requirement_extras(requirement):
            found.update(core["optional-dependencies"][extra])
    return sorted(found)


def wheel_name(package: Package, root: Path = ROOT) -> str:
    """The file name that hatchling gives the package's wheel."""
    version = read_pyproject(package, root)["project"]["version"]
    return f"{package.name.replace('-', '_')}-{version}-py3-none-any.whl"


def _sources(root: Path, packages: Iterable[Package]) -> Iterator[Path]:
    yield root / "plugins.toml"
    for package in packages:
        home = root / package.path
        yield from (home / "pyproject.toml", home / "README.md")
        for folder, subfolders, files in os.walk(home / "src"):
            subfolders[:] = sorted(name for name in subfolders if name != "__pycache__")
            yield from (Path(folder, name) for name in sorted(files))


def sources_hash(root: Path = ROOT) -> str:
    """A hash of everything that goes into the wheels; it names the folder they are built in."""
    digest = hashlib.sha256()
    for path in _sources(root, (CORE, *read_catalogue(root))):
        if path.is_file():
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def constraint_lines(wheels: Path, root: Path = ROOT) -> list[str]:
    """ci/constraints.txt and one `name @ file://...` line for the core and each package.

    Some of our names belong to other people's projects on the public index. With these lines pip
    takes the name from this wheel file or fails; it never asks an index for it. pip compares the
    whole address, so the installs name the same files, and the path is quoted because a clone's
    path may have spaces in it.
    """
    pins = (root / "ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    ours = [
        f"{package.name} @ {(wheels / wheel_name(package, root)).as_uri()}"
        for package in (CORE, *read_catalogue(root))
    ]
    return [*pins, "# Ours: from this clone, never from an index.", *ours]


def write_constraints(state: Path, root: Path = ROOT) -> tuple[Path, Path]:
    """(constraints file, folder of the wheels it names) for the sources as they are now.

    Both lie under the hash of the sources, so that runs at the same time share or differ rightly.
    """
    key = sources_hash(root)
    wheels = state / "wheels" / key
    wheels.mkdir(parents=True, exist_ok=True)
    path = wheels / "constraints.txt"
    partial = wheels / f"constraints.{os.getpid()}"
    partial.write_text("\n".join(constraint_lines(wheels, root)) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path, wheels


def by_name(name: str, packages: Sequence[Package] | None = None) -> Package:
    """The package of that name; "core" is the core."""
    for package in packages if packages is not None else read_catalogue():
        if package.name == name:
            return package
    if name in ("core", CORE.name):
        return CORE
    raise KeyError(name)
