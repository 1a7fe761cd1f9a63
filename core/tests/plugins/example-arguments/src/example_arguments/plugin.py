"""A hook asks for an argument."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl


@hookimpl
def crosslayer_models(registry: object) -> list[Component]:
    """No hook has arguments."""
    return []
