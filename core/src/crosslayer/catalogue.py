"""The catalogue of this project's packages: plugins.toml, read as data. It imports none of them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from crosslayer.errors import DependencyError

GROUP = "crosslayer"  # the entry-point group of plugins
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class CataloguePackage:
    """One distribution of this project: its names, what it registers, where it comes from."""

    name: str
    path: str
    module: str
    kinds: Mapping[str, tuple[str, ...]]
    paper: str
    summary: str

    def as_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def catalogue_file() -> Path:
    """plugins.toml: beside this module in a wheel, beside core/ in a source tree."""
    for folder in (HERE, *HERE.parents):
        file = folder / "plugins.toml"
        # Not any plugins.toml on the way to "/" is ours.
        if file.is_file() and (folder == HERE or (folder / "core" / "src" / HERE.name).is_dir()):
            return file
    raise DependencyError(f"{HERE / 'plugins.toml'} is missing: install crosslayer again")


@cache
def packages() -> tuple[CataloguePackage, ...]:
    """The packages in the order of the file. DependencyError where it is missing or damaged."""
    file = catalogue_file()
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8")).get("package", [])
        return tuple(
            CataloguePackage(
                name=table["name"],
                path=table["path"],
                module=table["import"],
                kinds={kind: tuple(names) for kind, names in table["kinds"].items()},
                paper=table["paper"],
                summary=table["summary"],
            )
            for table in tables
        )
    except (OSError, ValueError, KeyError) as error:
        raise DependencyError(f"{file}: the catalogue cannot be read: {error!r}") from error


def package_of(kind: str, name: str) -> CataloguePackage | None:
    """The package that registers a component of this kind and name; None if none does."""
    for package in packages():
        if name in package.kinds.get(kind, ()):
            return package
    return None


@dataclass(frozen=True, slots=True)
class WrongDistribution:
    """A stranger's distribution under one of our names, what it says of itself, where it lies.

    reason: what shows that it is not ours. path: of our package in crosslayer's repository.
    """

    name: str
    version: str
    summary: str
    home_page: str
    author: str
    location: str
    reason: str
    path: str

    def __str__(self) -> str:
        author = f"by {self.author}" if self.author else ""
        said = " ".join(f"{self.summary} {self.home_page} {author}".split())
        return (
            f"{self.name} {self.version} in {self.location} is not crosslayer's {self.name}, "
            f"{self.reason} ({said or 'it does not say what it is'}); remove it with "
            f"`python -m pip uninstall {self.name}` and install {self.path} of crosslayer's "
            f"repository"
        )


def installed_version(package: CataloguePackage) -> str | None:
    """The version of our distribution of this name; None where it is not installed."""
    found = _installed(package)
    return None if found is None or found[1] else found[0].version


def _installed(package: CataloguePackage) -> tuple[metadata.Distribution, str] | None:
    """The distribution of this name, and what shows that it is not ours, "" where nothing does.

    None where there is none, or its metadata cannot be read, which discovery reports.
    """
    try:
        distribution = metadata.distribution(package.name)
        if not distribution.metadata["Name"]:
            return None
        return distribution, _not_ours(distribution, package)
    except Exception:
        return None


def wrong_distributions() -> tuple[WrongDistribution, ...]:
    """Distributions under one of our names without our entry point or our files (dependency
    confusion).
    """
    return tuple(_wrong_distributions())


def _wrong_distributions() -> Iterator[WrongDistribution]:
    for package in packages():
        distribution, reason = _installed(package) or (None, "")
        if distribution is None or not reason:
            continue
        said: Any = distribution.metadata  # an email message; its protocol lacks `get` before 3.12
        urls = said.get_all("Project-URL") or []
        yield WrongDistribution(
            name=package.name,
            version=str(said.get("Version", "of no version")),
            summary=str(said.get("Summary", "")),
            home_page=str(said.get("Home-page") or (urls[0].partition(",")[2] if urls else "")),
            author=str(said.get("Author") or said.get("Author-email") or ""),
            location=str(distribution.locate_file("")),
            reason=reason,
            path=package.path,
        )


def _not_ours(distribution: metadata.Distribution, package: CataloguePackage) -> str:
    """What shows that a distribution is not our package; "" where nothing does."""
    if all(point.group != GROUP for point in distribution.entry_points):
        return f"it has no entry point of the group {GROUP}"
    files = distribution.files  # None where its installer kept no list
    if files is None or any(file.parts[:1] == (package.module,) for file in files):
        return ""
    return "" if _editable(distribution) else f"it brings no file of {package.module}"


def _editable(distribution: metadata.Distribution) -> bool:
    """Whether it is installed to be edited in place: its files then lie elsewhere."""
    try:
        said = json.loads(distribution.read_text("direct_url.json") or "{}")
        return bool(said.get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False
