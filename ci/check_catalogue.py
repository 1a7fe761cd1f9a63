"""Fails when plugins.toml, pyprojects, registered components, README and tree disagree.

`check_catalogue.py` prints one sentence for each disagreement and exits 1; with `--write` it
rewrites the README's table first. Needs `packaging`, and the installed core and packages to see
what they register.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from catalogue import (
    CORE,
    GROUP,
    ROOT,
    Package,
    dependencies,
    read_catalogue,
    read_pyproject,
    requirement_name,
)

TOP_LEVEL = frozenset(
    {
        *("packages", "core", "plugins.toml", "noxfile.py", "README.md", "ci", "pipelines", "docs"),
        *("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "AGENTS.md"),
    }
)
IGNORED = frozenset({"runs", "dist", "__pycache__"})  # as in .gitignore
UNPUBLISHED = "Private :: Do Not Upload"
BEGIN = "<!-- packages: generated from plugins.toml by ci/check_catalogue.py --write -->\n"
END = "<!-- packages: end -->"


def top_level_problems(root: Path) -> Iterator[str]:
    """The top level holds exactly what is agreed, and dotfiles."""
    there = {path.name for path in root.iterdir() if not path.name.startswith(".")} - IGNORED
    for name in sorted(there - TOP_LEVEL):
        yield f"{name} does not belong at the top level"
    for name in sorted(TOP_LEVEL - there):
        yield f"{name} is missing at the top level"


def tree_problems(root: Path, package: Package) -> Iterator[str]:
    """Every package has its README, tests and typed sources in src/."""
    source = f"src/{package.module}"
    wanted = ["README.md", "tests", f"{source}/__init__.py", f"{source}/py.typed"]
    if package is not CORE:
        wanted += ["benchmarks", f"{source}/plugin.py"]
    for name in wanted:
        if not (root / package.path / name).exists():
            yield f"{package.path}/{name} is missing"


def pyproject_problems(root: Path, package: Package) -> Iterator[str]:
    """pyproject.toml says what the catalogue says, and cannot be published by mistake."""
    where = f"{package.path}/pyproject.toml"
    data = read_pyproject(package, root)
    project: dict[str, Any] = data["project"]
    if project["name"] != package.name:
        yield f"{where}: the name is {project['name']!r}, plugins.toml says {package.name!r}"
    if data["build-system"]["build-backend"] != "hatchling.build":
        yield f"{where}: the build backend is not hatchling"
    packages = data["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    if packages != [f"src/{package.module}"]:
        yield f"{where}: the wheel holds {packages}, plugins.toml says src/{package.module}"
    if project.get("requires-python") != ">=3.11":
        yield f"{where}: requires-python is not '>=3.11'"
    if UNPUBLISHED not in project.get("classifiers", []):
        yield f"{where}: the classifier {UNPUBLISHED!r} is missing"
    extras = sorted(project.get("optional-dependencies", {}))
    if extras != sorted(package.extras):
        yield f"{where}: the extras are {extras}, the catalogue says {sorted(package.extras)}"
    if package is not CORE:
        yield from _plugin_problems(root, package, project)


def _plugin_problems(root: Path, package: Package, project: Mapping[str, Any]) -> Iterator[str]:
    where = f"{package.path}/pyproject.toml"
    points = project.get("entry-points", {}).get(GROUP, {})
    if points != {package.name: f"{package.module}.plugin"}:
        yield (
            f"{where}: the entry points in {GROUP!r} are {points}, "
            f"not {package.name} = {package.module}.plugin alone"
        )
    needs = dependencies(package, root)
    optional = project.get("optional-dependencies", {})
    every = [*needs, *(need for extra in package.extras for need in optional.get(extra, []))]
    uses_torch = any(requirement_name(need) == "torch" or "[torch" in need for need in every)
    if uses_torch != package.torch:
        yield f"{where}: torch is{'' if uses_torch else ' not'} required, unlike in plugins.toml"
    core = [need for need in needs if requirement_name(need) == CORE.name]
    if len(core) != 1:
        yield f"{where}: {CORE.name} is required {len(core)} times, not once"
        return
    bounds = SpecifierSet(re.sub(r"^[^<>=!~]*", "", core[0]))
    kinds = {bound.operator[0] for bound in bounds}
    version = read_pyproject(CORE, root)["project"]["version"]
    if not {"<", ">"} <= kinds or version not in bounds:
        yield f"{where}: {core[0]!r} needs a lower and an upper bound around {version}"


def table(packages: Sequence[Package]) -> str:
    """The README's table of packages."""
    rows = ["| package | paper | what it does | registers |", "|---|---|---|---|"]
    for package in packages:
        number = package.paper.removeprefix("arXiv:")
        names = "; ".join(
            f"{kind.replace('_', ' ')} {', '.join(f'`{name}`' for name in names)}"
            for kind, names in package.kinds.items()
        )
        rows.append(
            f"| [{package.name}]({package.path}/README.md) | "
            f"[{package.paper}](https://arxiv.org/abs/{number}) | {package.summary} | {names} |"
        )
    return "\n".join(rows) + "\n"


