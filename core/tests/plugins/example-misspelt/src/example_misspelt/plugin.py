"""One hook is right, one is misspelt."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl


@hookimpl
def crosslayer_evaluators() -> list[Component]:
    """This one is right, and must not be used all the same."""
    return [Component("example-eval", "Never seen", "", "example_misspelt.plugin:nothing")]


@hookimpl
def crosslayer_model_transform() -> list[Component]:
    """The name lacks its last letter."""
    return []
