"""Small real components for tests of pipelines and runs: each does its one thing exactly and
countably.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from crosslayer.component import Component
from crosslayer.contracts import ops
from crosslayer.contracts.cost import Cost
from crosslayer.contracts.hardware import HardwareSpec
from crosslayer.contracts.model import Attention, Block, Embedding, Linear, ModelSpec
from crosslayer.contracts.report import (
    Column,
    Figure,
    Metric,
    Panel,
    Report,
    Series,
    Table,
    WrittenFile,
)
from crosslayer.errors import UnsupportedOp
from crosslayer.kinds import ModelArtifact, RunContext, Stack
from crosslayer.parameters import TextName
from crosslayer.registry import Origin, Registered, Registry

CALLS: list[str] = []  # what really ran, in order; tests clear it


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def toy_spec(layers: int = 2, heads: int = 4, hidden: int = 32) -> ModelSpec:
    """A decoder of `layers` blocks, each attention and two linears."""
    blocks = [Block(name="embed", parts=(Embedding(name="tokens", entries=100, width=hidden),))]
    for i in range(layers):
        parts = (
            Linear(
                name="qkv",
                path=f"layers.{i}.qkv",
                inputs=hidden,
                outputs=3 * hidden,
                shard="column",
            ),
            Attention(name="attention", heads=heads, kv_heads=heads, head_dim=hidden // heads),
            Linear(name="out", path=f"layers.{i}.out", inputs=hidden, outputs=hidden, shard="row"),
        )
        blocks.append(Block(name=f"layer{i}", parts=parts))
    head = Linear(name="head", inputs=hidden, outputs=100, tied=True, rows="logits")
    blocks.append(Block(name="head", parts=(head,)))
    return ModelSpec(name="toy", hidden=hidden, vocabulary=100, blocks=tuple(blocks))


class ToyLive:
    """Weights as a plain list; opening is counted."""

    chunk_tokens: int | None = None

    def __init__(self, weights: list[float] | None = None) -> None:
        self._weights = weights

    @property
    def module(self) -> list[float]:
        if self._weights is None:
            CALLS.append("open")
            self._weights = [0.1 * i for i in range(1, 9)]
        return self._weights

    @property
    def tokenizer(self) -> None:
        return None

    def new_cache(self) -> None:
        return None

    def copy(self) -> ToyLive:
        return ToyLive(list(self.module))


class ToyModelParams(_Params):
    layers: int = Field(2, ge=1, le=8, description="Blocks.")


class LiveToy:
    def __new__(cls, params: ToyModelParams) -> Any:
        return ModelArtifact(spec=toy_spec(params.layers), live=ToyLive())


class SpecToy:
    def __new__(cls, params: ToyModelParams) -> Any:
        return ModelArtifact(spec=toy_spec(params.layers))


class PruneParams(_Params):
    sparsity: float = Field(0.5, ge=0, lt=1, description="Share of weights set to zero.")
    pattern: str | None = Field("2:4", description="N:M pattern of the spec.")
    blocks: tuple[int, ...] = Field((), description="Blocks to leave alone.")


class Prune:
    """Zeroes the smallest weights, writes them to a file, can restore from it."""

    def __init__(self, params: PruneParams) -> None:
        self.params = params

    def transform(self, model: ModelArtifact, context: RunContext) -> ModelArtifact:
        def change(block: Block, part: Any) -> Any:
            return (
                part.replace(sparsity=self.params.pattern)
                if isinstance(part, Linear) and part.path
                else part
            )

        spec = model.spec.map_parts(change)
        if model.live is None:
            return model.replace(spec=spec)
        CALLS.append("prune")
        weights = list(model.live.module)
        for i in range(int(len(weights) * self.params.sparsity)):
            weights[i] = 0.0
        weights[-1] += context.rng("prune").random() * 1e-3
        path = context.output / "weights.json"
        path.write_text(json.dumps(weights))
        zeros = Metric(
            name="zero_share",
            value=weights.count(0.0) / len(weights),
            unit="1",
            provenance="measured",
            source="toy",
        )
        took = Metric(
            name="prune_s",
            value=context.clock(),
            unit="s",
            provenance="measured",
            source="toy",
            wall_clock=True,
        )
        rows = tuple((f"w{i}", w) for i, w in enumerate(weights))
        table = Table(
            name="layers",
            title="Weights",
            columns=(Column(name="w"), Column(name="value", provenance="measured")),
            rows=rows,
        )
        line = Series(label="w", x=tuple(float(i) for i in range(len(weights))), y=tuple(weights))
        figure = Figure(
            name="weights",
            title="Weights",
            x_label="i",
            panels=(Panel(series=(line,), y_label="w"),),
            provenance="measured",
            source="toy",
        )
        return ModelArtifact(
            spec=spec, live=ToyLive(weights),
            history=(*model.history, ("prune", self.params.model_dump_json())),
            metrics=(zeros, took), tables=(table,), figures=(figure,), files={"weights": path},
        )  # fmt: skip

    def restore(self, model: ModelArtifact, files: Any, context: RunContext) -> ModelArtifact:
        CALLS.append("restore")
        return model.replace(live=ToyLive(json.loads(Path(files["weights"]).read_text())))


class ScaleParams(_Params):
    factor: float = Field(2.0, gt=0, description="Multiplies every weight.")


class Scale:
    """A transform without `restore`."""

    def __init__(self, params: ScaleParams) -> None:
        self.params = params

    def transform(self, model: ModelArtifact, context: RunContext) -> ModelArtifact:
        if model.live is None:
            return model
        CALLS.append("scale")
        return model.replace(live=ToyLive([w * self.params.factor for w in model.live.module]))


class TuneParams(_Params):
    needs_live: ClassVar[bool] = True
    steps: int = Field(10, ge=1, description="Steps.")


class Tune(Scale):
    """Works on live models only."""

    def __init__(self, params: TuneParams) -> None:
        super().__init__(ScaleParams(factor=1.5))


class FailParams(_Params):
    when: str = Field("live", description="When to fail: spec or live.")


class Fail:
    def __init__(self, params: FailParams) -> None:
        self.when = params.when

    def transform(self, model: ModelArtifact, context: RunContext) -> ModelArtifact:
        if self.when == "spec" or model.live is not None:
            raise ZeroDivisionError("the toy failed on purpose")
        return model


class MachineParams(_Params):
    preset: str = Field("small", description="Which machine.")
    flops_per_s: float = Field(1e12, gt=0, description="Peak rate.")
    refuses: tuple[str, ...] = Field((), description="Names of op classes it does not price.")


class Machine:
    def __init__(self, params: MachineParams) -> None:
        self.params = params

    def supports(self, op: Any) -> bool:
        return type(op).__name__ not in self.params.refuses

    def estimate(self, op: Any) -> Cost:
        if not self.supports(op):
            raise UnsupportedOp(f"this machine has no unit for {type(op).__name__}")
        flops, moved = float(ops.flops(op)), float(ops.moved_bytes(op))
        return Cost(flops / self.params.flops_per_s + moved / 1e11, 0.0, flops, moved, "compute")

    def describe(self) -> HardwareSpec:
        return HardwareSpec(name=f"toy {self.params.preset}")


class MeanParams(_Params):
    text: str = Field("words", description="Name of a text.")
    words: Path | None = Field(None, description="File with words.")
    wanted: int = Field(4, ge=1, description="How many.")
    sample: TextName | None = Field(None, description="A text.")

    @model_validator(mode="after")
    def _enough(self) -> MeanParams:
        if self.text == "words" and self.wanted > 8:
            raise ValueError("the text 'words' has only 8")
        return self


class Mean:
    """The mean weight of each model, before and after."""

    def __init__(self, params: MeanParams) -> None:
        self.params = params

    def evaluate(self, stack: Stack, context: RunContext) -> Report:
        CALLS.append("mean")
        found = []
        for instance in stack.instances:
            assert instance.model.live is not None
            weights = instance.model.live.module[: self.params.wanted]
            found.append(
                Metric(
                    name="mean",
                    value=sum(weights) / len(weights),
                    unit="1",
                    provenance="measured",
                    source="toy",
                )
            )
        before = stack.originals[stack.instances[0].name].live
        assert before is not None
        found.append(
            Metric(
                name="mean_before",
                value=sum(before.module) / 8,
                unit="1",
                provenance="measured",
                source="toy",
            )
        )
        return Report(title="mean", metrics=tuple(found))


class CountParams(_Params):
    log: Path = Field(
        Path("count.txt"), description="Where it writes.", json_schema_extra={"writes": True}
    )


class Count:
    """A simulator that writes how many instances it saw."""

    def __init__(self, params: CountParams) -> None:
        self.params = params

    def simulate(self, stack: Stack, trace: Any, context: RunContext) -> Report:
        import hashlib

        CALLS.append("count")
        path = context.output / self.params.log
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{len(stack.instances)}\n")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        metric = Metric(
            name="instances",
            value=len(stack.instances),
            unit="1",
            provenance="modelled",
            source="toy count",
        )
        return Report(
            title="count",
            metrics=(metric,),
            files=(WrittenFile(name="log", path=str(self.params.log), sha256=sha256),),
        )


class Needy:
    """Its module exists; what it needs does not."""


def _component(kind: str, name: str, factory: type, params: type | None, **more: Any) -> Registered:
    path = f"{factory.__module__}:{factory.__name__}"
    params_path = f"{params.__module__}:{params.__name__}" if params else None
    component = Component(name, f"a toy {name}", "", path, params_path, **more)
    return Registered(kind, component, Origin("toy", "toy-parts", "1.2.3", __file__))


def toy_registry() -> Registry:
    """Every toy under its kind."""
    from toy_steps import Emit, EmitParams, Take, TakeParams

    return Registry(
        [
            _component("model", "toy", LiveToy, ToyModelParams),
            _component("model", "toy-spec", SpecToy, ToyModelParams),
            _component("model_transform", "prune", Prune, PruneParams),
            _component("model_transform", "scale", Scale, ScaleParams),
            _component("model_transform", "tune", Tune, TuneParams),
            _component("model_transform", "fail", Fail, FailParams),
            _component(
                "accelerator_model", "machine", Machine, MachineParams, presets=("small", "large")
            ),
            _component("evaluator", "mean", Mean, MeanParams),
            _component(
                "evaluator",
                "needy",
                Needy,
                None,
                needs=("a_module_nobody_has",),
                install="ask the toy maker for it",
            ),
            _component("simulator", "count", Count, CountParams),
            _component("simulator", "emit", Emit, EmitParams),
            _component("simulator", "take", Take, TakeParams),
            _component("serving_policy", "vote", Needy, None),
        ]
    )
