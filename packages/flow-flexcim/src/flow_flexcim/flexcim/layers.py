"""Tables of the accelerator: what every layer costs, and the presets side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosslayer.contracts.cost import Cost
from crosslayer.contracts.lowering import lower
from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.ops import Gemm
from crosslayer.contracts.report import Column, Table
from crosslayer.contracts.steps import StepShape
from crosslayer.errors import InputError, UnsupportedOp
from flow_flexcim.flexcim.accelerator import FlexCiM, known_passes
from flow_flexcim.flexcim.params import PRESETS, FlexCiMParams

PARTS = ("cells", "trees", "merge", "select", "buffers", "loading", "dram")


def linears(spec: ModelSpec, tokens: int = 1) -> list[tuple[Gemm, int]]:
    """The Gemms with stored weights of a step of that many tokens, all of which reach the head, and
    how often each is there.
    """
    graph = lower(spec, StepShape.from_sequences(spec, [(tokens, 0, 0)], logits="all"))
    pairs = zip(graph.nodes, graph.repeats, strict=True)
    return [
        (op, count) for op, count in pairs if isinstance(op, Gemm) and op.stationary == "weight"
    ]


def layers(spec: ModelSpec, accelerator: FlexCiM, tokens: int) -> list[tuple[Gemm, int, Cost]]:
    """Each linear, how often it is there, and its cost. InputError names one that the accelerator
    refuses: without it a total would be too small.
    """
    found = []
    for op, count in linears(spec, tokens):
        try:
            found.append((op, count, accelerator.estimate(op)))
        except UnsupportedOp as error:
            raise InputError(f"{op.name or 'a layer'} of {spec.name}: {error}") from None
    return found


def layer_table(spec: ModelSpec, params: FlexCiMParams, tokens: int) -> Table:
    """A row a kind of layer: shape, pattern, passes, cycles, utilisation, energy by part."""
    accelerator = FlexCiM(params)
    found: dict[tuple[Any, ...], list[float]] = {}
    for op, count, cost in layers(spec, accelerator, tokens):
        detail = dict(cost.detail)
        masks = _masks(op, params)
        key = (op.name.split(".")[-1], int(op.k), int(op.n), op.sparsity or "dense", masks)
        joules, parts = cost.joules or 0.0, [detail[f"{part}_j"] for part in PARTS]
        each = [
            *(detail[name] for name in ("cycles", "passes", "utilisation")),
            *(cost.seconds, joules, *parts, joules - sum(parts)),  # the rest is leakage
        ]
        values = [float(count), *(value * count for value in each)]
        sums = found.setdefault(key, [0.0] * len(values))
        found[key] = [a + b for a, b in zip(sums, values, strict=True)]
    rows = []
    for (layer, k, n, pattern, masks), sums in found.items():
        number = sums[0]
        mean = (sums[2] / number, sums[1] / number, sums[3] / number)
        rows.append((layer, k, n, pattern, int(number), masks, *mean, *sums[4:]))
    modelled: dict[str, Any] = {"provenance": "modelled"}
    return Table(
        name="flexcim_layers",
        title=f"Layers of {spec.name} on flexcim:{params.preset}, {_count(tokens)}",
        columns=(
            *(
                Column(name=name)
                for name in ("layer", "inputs", "outputs", "pattern", "layers", "masks")
            ),
            Column(name="passes", unit="1", **modelled),
            Column(name="cycles each", unit="cycles", **modelled),
            Column(name="utilisation", unit="1", **modelled),
            Column(name="time", unit="s", **modelled),
            Column(name="energy", unit="J", **modelled),
            *(Column(name=part, unit="J", **modelled) for part in (*PARTS, "leakage")),
        ),
        rows=tuple(rows),
        note="Linears with stored weights; attention, scans and elementwise work are not in it. "
        "Passes are those of the real masks, or expected "
        "of random ones.",
    )


def _count(tokens: int) -> str:
    return "1 token" if tokens == 1 else f"{tokens} tokens at once"


def _masks(op: Gemm, params: FlexCiMParams) -> str:
    """Whose passes are counted: none where every tile takes one in any case."""
    if op.sparsity is None or params.preset != "flexible" or params.select_sharing == "ideal":
        return "any"
    return "random" if known_passes(op, params) is None else "real"


def totals(spec: ModelSpec, params: FlexCiMParams, tokens: int) -> tuple[float, float]:
    """(seconds, joules) of all linears that the accelerator runs, for that many tokens at once."""
    seconds = joules = 0.0
    for _, count, cost in layers(spec, FlexCiM(params), tokens):
        seconds += cost.seconds * count
        joules += (cost.joules or 0.0) * count
    return seconds, joules


def preset_table(spec: ModelSpec, params: FlexCiMParams, tokens: int) -> Table:
    """The presets on one model: seconds, joules, and the ratio of each to `flexible`."""
    costs: Mapping[str, tuple[float, float]] = {
        preset: totals(spec, params.model_copy(update={"preset": preset}), tokens)
        for preset in PRESETS
    }
    base = costs["flexible"]
    modelled: dict[str, Any] = {"provenance": "modelled"}
    return Table(
        name="flexcim_presets",
        title=f"{spec.name}, {_count(tokens)}, select {params.select_sharing}, {params.weights}",
        columns=(
            Column(name="preset"),
            Column(name="time", unit="s", **modelled),
            Column(name="energy", unit="J", **modelled),
            Column(name="time over flexible's", unit="1", **modelled),
            Column(name="energy over flexible's", unit="1", **modelled),
        ),
        rows=tuple(
            (preset, seconds, joules, seconds / base[0], joules / base[1])
            for preset, (seconds, joules) in costs.items()
        ),
    )
