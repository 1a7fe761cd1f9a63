"""What a plugin hands over: descriptors of its components and commands, cheap to build and to list.

A descriptor names code by dotted path and imports none of it, so that listing every plugin costs
nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pluggy

from crosslayer.errors import DependencyError

PROJECT = "crosslayer"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

# The commands of the core, those that come later included: a plugin's command may not take these
# names.
RESERVED_COMMANDS = frozenset(
    {
        *("check", "check-plugin", "compare", "describe", "doctor", "fetch"),
        *("help", "new", "plugins", "run", "sweep", "trace", "version"),
    }
)

_WORDS = r"[a-z0-9]+(?:[-.][a-z0-9]+)*"  # dots as in "llama-3.1-8b"
_COMMAND_NAME = re.compile(_WORDS)
_COMPONENT_NAME = re.compile(f"{_WORDS}(?::{_WORDS})?")
_DOTTED_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def _require(good: bool, sentence: str) -> None:
    if not good:
        raise DependencyError(sentence)


def _check_path(owner: str, what: str, path: object) -> None:
    good = isinstance(path, str) and _DOTTED_PATH.fullmatch(path) is not None
    _require(good, f"{owner}: {what} is {path!r}, but must look like 'package.module:Name'")


def _check_summary(owner: str, summary: object) -> None:
    good = isinstance(summary, str) and summary.strip() != "" and summary.isprintable()
    _require(good, f"{owner}: the summary must be one line of text, not {summary!r}")


def _check_strings(owner: str, what: str, values: object) -> None:
    good = isinstance(values, tuple) and all(isinstance(value, str) and value for value in values)
    _require(good, f"{owner}: {what} must be a tuple of names, not {values!r}")


@dataclass(frozen=True, slots=True)
class Component:
    """One technique or part that a pipeline can name.

    name: kebab-case, at most one ":" ("thinkv", "ouromamba:vim-fashion-mnist"). paper:
    "arXiv:2510.01290" or "". factory, params: "package.module:Name"; the factory is called with the
    validated params model, or with nothing where params is None. presets: values of the parameter
    `preset`, written "name:preset" in a pipeline. needs: top-level modules that must be importable
    to build it. install: the line that installs them. Raises DependencyError (the plugin's fault)
    for a malformed field.
    """

    name: str
    summary: str
    paper: str
    factory: str
    params: str | None = None
    presets: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    install: str = ""

    def __post_init__(self) -> None:
        good = isinstance(self.name, str) and _COMPONENT_NAME.fullmatch(self.name) is not None
        _require(good, f"component {self.name!r}: a name is kebab-case with at most one ':'")
        owner = f"component {self.name!r}"
        _check_summary(owner, self.summary)
        _require(
            isinstance(self.paper, str), f"{owner}: the paper must be text, not {self.paper!r}"
        )
        _check_path(owner, "the factory", self.factory)
        if self.params is not None:
            _check_path(owner, "params", self.params)
        _check_strings(owner, "presets", self.presets)
        _require(
            not self.presets or self.params is not None, f"{owner}: presets need a params model"
        )
        _check_strings(owner, "needs", self.needs)
        _require(isinstance(self.install, str), f"{owner}: install must be one line of text")


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command of `crosslayer`: a typer app that is imported only when it is called."""

    name: str
    summary: str
    app: str

    def __post_init__(self) -> None:
        good = isinstance(self.name, str) and _COMMAND_NAME.fullmatch(self.name) is not None
        _require(good, f"command {self.name!r}: a name is kebab-case")
        _check_summary(f"command {self.name!r}", self.summary)
        _check_path(f"command {self.name!r}", "the app", self.app)
