"""The seven hooks. Each returns descriptors; a plugin implements those it has something for."""

from __future__ import annotations

from crosslayer.component import Command, Component, hookspec

# Each kind of component and the hook that declares it.
HOOK_OF_KIND = {
    "model_transform": "crosslayer_model_transforms",
    "serving_policy": "crosslayer_serving_policies",
    "simulator": "crosslayer_simulators",
    "accelerator_model": "crosslayer_accelerator_models",
    "model": "crosslayer_models",
    "evaluator": "crosslayer_evaluators",
}
COMMANDS_HOOK = "crosslayer_commands"


@hookspec
def crosslayer_model_transforms() -> list[Component]:  # type: ignore[empty-body]
    """Techniques that make a model from a model; see `crosslayer.kinds.ModelTransform`."""


@hookspec
def crosslayer_serving_policies() -> list[Component]:  # type: ignore[empty-body]
    """Techniques that decide which calls serve a request; see `crosslayer.kinds.ServingPolicy`."""


@hookspec
def crosslayer_simulators() -> list[Component]:  # type: ignore[empty-body]
    """What runs a stack on requests and reports; see `crosslayer.kinds.Simulator`."""


@hookspec
def crosslayer_accelerator_models() -> list[Component]:  # type: ignore[empty-body]
    """What prices an op; see `crosslayer.kinds.AcceleratorModel`."""


@hookspec
def crosslayer_models() -> list[Component]:  # type: ignore[empty-body]
    """Models: the factory returns a `crosslayer.kinds.ModelArtifact`."""


@hookspec
def crosslayer_evaluators() -> list[Component]:  # type: ignore[empty-body]
    """What measures quality; see `crosslayer.kinds.Evaluator`."""


@hookspec
def crosslayer_commands() -> list[Command]:  # type: ignore[empty-body]
    """Sub-commands: `crosslayer <name> ...`."""
