"""What this package adds to crosslayer."""

from __future__ import annotations

from crosslayer.component import Command, Component, hookimpl


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


@hookimpl
def crosslayer_accelerator_models() -> list[Component]:
    """The accelerator `flexcim` and its baselines as presets."""
    return [
        Component(
            name="flexcim",
            summary="Digital compute-in-memory macros for many N:M patterns (FlexCiM)",
            paper="arXiv:2504.14365",
            factory="flow_flexcim.flexcim.accelerator:FlexCiM",
            params="flow_flexcim.flexcim.params:FlexCiMParams",
            presets=("flexible", "dense", "fixed-2to4", "systolic"),
        )
    ]


@hookimpl
def crosslayer_simulators() -> list[Component]:
    """The simulator `flexcim-layers`, which shows what is behind an accelerator's totals."""
    return [
        Component(
            name="flexcim-layers", paper="arXiv:2504.14365",
            summary="Passes, utilisation and energy by part of each linear on flexcim",
            factory="flow_flexcim.flexcim.simulator:FlexCiMLayers",
            params="flow_flexcim.flexcim.params:LayersParams",
        )
    ]  # fmt: skip


@hookimpl
def crosslayer_commands() -> list[Command]:
    """`crosslayer flow-flexcim ...`; the console script of the same name calls it."""
    return [
        Command(
            name="flow-flexcim",
            summary="Plan, prune, evaluate and price N:M models",
            app="flow_flexcim.cli:app",
        )
    ]
