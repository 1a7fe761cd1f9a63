"""A component with a name that a pipeline could not write."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl


@hookimpl
def crosslayer_models() -> list[Component]:
    """Spaces and capitals."""
    return [Component("My Model", "Never seen", "", "example_bad_descriptor.plugin:nothing")]
