"""Checks of accelerator models, on ops of every type and on the graph of a small Llama."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np

from crosslayer.contracts import ops
from crosslayer.contracts.hardware import HardwareSpec
from crosslayer.contracts.lowering import lower
from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.steps import StepShape
from crosslayer.errors import UnsupportedOp
from crosslayer.stepcost import without
from crosslayer.testing.kit import CheckFailed, Subject, check
from crosslayer.testing.transforms import TINY

HEADS: dict[str, Any] = {"heads": 8, "kv_heads": 2, "head_dim": 64, "value_dim": 64}
SAMPLE: tuple[Any, ...] = (
    ops.Gemm(m=1, k=576, n=1536, name="decode"),
    ops.Gemm(m=512, k=576, n=1536, name="prefill"),
    ops.Gemm(m=64, k=1024, n=1024, weight_format="int8", activation_format="int8", name="int8"),
    ops.Gemm(m=16, k=1024, n=4096, sparsity="2:4", name="2:4"),
    ops.Gemm(m=16, k=1024, n=4096, sparsity="4:8", name="4:8"),
    ops.Gemm(m=16, k=1024, n=4096, weight_format="nvfp4", name="nvfp4"),
    ops.Gemm(m=32, k=512, n=512, groups=5.5, name="experts"),
    ops.Attention(
        sequences=4,
        queries=4,
        pairs=2048,
        kv_tokens=2048,
        kv_bytes=2048 * 512,
        name="decode",
        **HEADS,
    ),
    ops.Attention(
        sequences=1,
        queries=128,
        pairs=8256,
        kv_tokens=128,
        kv_bytes=128 * 512,
        phase="prefill",
        name="prefill",
        **HEADS,
    ),
    ops.SelectiveScan(tokens=16, sequences=4, channels=1024, state=16, name="mamba"),
    ops.CircularConvolution(vectors=4, dim=256, name="binding"),
    ops.Conv2d(
        positions=784,
        inputs=784,
        in_channels=16,
        out_channels=32,
        kernel_h=3,
        kernel_w=3,
        name="conv",
    ),
    ops.Conv2d(
        positions=64,
        inputs=64,
        in_channels=64,
        out_channels=64,
        kernel_h=1,
        kernel_w=4,
        groups=64,
        name="depthwise",
    ),
    ops.Elementwise(elements=4096, kind="add", reads=2, name="add"),
    ops.Elementwise(
        elements=4096, kind="norm", flops_per_element=4, weight_elements=1024, name="norm"
    ),
    ops.Collective(payload_bytes=1e6, devices=2, name="all-reduce"),
)


def _supported(accelerator: Any) -> list[Any]:
    taken = [op for op in SAMPLE if accelerator.supports(op)]
    if not taken:
        raise CheckFailed("it supports no op at all, not even a bf16 Gemm")
    return taken


@check("accelerator_model")
def costs_are_finite_and_not_negative(subject: Subject) -> None:
    """Seconds, joules, FLOPs and bytes of every op it supports."""
    accelerator = subject.build()
    for op in _supported(accelerator):
        cost = accelerator.estimate(op)
        for name in ("seconds", "joules", "flops", "bytes"):
            value = getattr(cost, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise CheckFailed(f"{name} of {type(op).__name__} {op.name!r} is {value}")


@check("accelerator_model")
def refusals_give_their_reason(subject: Subject) -> None:
    """`supports` and `estimate` agree: what is not supported raises UnsupportedOp with a reason."""
    accelerator = subject.build()
    for op in SAMPLE:
        what = f"{type(op).__name__} {op.name!r}"
        try:
            accelerator.estimate(op)
        except UnsupportedOp as error:
            if accelerator.supports(op):
                raise CheckFailed(
                    f"{what} is supported, yet estimate refuses it: {error}"
                ) from error
            if not str(error).strip():
                raise CheckFailed(f"{what} is refused without a reason") from error
        else:
            if not accelerator.supports(op):
                raise CheckFailed(
                    f"{what} is not supported, yet estimate prices it; raise UnsupportedOp"
                )


@check("accelerator_model")
def a_larger_op_never_costs_less(subject: Subject) -> None:
    """With every dimension doubled, seconds and joules do not fall."""
    accelerator = subject.build()
    for op in _supported(accelerator):
        larger = replace(op, **{name: 2 * getattr(op, name) for name in op.numeric})
        if not accelerator.supports(larger):
            continue
        small, large = accelerator.estimate(op), accelerator.estimate(larger)
        for name in ("seconds", "joules"):
            a, b = getattr(small, name), getattr(large, name)
            if a is not None and b is not None and b < a:
                raise CheckFailed(
                    f"{name} of {type(op).__name__} {op.name!r} fall from {a} to {b} when all "
                    "dimensions double"
                )


@check("accelerator_model")
def columns_agree_with_single_ops(subject: Subject) -> None:
    """`estimate_many`, where offered, gives each row what `estimate` gives."""
    accelerator = subject.build()
    if not hasattr(accelerator, "estimate_many"):
        return
    for op in _supported(accelerator):
        factors = np.array([1.0, 2.0, 3.0, 7.0])
        columns = {
            name: np.asarray(getattr(op, name) * factors)
            if name == op.numeric[0]
            else getattr(op, name)
            for name in (f.name for f in fields(op))
        }
        table = ops.OpTable(type(op), columns)
        many = accelerator.estimate_many(table)
        for i in range(len(table)):
            one, row = accelerator.estimate(table.row(i)), many.row(i)
            for name in ("seconds", "joules", "flops", "bytes"):
                a, b = getattr(one, name), getattr(row, name)
                if (a is None) != (b is None) or (
                    a is not None and not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-30)
                ):
                    raise CheckFailed(
                        f"{name} of {type(op).__name__} {op.name!r}: {a} alone, {b} in a column"
                    )


@check("accelerator_model")
def a_graph_lies_between_its_critical_path_and_its_sum(subject: Subject) -> None:
    """`estimate_graph`, where offered: overlap saves time, but never below the longest chain."""
    accelerator = subject.build()
    if not hasattr(accelerator, "estimate_graph"):
        return
    spec = ModelSpec.from_hf_config(TINY)
    for batch in ([(128, 0, 0)], [(1, 100, 5)] * 4):
        graph = lower(spec, StepShape.from_sequences(spec, batch))
        graph = without(
            graph, {i for i, op in enumerate(graph.nodes) if not accelerator.supports(op)}
        )
        seconds = [accelerator.estimate(op).seconds for op in graph.nodes]
        low = graph.critical_path(seconds)
        high = sum(s * n for s, n in zip(seconds, graph.repeats, strict=True))
        found = accelerator.estimate_graph(graph).seconds
        if not low * (1 - 1e-9) <= found <= high * (1 + 1e-9):
            raise CheckFailed(
                f"a graph takes {found} s; its critical path is {low} s, its ops in turn {high} s"
            )


@check("accelerator_model")
def the_hardware_is_described_with_sources(subject: Subject) -> None:
    """`describe` names the hardware; every rate, memory and port says where its figure is from."""
    spec = subject.build().describe()
    if not isinstance(spec, HardwareSpec):
        raise CheckFailed(f"describe returns a {type(spec).__name__}, not a HardwareSpec")
    parts: tuple[Any, ...] = (*spec.rates, *spec.memories, *spec.ports)
    for part in parts:
        if not part.source.strip():
            raise CheckFailed(
                f"{type(part).__name__} {getattr(part, 'name', getattr(part, 'format', ''))!r} "
                "has no source"
            )
