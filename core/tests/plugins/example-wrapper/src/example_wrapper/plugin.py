"""A hook wrapper that would empty everybody's list."""

from __future__ import annotations

from crosslayer.component import hookimpl


@hookimpl(wrapper=True)
def crosslayer_model_transforms():  # type: ignore[no-untyped-def]
    """Replaces the results of all other plugins."""
    yield
    return []