def with_table(readme: str, packages: Sequence[Package]) -> str:
    """The README's text with the table between its markers; ValueError if there are none."""
    start = readme.index(BEGIN) + len(BEGIN)
    return readme[:start] + table(packages) + readme[readme.index(END, start) :]


def readme_problems(root: Path, packages: Sequence[Package]) -> Iterator[str]:
    """The README's table is the one that plugins.toml gives."""
    text = (root / "README.md").read_text(encoding="utf-8")
    try:
        fresh = with_table(text, packages)
    except ValueError:
        yield "README.md: the markers of the table of packages are missing"
        return
    if fresh != text:
        yield "README.md: the table of packages is stale; run ./ci/nox -s docs -- --write"


def install_by_name_problems(root: Path, packages: Sequence[Package]) -> Iterator[str]:
    """No document tells a reader to install one of our names, which an index would answer."""
    names = "|".join(re.escape(package.name) for package in (CORE, *packages))
    command = re.compile(rf"\b(?:pip|pipx|uv)\b[^\n`]*\binstall\b[^\n`]*\s({names})(?![\w/-])")
    for path in sorted(root.rglob("*.md")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        for found in command.finditer(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(root)}: {found.group().strip()!r} would ask a public index"


def registered_problems(
    packages: Sequence[Package], registered: Mapping[str, Mapping[str, Sequence[str]]]
) -> Iterator[str]:
    """What each distribution registers ({name: {kind: names}}) is what the catalogue says."""
    for package in packages:
        said = {kind: sorted(names) for kind, names in package.kinds.items()}
        found = {kind: sorted(names) for kind, names in registered.get(package.name, {}).items()}
        if said != found:
            yield f"{package.name}: registers {found}, plugins.toml says {said}"


def registered() -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """What the installed plugins register, as {distribution: {kind: names}}, and which failed."""
    from crosslayer.discovery import discover
    from crosslayer.registry import KINDS

    registry = discover(strict=False)
    found: dict[str, dict[str, list[str]]] = {}
    for kind in KINDS:
        for name, component in registry.components(kind).items():
            found.setdefault(component.distribution, {}).setdefault(kind, []).append(name)
    return found, [str(failure) for failure in registry.failures]


def problems(root: Path = ROOT) -> Iterator[str]:
    """Every disagreement that can be seen without importing a package."""
    packages = read_catalogue(root)
    yield from top_level_problems(root)
    for package in (CORE, *packages):
        yield from tree_problems(root, package)
        yield from pyproject_problems(root, package)
    yield from readme_problems(root, packages)
    yield from install_by_name_problems(root, packages)


def main() -> None:
    """Print the disagreements; exit 1 if there are any."""
    packages = read_catalogue()
    if "--write" in sys.argv[1:]:
        readme = ROOT / "README.md"
        readme.write_text(
            with_table(readme.read_text(encoding="utf-8"), packages), encoding="utf-8"
        )
    components, failures = registered()
    found = [*problems(), *failures, *registered_problems(packages, components)]
    for problem in found:
        print(f"ci/check_catalogue.py: {problem}")
    if not found:
        print(f"The catalogue, {len(packages) + 1} pyprojects, README and plugins agree.")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
