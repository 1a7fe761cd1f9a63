"""Fill the templates in and write them: the whole package, or nothing."""

from __future__ import annotations

import os
import re
import shutil
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from crosslayer.discovery import core_version
from crosslayer.errors import InputError
from crosslayer.scaffold.names import Names, names_for
from crosslayer.scaffold.toys import Toy, toy_of

TEMPLATES = resources.files("crosslayer.scaffold").joinpath("templates")


def create(given: str, kind: str, parent: Path) -> Path:
    """Write the package `given` of a kind into a new folder of `parent`; returns that folder.

    InputError for a name or kind that cannot be (see `names_for`), a folder that is there already,
    a parent that is not there or cannot be written. Then nothing is written.
    """
    toy, names = toy_of(kind), names_for(given)
    if not parent.is_dir():
        raise InputError(f"{parent} is no folder; make it, or name another with --path")
    target = parent / names.name
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists already; choose another name, or another --path")
    files = render(names, toy)
    try:
        _write(target, files)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def render(names: Names, toy: Toy) -> dict[str, str]:
    """Path in the package -> text; the same for the same names and version of crosslayer."""
    values = _values(names, toy)
    common, own = TEMPLATES.joinpath("common"), TEMPLATES.joinpath(toy.kind)
    source = f"src/{names.module}"
    templates = {
        "pyproject.toml": common.joinpath("pyproject.toml.txt"),
        "README.md": common.joinpath("README.md.txt"),
        "pipeline.toml": own.joinpath("pipeline.toml.txt"),
        f"{source}/__init__.py": common.joinpath("init.py.txt"),
        f"{source}/plugin.py": common.joinpath("plugin.py.txt"),
        f"{source}/params.py": own.joinpath("params.py.txt"),
        f"{source}/{toy.stem}.py": own.joinpath(f"{toy.stem}.py.txt"),
        "tests/test_conformance.py": common.joinpath("test_conformance.py.txt"),
        f"tests/test_{toy.stem}.py": own.joinpath(f"test_{toy.stem}.py.txt"),
    }
    filled = {path: _filled(template, values) for path, template in templates.items()}
    return filled | {f"{source}/py.typed": ""}


def _filled(template: Traversable, values: dict[str, str]) -> str:
    return Template(template.read_text(encoding="utf-8")).substitute(values)


def _values(names: Names, toy: Toy) -> dict[str, str]:
    extra = f"[{toy.extra}]" if toy.extra else ""
    needs = [f"crosslayer{extra}{core_bounds(core_version())}", *toy.needs]
    return {
        "name": names.name,
        "module": names.module,
        "prefix": names.prefix,
        "stem": toy.stem,
        "suffix": toy.suffix,
        "hook": toy.hook,
        "summary": toy.summary,
        "kind_words": toy.kind.replace("-", " "),
        "dependencies": "\n".join(f'  "{need}",' for need in sorted(needs)),
        "extra_words": f" with its extra `{toy.extra}`" if toy.extra else "",
    }


def core_bounds(version: str) -> str:
    """The versions of the core that a package made with `version` works with: >=0.1,<0.2."""
    major, minor = (int(part) for part in re.findall(r"\d+", version)[:2])
    upper = f"{major}.{minor + 1}" if major == 0 else f"{major + 1}"
    return f">={major}.{minor},<{upper}"


def _write(target: Path, files: dict[str, str]) -> None:
    """All files into a folder beside the target, which then takes the target's name."""
    partial = target.with_name(f".{target.name}-{os.getpid()}")
    partial.mkdir()
    try:
        for name, text in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
