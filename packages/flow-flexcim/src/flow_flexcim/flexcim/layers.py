"""Tables of the accelerator: what every layer costs, and the presets side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosslayer.contracts.lowering import lower
from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.ops import Gemm
from crosslayer.contracts.report import Column, Table
from crosslayer.contracts.steps import StepShape
from flow_flexcim.flexcim.accelerator import FlexCiM
from flow_flexcim.flexcim.params import PRESETS, FlexCiMParams

PARTS = ("cells", "trees", "merge", "select", "buffers", "loading", "dram")


def layers(spec: ModelSpec, accelerator: FlexCiM) -> list[tuple[Gemm, int]]:
    """The Gemms of one token's decode step that the accelerator runs, and how often each is there.

    Rows of another step are `m` times as many.
    """
    graph = lower(spec, StepShape.from_sequences(spec, [(1, 0, 0)]))
    pairs = zip(graph.nodes, graph.repeats, strict=True)
    return [(op, count) for op, count in pairs if isinstance(op, Gemm) and accelerator.supports(op)]


def layer_table(spec: ModelSpec, params: FlexCiMParams, tokens: int) -> Table:
    """A row a kind of layer: shape, pattern, passes, cycles, utilisation, energy by part."""
    accelerator = FlexCiM(params)
    found: dict[tuple[Any, ...], list[float]] = {}
    for op, count in layers(spec, accelerator):
        cost = accelerator.estimate(_rows(op, tokens))
        detail = dict(cost.detail)
        key = (op.name.split(".")[-1], int(op.k), int(op.n), op.sparsity or "dense")
        values = [
            float(count),
            *(detail[name] * count for name in ("cycles", "passes", "utilisation")),
            cost.seconds * count, (cost.joules or 0.0) * count,
            *(detail[f"{part}_j"] * count for part in PARTS),
        ]  # fmt: skip
        sums = found.setdefault(key, [0.0] * len(values))
        found[key] = [a + b for a, b in zip(sums, values, strict=True)]
    rows = []
    for (layer, k, n, pattern), sums in found.items():
        number = sums[0]
        mean = (sums[2] / number, sums[1] / number, sums[3] / number)
        rows.append((layer, k, n, pattern, int(number), *mean, *sums[4:]))
    modelled: dict[str, Any] = {"provenance": "modelled"}
    return Table(
        name="flexcim_layers",
        title=f"Layers of {spec.name} on flexcim:{params.preset}, {tokens} tokens",
        columns=(
            *(Column(name=name) for name in ("layer", "inputs", "outputs", "pattern", "layers")),
            Column(name="passes", unit="1", **modelled),
            Column(name="cycles each", unit="cycles", **modelled),
            Column(name="utilisation", unit="1", **modelled),
            Column(name="time", unit="s", **modelled),
            Column(name="energy", unit="J", **modelled),
            *(Column(name=f"{part}", unit="J", **modelled) for part in PARTS),
        ),
        rows=tuple(rows),
        note="Linears with stored weights; attention, scans and elementwise work are not in it. "
        "The energy has leakage beside its parts.",
    )


def totals(spec: ModelSpec, params: FlexCiMParams, tokens: int) -> tuple[float, float]:
    """(seconds, joules) of all linears that the accelerator runs, for that many tokens at once."""
    accelerator = FlexCiM(params)
    seconds = joules = 0.0
    for op, count in layers(spec, accelerator):
        cost = accelerator.estimate(_rows(op, tokens))
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
        title=f"{spec.name}, {tokens} tokens, select {params.select_sharing}, {params.weights}",
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


def _rows(op: Gemm, tokens: int) -> Gemm:
    from dataclasses import replace

    return replace(op, m=op.m * tokens)
