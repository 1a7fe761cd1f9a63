"""What this package adds to crosslayer."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl


@hookimpl
def crosslayer_model_transforms() -> list[Component]:
    """The transform `flow`; on a spec without weights it needs no torch, so it lists no needs."""
    return [
        Component(
            name="flow",
            summary="Per-block N:M pruning from outliers (FLOW)",
            paper="arXiv:2504.14365",
            factory="flow_flexcim.transform:Flow",
            params="flow_flexcim.params:FlowParams",
        )
    ]
