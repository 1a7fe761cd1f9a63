"""A hook raises."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl


@hookimpl
def crosslayer_serving_policies() -> list[Component]:
    """Divides by zero."""
    raise ZeroDivisionError("no policy today")
