"""The roofline model: an op takes the longer of its arithmetic at peak rate and its bytes at peak bandwidth.

Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009; plus a fixed launch overhead an op. Every figure of a
preset names its source. Nothing is derated: real kernels are slower, so times are lower bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosslayer.accelerators.params import RooflineParams, presets
from crosslayer.contracts import ops
from crosslayer.contracts.cost import BOUNDS, Cost, CostTable
from crosslayer.contracts.formats import number_format
from crosslayer.contracts.hardware import HardwareSpec
from crosslayer.contracts.ops import Op, OpTable
from crosslayer.errors import UnsupportedOp

COMPUTE, MEMORY, LAUNCH = (BOUNDS.index(name) for name in ("compute", "memory", "launch"))

# The formats an operand can be computed in without loss of range, narrowest first.
WIDER = {
    "int4": ("int4", "int8", "fp16", "bf16", "fp32"),
    "int8": ("int8", "fp16", "bf16", "fp32"),
    "nvfp4": ("nvfp4", "fp8_e4m3fn", "bf16", "fp16", "fp32"),
    "mxfp4": ("mxfp4", "fp8_e4m3fn", "bf16", "fp16", "fp32"),
    "fp8_e4m3fn": ("fp8_e4m3fn", "bf16", "fp16", "fp32"),
    "fp8_e5m2": ("fp8_e4m3fn", "bf16", "fp16", "fp32"),
    "fp16": ("fp16", "fp32"),
    "bf16": ("bf16", "fp32"),
    "fp32": ("fp32",),
}


class Roofline:
    """An accelerator as peak rates and a memory bandwidth.

    A Gemm computes in the narrowest format that holds both operands and that the hardware has a rate for.
    Sparse units speed up only the patterns that the preset names; those weights are read packed. Any other
    pattern runs dense and is read dense, unless `packed_kernels`. Quantized weights are read packed.
    """

    def __init__(self, params: RooflineParams) -> None:
        self.params = params
        preset = presets()[params.preset]
        self._spec = HardwareSpec(name=f"roofline:{params.preset}", **preset)
        self._rates = {(rate.format, rate.sparsity): rate.flops_per_s for rate in self._spec.rates}
        self._bytes_per_s = self._spec.memories[0].bytes_per_s
        overhead = params.launch_overhead_s
        self._launch_s = self._spec.launch_overhead_s if overhead is None else overhead

    def describe(self) -> HardwareSpec:
        """Rates, memories and ports with their sources."""
        return self._spec

    def supports(self, op: Op) -> bool:
        """Everything that computes; collectives belong to the network."""
        return not isinstance(op, ops.Collective)

    def estimate(self, op: Op) -> Cost:
        """Cost of one op: max(flops / rate, bytes / bandwidth) + launch."""
        if not self.supports(op):
            raise UnsupportedOp(f"{self._spec.name} prices no collectives; the stack's network does")
        seconds, flops, moved, bound = self._estimate(op)
        return Cost(
            float(seconds), None, float(flops), float(moved), BOUNDS[int(bound)], (("launch_s", self._launch_s),)
        )

    def estimate_many(self, table: OpTable) -> CostTable:
        """The same as columns."""
        if table.op_type is ops.Collective:
            raise UnsupportedOp(f"{self._spec.name} prices no collectives; the stack's network does")
        seconds, flops, moved, bound = (_column(values, len(table)) for values in self._estimate(table))
        return CostTable(seconds, None, flops, moved, bound.astype(np.int8))

    def _estimate(self, op: Any) -> tuple[Any, Any, Any, Any]:
        flops = ops.flops(op)
        rate, packed = self._rate(op)
        moved = ops.activation_bytes(op) + (ops.weight_bytes(op) if packed else _dense_weight_bytes(op))
        compute_s, memory_s = flops / rate, moved / self._bytes_per_s
        busy = np.maximum(compute_s, memory_s)
        bound = np.where(compute_s >= memory_s, COMPUTE, MEMORY)
        return busy + self._launch_s, flops, moved, np.where(busy < self._launch_s, LAUNCH, bound)

    def _rate(self, op: Any) -> tuple[float, bool]:
        """(FLOP/s for this op, whether pruned weights are read packed)."""
        kind = ops.op_type(op)
        if kind is ops.Gemm or kind is ops.Conv2d:
            form = self.compute_format(op.weight_format, op.activation_format)
            if kind is ops.Gemm and op.sparsity is not None:
                sparse = self._rates.get((form, op.sparsity))
                if sparse is not None:
                    return sparse, True
            return self._rates[form, None], self.params.packed_kernels
        if kind is ops.Attention:
            return self._rates[self.compute_format(op.activation_format, op.activation_format), None], True
        return self._rates["fp32", None], True

    def compute_format(self, weight_format: str, activation_format: str) -> str:
        """The format a product of these operands is computed in on this hardware."""
        wide = _wider_than(weight_format) & _wider_than(activation_format)
        if self.params.tf32 and wide == {"fp32"} and ("tf32", None) in self._rates:
            return "tf32"
        known = [form for form, sparsity in self._rates if sparsity is None and form in wide]
        return max(known, key=lambda form: self._rates[form, None])


def _wider_than(name: str) -> set[str]:
    form = number_format(name)
    base = name if name in WIDER else name.split("-")[0]
    if base not in WIDER:
        base = "int4" if form.kind != "float" and form.bits <= 4 else "int8" if form.kind != "float" else "nvfp4"
    return set(WIDER[base])


def _dense_weight_bytes(op: Any) -> Any:
    if ops.op_type(op) is not ops.Gemm or op.sparsity is None:
        return ops.weight_bytes(op)
    bias = op.n * number_format(op.activation_format).storage_bits / 8 if op.bias else 0
    return op.groups * (op.k * op.n * number_format(op.weight_format).storage_bits / 8 + bias)


def _column(values: Any, rows: int) -> Any:
    array = np.asarray(values)
    return array if array.shape == (rows,) else np.full(rows, array)
