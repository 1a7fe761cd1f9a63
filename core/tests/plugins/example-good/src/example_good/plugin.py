"""A plugin as it should be: descriptors only."""

from __future__ import annotations

from crosslayer.component import Command, Component, hookimpl


@hookimpl
def crosslayer_model_transforms() -> list[Component]:
    """One transform with parameters, one without."""
    return [
        Component(
            name="example-scale",
            summary="Scales a model by a factor",
            paper="arXiv:0000.00000",
            factory="example_good.scale:Scale",
            params="example_good.params:ScaleParams",
            presets=("half", "double"),
        ),
        Component("example-plain", "Leaves a model as it is", "", "example_good.scale:Plain"),
    ]


@hookimpl
def crosslayer_commands() -> list[Command]:
    """One command."""
    return [Command("example", "Say hello or fail", "example_good.command:app")]
