"""Errors a person can act on: one sentence that names the thing, the value and the way out.

The command line prints the sentence and exits with the class's `exit_code`: 2 the user's input,
3 a plugin or a dependency, 4 a component failed while running, 70 a defect of crosslayer itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CrosslayerError(Exception):
    """Base of every error that crosslayer raises on purpose."""

    exit_code = 70


class InputError(CrosslayerError):
    """Something the user wrote cannot be used: a file, a key, a value."""

    exit_code = 2


class DependencyError(CrosslayerError):
    """A plugin, a package or a download that a run needs is missing or broken."""

    exit_code = 3


class ComponentError(CrosslayerError):
    """A component failed while running; the message names the step."""

    exit_code = 4


class UnsupportedOp(CrosslayerError):
    """An accelerator model cannot price this op; the message is the reason."""

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to append to an error: the closest valid name, or the list of them."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.55)
    if close:
        return f"did you mean {close[0]!r}?"
    if not names:
        return "nothing of that kind is registered"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {shown}"
