"""A hook without its marker."""

from __future__ import annotations

from crosslayer.component import Component


def crosslayer_models() -> list[Component]:
    """pluggy would not see this one."""
    return []
