"""Loads well; what it needs to be built is not installed."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl


@hookimpl
def crosslayer_model_transforms() -> list[Component]:
    """One says what it needs, one does not, one has no factory, one fails."""
    return [
        Component(
            name="example-says-needs",
            summary="Says what it needs",
            paper="",
            factory="example_missing_dependency.heavy:Heavy",
            needs=("a_library_that_is_not_there",),
            install="python -m pip install the-library",
        ),
        Component("example-needs", "Does not", "", "example_missing_dependency.heavy:Heavy"),
        Component("example-no-factory", "Is a dead link", "", "example_missing_dependency.gone:X"),
        Component("example-fails", "Cannot start", "", "example_missing_dependency.fails:Fails"),
    ]
