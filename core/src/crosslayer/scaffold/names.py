"""What a new package may be called, and the names that follow from it."""

from __future__ import annotations

import keyword
import re
import sys
from dataclasses import dataclass
from importlib import metadata, util

from crosslayer.catalogue import packages
from crosslayer.component import PROJECT, RESERVED_COMMANDS
from crosslayer.errors import InputError
from crosslayer.registry import KINDS, kind_label

LONGEST = 26  # so that every generated line fits
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Names:
    """name: of distribution, entry point and component ("my-tool"); module "my_tool"; prefix of
    classes "MyTool".
    """

    name: str
    module: str
    prefix: str


def names_for(given: str) -> Names:
    """The names of a package called `given`, normalised as PEP 503 says.

    InputError for one that is malformed, too long, no Python name, or taken: by a package of this
    project, a component or command of the core, a module of Python or an installed distribution.
    """
    if _NAME.fullmatch(given) is None:
        raise InputError(
            f"{given!r} is no name for a package: use letters, digits and single hyphens, such as "
            "my-technique"
        )
    name = re.sub(r"[-_.]+", "-", given).lower()
    module = name.replace("-", "_")
    if len(name) > LONGEST:
        raise InputError(f"{name!r} has {len(name)} characters; a name has {LONGEST} at most")
    if not module.isidentifier():
        raise InputError(f"{name!r} begins with a digit, so Python cannot import it; add a letter")
    taken = _taken_by(name, module)
    if taken:
        raise InputError(f"{name!r} is {taken}; choose another name")
    return Names(name, module, "".join(word.capitalize() for word in name.split("-")))


def _taken_by(name: str, module: str) -> str | None:
    if keyword.iskeyword(module):
        return "a keyword of Python"
    if module in sys.stdlib_module_names:
        return "a module of Python's own library"
    if name == PROJECT:
        return "the name of crosslayer itself"
    if name in RESERVED_COMMANDS:
        return "a command of crosslayer"
    return _taken_in_the_catalogue(name, module) or _taken_here(name, module)


def _taken_in_the_catalogue(name: str, module: str) -> str | None:
    for package in packages():
        if name == package.name or module == package.module:
            return f"the name of a package of this project ({package.path})"
        for kind, names in package.kinds.items():
            if name in (one.partition(":")[0] for one in names):
                return f"the {kind_label(kind)} of the package {package.name}"
    return None


def _taken_here(name: str, module: str) -> str | None:
    from crosslayer.discovery import discover

    built_in = discover(only=(), strict=False)
    for kind in KINDS:
        if name in built_in.components(kind):
            return f"the core's own {kind_label(kind)}"
    try:
        version = metadata.version(name)
        return f"installed already, as the distribution {name} {version}"
    except metadata.PackageNotFoundError:
        pass
    found = util.find_spec(module)
    if found is not None and found.origin is not None:  # a folder without code is no obstacle
        return f"importable already, from {found.origin}"
    return None
