"""Objects by dotted path, and what to say when they cannot be imported."""

from __future__ import annotations

import importlib
from typing import Any

from crosslayer.errors import DependencyError


def one_line(error: BaseException) -> str:
    """An exception as "Type: message" on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def missing_module(what: str, module: str, install: str) -> DependencyError:
    """The error for a module that is not there."""
    line = install or f"python -m pip install {module.partition('.')[0]}"
    return DependencyError(f"{what} needs the module {module!r}, which is not installed: {line}")


def load(path: str, what: str, install: str = "") -> Any:
    """The object at a dotted path "package.module:Name". DependencyError if it is not there."""
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise DependencyError(f"{what}: there is no module {error.name!r} ({path})") from error
        raise missing_module(what, error.name or str(error), install) from error
    except (Exception, SystemExit) as error:
        raise DependencyError(f"{what}: importing {module} failed: {one_line(error)}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise DependencyError(f"{what}: {module} has no {attribute!r}")
        found = getattr(found, name)
    return found
