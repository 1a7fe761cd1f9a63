"""A step model in pipeline stages: what each stage, and each link between two, takes of a step.

Stations are the stages and the links between them, in the order in which a batch passes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from crosslayer.contracts.model import Attention, ModelSpec, SelectiveScan
from crosslayer.contracts.ops import Collective
from crosslayer.contracts.templates import Parallel, templates
from crosslayer.errors import InputError
from crosslayer.stepcost import price_collective
from hermes_sim.step_models.lowered import LoweredSteps
from hermes_sim.step_models.protocol import Contexts, Floats, StepModel

if TYPE_CHECKING:
    from crosslayer.kinds import Instance, Stack


@dataclass(frozen=True)
class Send:
    """Activations from a stage to the next: seconds of a batch, and for each token of it."""

    latency_s: float = 0.0
    token_s: float = 0.0


class Staged:
    """Stages in a row, each with a step model of its own; or one model of the whole in so many
    equal parts.

    It is a `StepModel` itself: then a batch that goes through alone, stage after stage.
    """

    def __init__(self, models: Sequence[StepModel], send: Send, parts: int | None = None) -> None:
        """parts: into how many equal parts the only model is cut; None: a model a stage."""
        self.models, self.send, self.parts = tuple(models), send, parts
        self.stages = parts or len(self.models)
        self.stations = 2 * self.stages - 1
        self.name = f"{self.models[0].name}, {self.stages} pipeline stages"
        self.context_limit = min(model.context_limit for model in self.models)
        self.decode_limit = min(model.decode_limit for model in self.models)
        self.beyond = 0

    def mixed_stations(
        self, prefills: Sequence[tuple[int, int]], rows: int, n: int, context: int,
        contexts: Contexts,
    ) -> tuple[list[float], float | None]:  # fmt: skip
        """One step: (seconds at each station, joules of all)."""
        before = sum(model.beyond for model in self.models)
        found = [model.mixed(prefills, rows, n, context, contexts) for model in self.models]
        self.beyond += sum(model.beyond for model in self.models) > before
        stages = [seconds for seconds, _ in found]
        if self.parts:
            stages = [stages[0] / self.parts] * self.parts
        heats = [joules for _, joules in found]
        joules = None if None in heats else sum(float(heat[0]) for heat in heats if heat)
        send = self.send.latency_s + self.send.token_s * (n + sum(new for new, _ in prefills))
        return [part for one in stages for part in (one, send)][:-1], joules

    def decode_stations(
        self, n: int, context: int, steps: int, contexts: Contexts
    ) -> tuple[Floats, Floats | None]:
        """Successive decode steps of the same calls: (seconds [station, step], joules [step])."""
        found = [model.decodes(n, context, steps, contexts) for model in self.models]
        stages = [seconds for seconds, _ in found]
        if self.parts:
            stages = [stages[0] / self.parts] * self.parts
        send = np.full(steps, self.send.latency_s + self.send.token_s * n)
        rows = [part for one in stages for part in (one, send)][:-1]
        heats = [joules for _, joules in found]
        joules = None if any(heat is None for heat in heats) else np.sum(heats, axis=0)
        return np.stack(rows), joules

    def mixed(
        self, prefills: Sequence[tuple[int, int]], rows: int, n: int, context: int,
        contexts: Contexts,
    ) -> tuple[float, Sequence[float] | None]:  # fmt: skip
        """See `StepModel`."""
        seconds, joules = self.mixed_stations(prefills, rows, n, context, contexts)
        return sum(seconds), None if joules is None else (joules,)

    def decodes(self, n: int, context: int, steps: int, contexts: Contexts) -> tuple[Floats, Any]:
        """See `StepModel`."""
        seconds, joules = self.decode_stations(n, context, steps, contexts)
        total: Floats = seconds.sum(axis=0)
        return total, joules


def cut_in_stages(spec: ModelSpec, stages: int) -> list[ModelSpec]:
    """The blocks of each stage: layers as evenly as they go, more of them first, since the last
    stage has the head. Errors: InputError for more stages than layers.
    """
    mixing = [
        i
        for i, block in enumerate(spec.blocks)
        if any(isinstance(part, Attention | SelectiveScan) for part in block.parts)
    ]
    if len(mixing) < stages:
        raise InputError(
            f"pipeline_parallel = {stages}, but {spec.name} has {len(mixing)} layers with"
            " attention or a state; each stage needs one"
        )
    size, more = divmod(len(mixing), stages)
    firsts = [stage * size + min(stage, more) for stage in range(stages)]
    starts = [0, *(mixing[first] for first in firsts[1:]), len(spec.blocks)]
    return [spec.replace(blocks=spec.blocks[start:end]) for start, end in pairwise(starts)]


def lowered_stages(stack: Stack, instance: Instance) -> Staged:
    """The stages of an instance, each priced by its accelerator, and its links."""
    models = []
    for spec in cut_in_stages(instance.model.spec, instance.pipeline_parallel):
        part = instance.model.replace(spec=spec)
        ways = instance.tensor_parallel
        models.append(
            LoweredSteps(stack, replace(instance, model=part, devices=ways, pipeline_parallel=1))
        )
    return Staged(models, lowered_send(stack, instance))


def activation_bytes(spec: ModelSpec) -> float:
    """What a stage hands on of each token, as the core's lowering has it."""
    (node,), _ = templates(spec, Parallel(pipeline=2))[-1]
    return dict(node.template.scale)["payload_bytes"]


def lowered_send(stack: Stack, instance: Instance) -> Send:
    """What the core asks for handing a batch from stage to stage, on the slowest way."""
    payload = activation_bytes(instance.model.spec)

    def seconds(size: float) -> float:
        op = Collective(kind="send", payload_bytes=size, devices=2)
        return float(price_collective(instance, op, stack.network).seconds[0])

    latency = seconds(0.0)
    many = 1 << 20  # tokens, so that the rate is exact to rounding
    return Send(latency, (seconds(payload * many) - latency) / many)
