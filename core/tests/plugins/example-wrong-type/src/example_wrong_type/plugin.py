"""A hook returns names instead of components."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl


@hookimpl
def crosslayer_simulators() -> list[Component]:
    """Names, not components."""
    return ["example-sim"]  # type: ignore[list-item]
