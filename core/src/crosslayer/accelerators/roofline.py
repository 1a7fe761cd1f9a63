"""The roofline model: an op takes as long as its arithmetic or its bytes, whichever is longer.

Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009; on top, a fixed launch overhead an op.
Every figure of a preset names its source. Nothing is derated or fitted, so times are optimistic;
benchmarks/README.md compares them with recorded ones.
"""

from __future__ import annotations

from functools import cache
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

# The units that compute with an element of each format exactly; scales are applied to the sums.
# fp16 and bf16 have 11 and 8 significant bits, tf32 has the bits of the one and the range of the
# other, fp8_e4m3fn has 4 bits: enough for a 4-bit integer and for e2m1.
HELD_BY = {
    "int4": ("int4", "int8", "fp8_e4m3fn", "fp16", "bf16", "tf32", "fp32"),
    "int8": ("int8", "fp16", "bf16", "tf32", "fp32"),
    "nvfp4": ("nvfp4", "fp8_e4m3fn", "fp16", "bf16", "tf32", "fp32"),
    "mxfp4": ("mxfp4", "fp8_e4m3fn", "fp16", "bf16", "tf32", "fp32"),
    "fp8_e4m3fn": ("fp8_e4m3fn", "fp16", "bf16", "tf32", "fp32"),
    "fp8_e5m2": ("fp8_e4m3fn", "fp16", "bf16", "tf32", "fp32"),  # the fp8 units take both codes
    "fp16": ("fp16", "tf32", "fp32"),
    "bf16": ("bf16", "tf32", "fp32"),
    "fp32": ("fp32",),
}


class Roofline:
    """An accelerator as peak rates and a memory bandwidth.

    A Gemm computes on the fastest units that hold both operands exactly; activation outliers in a
    wider format compute in that format, for their share. Sparse units speed up only the patterns
    that the preset names; those weights are read packed. Any other pattern computes dense and is
    read dense, unless `packed_kernels`. Quantized weights are read packed. Elementwise work and
    scans run on the fp32 units.
    """

    def __init__(self, params: RooflineParams) -> None:
        self.params = params
        spec = HardwareSpec(name=f"roofline:{params.preset}", **presets()[params.preset])
        self._spec = spec.replace(notes=(*spec.notes, _about_sparsity(spec, params.packed_kernels)))
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
        """Cost of one op: max(flops / rate, bytes / bandwidth) + launch. Errors: UnsupportedOp."""
        seconds, flops, moved, bound = self._estimate(op)
        return Cost(
            float(seconds), None, float(flops), float(moved), BOUNDS[int(bound)],
            (("launch_s", self._launch_s),),
        )  # fmt: skip

    def estimate_many(self, table: OpTable) -> CostTable:
        """The same as columns."""
        columns = (_column(values, len(table)) for values in self._estimate(table))
        seconds, flops, moved, bound = columns
        return CostTable(seconds, None, flops, moved, bound.astype(np.int8))

    def compute_format(
        self, weight_format: str, activation_format: str, sparsity: str | None = None
    ) -> tuple[str, str | None]:
        """(format, pattern) of the units that run such a product; pattern None: dense."""
        usable = held_by(weight_format) & held_by(activation_format)
        if self.params.tf32 and "fp32" in usable:
            usable |= {"tf32"}
        units = [unit for unit in self._rates if unit[0] in usable and unit[1] in (None, sparsity)]
        # of equally fast units the sparse ones: they read less
        return max(units, key=lambda unit: (self._rates[unit], unit[1] is not None))

    def _estimate(self, op: Any) -> tuple[Any, Any, Any, Any]:
        if ops.op_type(op) is ops.Collective:
            raise UnsupportedOp(
                f"{self._spec.name} prices no Collective: the network does, from the stack's "
                "topology or the accelerator's port"
            )
        flops = ops.flops(op)
        moved = ops.activation_bytes(op) + self._weight_bytes(op)
        compute_s, memory_s = self._compute_s(op, flops), moved / self._bytes_per_s
        busy = np.maximum(compute_s, memory_s)
        bound = np.where(compute_s >= memory_s, COMPUTE, MEMORY)
        return busy + self._launch_s, flops, moved, np.where(busy < self._launch_s, LAUNCH, bound)

    def _compute_s(self, op: Any, flops: Any) -> Any:
        kind = ops.op_type(op)
        if kind is ops.Gemm:
            main = self._rate(op.weight_format, op.activation_format, op.sparsity)
            if not op.outlier_share:
                return flops / main
            wide = self._rate(op.weight_format, op.outlier_format, op.sparsity)
            return flops * (1 - op.outlier_share) / main + flops * op.outlier_share / wide
        if kind is ops.Conv2d:
            return flops / self._rate(op.weight_format, op.activation_format)
        if kind is ops.Attention:
            return flops / self._rate(op.kv_format, op.activation_format)
        return flops / self._rates["fp32", None]

    def _rate(self, weight_format: str, other: str, sparsity: str | None = None) -> float:
        return self._rates[self.compute_format(weight_format, other, sparsity)]

    def _weight_bytes(self, op: Any) -> Any:
        """Stored bytes read; of pruned weights all, unless units or kernel take them packed."""
        packed = ops.weight_bytes(op)
        if ops.op_type(op) is not ops.Gemm or op.sparsity is None:
            return packed
        if self.compute_format(op.weight_format, op.activation_format, op.sparsity)[1] is not None:
            return packed
        dense = ops.weight_bytes(ops.changed(op, sparsity=None))
        # indices can outweigh what was pruned (7:8 of int4); a kernel then takes them dense
        return np.minimum(packed, dense) if self.params.packed_kernels else dense


@cache
def held_by(name: str) -> frozenset[str]:
    """The units (formats of HELD_BY's values) that compute with this format's elements exactly."""
    form = number_format(name)
    element = form.name if form.name in HELD_BY else form.name.split("-")[0]
    if element not in HELD_BY:  # int2 .. int7, ternary, e2m1 with other scales
        narrow = "int4" if form.bits <= 4 else "int8"
        element = "nvfp4" if form.kind == "float" else narrow
    return frozenset(HELD_BY[element])


def _about_sparsity(spec: HardwareSpec, packed: bool) -> str:
    """What happens to pruned weights on this hardware, for the report."""
    fast = sorted({rate.sparsity for rate in spec.rates if rate.sparsity})
    others = f"N:M patterns other than {', '.join(fast)}" if fast else "N:M patterns"
    read = "read packed, where that is smaller" if packed else "read unpacked"
    return f"{spec.name} computes {others} dense; their weights are {read}."


def _column(values: Any, rows: int) -> Any:
    array = np.asarray(values)
    return array if array.shape == (rows,) else np.full(rows, array)
