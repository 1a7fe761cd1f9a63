"""Takes the name of a built-in component, and one of its own twice."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl


@hookimpl
def crosslayer_accelerator_models() -> list[Component]:
    """The core has a roofline already."""
    return [Component("roofline", "Not the real one", "", "aaa_example_duplicate.plugin:nothing")]


@hookimpl
def crosslayer_evaluators() -> list[Component]:
    """Would be fine alone."""
    return [Component("example-eval", "Never seen", "", "aaa_example_duplicate.plugin:nothing")]
