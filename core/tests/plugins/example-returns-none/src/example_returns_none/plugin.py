"""A hook without a return."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl


@hookimpl
def crosslayer_simulators() -> list[Component]:  # type: ignore[empty-body]
    """Nothing comes back."""
