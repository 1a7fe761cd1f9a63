"""The accelerator `flexcim`: FlexCiM's macro, and baselines with as many multipliers.

Analytical; every number is modelled. The paper's own circuit figures are not available to us and
none is used: constants are in `technology`, with their sources.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosslayer.contracts import ops
from crosslayer.contracts.cost import BOUNDS, Cost, CostTable
from crosslayer.contracts.hardware import HardwareSpec, Memory, Rate
from crosslayer.contracts.number_format import number_format
from crosslayer.contracts.ops import Op, OpTable
from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import UnsupportedOp
from flow_flexcim.flexcim.cost import (
    Tiling,
    Work,
    area_mm2,
    macro_of,
    technology,
    tiling,
    work,
)
from flow_flexcim.flexcim.macro import expected_passes
from flow_flexcim.flexcim.params import FlexCiMParams
from flow_flexcim.flexcim.technology import SOURCE

COMPUTE, MEMORY = BOUNDS.index("compute"), BOUNDS.index("memory")


class FlexCiM:
    """Gemms with stored weights; everything else needs a fallback.

    Passes of a tile: measured on real masks where the op carries them (annotation
    `flexcim.<sharing>.<S>x<R>x<C>`, which `flow` with hardware = "flexcim" writes), else those
    expected of random masks of the pattern.
    """

    def __init__(self, params: FlexCiMParams | None = None) -> None:
        self.params = params or FlexCiMParams()
        self._macro = macro_of(self.params)
        self._area = sum(area_mm2(self.params).values())
        self._leakage_w = technology(self.params).leakage_w_per_mm2 * self._area

    def describe(self) -> HardwareSpec:
        """Dense int8 rate, the weight memory where it is streamed, area; sources of each."""
        p = self.params
        cells = p.sub_macros * p.rows * p.columns * p.macros
        rate = Rate(
            format="int8",
            flops_per_s=2 * cells * p.clock_hz / p.input_cycles,
            source="2 x macros x cells x clock: parameters",
        )
        memories: tuple[Memory, ...] = ()
        if p.weights == "streamed":
            memories = (
                Memory(
                    name="DRAM",
                    bytes=8e9,
                    bytes_per_s=p.dram_bytes_per_s,
                    source="the parameter dram_bytes_per_s; capacity is not modelled",
                ),
            )
        return HardwareSpec(
            name=f"flexcim:{p.preset}",
            rates=(rate,),
            memories=memories,
            clock_hz=p.clock_hz,
            area_mm2=self._area,
            notes=(
                f"Modelled. Sources: {SOURCE}.",
                f"Pair select: {p.select_sharing}; weights {p.weights}. N:M runs with N rounded up "
                "to a power of two.",
                *(
                    [f"Constants of the run's own: {', '.join(p.constants)}."]
                    if p.constants
                    else []
                ),
                *(["Wider formats are priced as 8-bit ones (as_int8)."] if p.as_int8 else []),
            ),
        )

    def supports(self, op: Op) -> bool:
        """Gemms with stored int8 weights (any format with as_int8) in a pattern that fits."""
        return isinstance(self._plan(op), tuple)

    def estimate(self, op: Op) -> Cost:
        """Cost of a Gemm; detail has cycles, tiles, passes, utilisation and joules by part.

        Errors: UnsupportedOp with the reason.
        """
        seconds, done, bound, passes, packed = self._estimate(op)
        detail = [
            *(("cycles", done.cycles), ("passes", passes), ("tiles", done.tiles)),
            ("utilisation", done.useful),
            *((f"{part}_j", value) for part, value in done.joules.items()),
        ]
        return Cost(
            float(seconds),
            float(self._joules(done, seconds)),
            float(ops.flops(op)),
            float(packed + ops.activation_bytes(op)),
            BOUNDS[int(bound)],
            tuple((name, float(value)) for name, value in detail),
        )

    def estimate_many(self, table: OpTable) -> CostTable:
        """The same as columns."""
        seconds, done, bound, _, packed = self._estimate(table)
        ones = np.ones(len(table))
        return CostTable(
            seconds * ones,
            self._joules(done, seconds) * ones,
            ops.flops(table) * ones,
            (packed + ops.activation_bytes(table)) * ones,
            (bound * ones).astype(np.int8),
        )

    def _estimate(self, op: Any) -> tuple[Any, Work, Any, float, Any]:
        plan = self._plan(op)
        if isinstance(plan, str):
            raise UnsupportedOp(f"flexcim:{self.params.preset}: {plan}")
        tile, passes, density = plan
        bits = tile.cell_bits if not tile.place.dense else 8
        stored = tile.place.slots / tile.place.m
        packed = op.groups * op.k * op.n * stored * bits / 8
        done = work(op, tile, passes, density, packed, self.params)
        compute_s = done.cycles / self.params.clock_hz
        if self.params.weights == "on_chip":
            return compute_s, done, 0 * compute_s + COMPUTE, passes, packed
        memory_s = packed / self.params.dram_bytes_per_s
        bound = np.where(compute_s >= memory_s, COMPUTE, MEMORY)
        return np.maximum(compute_s, memory_s), done, bound, passes, packed

    def _joules(self, done: Work, seconds: Any) -> Any:
        return sum(done.joules.values()) + self._leakage_w * seconds

    def _plan(self, op: Any) -> tuple[Tiling, float, float] | str:
        """Tiling, passes and density of an op, or why it is refused."""
        kind = ops.op_type(op)
        if kind is not ops.Gemm:
            return f"prices no {kind.__name__}: macros multiply by stored weights; set a fallback"
        if op.stationary != "weight":
            return (
                "a Gemm of two activations would be written into the macros anew each step; set a "
                "fallback"
            )
        if op.outlier_share:
            return "activation outliers in a wider format need other multipliers; set a fallback"
        for name in (op.weight_format, op.activation_format):
            form = number_format(name)
            if not self.params.as_int8 and not (form.kind == "int" and form.bits <= 8):
                return f"macros hold 8-bit integers, not {name}; quantize first, or set as_int8"
        pattern = None if op.sparsity is None else NMSparsity.parse(op.sparsity)
        tile = tiling(pattern, self.params)
        if isinstance(tile, str):
            return tile
        passes = 1.0
        if self.params.preset == "flexible" and pattern is not None:
            sharing = self.params.select_sharing
            known = known_passes(op, self.params)
            expected = expected_passes(pattern, tile.place, self._macro, sharing)
            passes = expected if known is None else known
        return tile, passes, 1.0 if pattern is None else pattern.density


def known_passes(op: Any, params: FlexCiMParams) -> float | None:
    """Mean passes of a tile on the real masks of an op; None where it does not carry them.

    Masks that are to be aligned take one pass if they are, else those of column gating.
    """
    sharing, notes = params.select_sharing, dict(op.annotations)
    key = "flexcim.{}." + macro_of(params).name
    if sharing == "aligned_masks":
        aligned = notes.get(key.format("per_cell_gating")) == 1
        sharing = "per_cell_gating" if aligned else "column_gating"
    found = notes.get(key.format(sharing))
    return None if found is None else float(found)
