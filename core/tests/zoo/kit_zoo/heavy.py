"""A plugin module that imports numpy although only listing is asked for."""

from __future__ import annotations

import numpy  # noqa: F401

from crosslayer.component import Component, hookimpl


@hookimpl
def crosslayer_accelerator_models() -> list[Component]:
    return [
        Component(
            name="heavy",
            summary="Of the zoo: heavy",
            paper="",
            factory="kit_zoo.accelerators:Toy",
            params="kit_zoo.params:ToyParams",
        )
    ]
