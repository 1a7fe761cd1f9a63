"""Cycles, energy and area of a Gemm on the macros and on the baselines; columns or numbers alike.

A tile is what a macro holds at a time. While it computes, the next one is written row by row into
the other half of its cells, so a tile takes the longer of both; macros take tiles in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crosslayer.contracts.sparsity import NMSparsity
from flow_flexcim.flexcim.macro import Macro, Placement, placement
from flow_flexcim.flexcim.params import FlexCiMParams
from flow_flexcim.flexcim.technology import Technology

WEIGHT_BITS, ACTIVATION_BITS = 8, 8
PRODUCT_BITS = 16
SUM_BITS = 32  # accumulators over tiles of K
PIPELINE = 3  # distributed lines, column sums, merged totals, as in rtl/macro.v


@dataclass(frozen=True)
class Tiling:
    """What one op needs. inputs, outputs: K and N of a tile. cell_bits: stored a cell, index bits
    included. pipeline: cycles from the first input to the last output.
    """

    place: Placement
    inputs: int
    outputs: int
    load_cycles: int
    pipeline: int
    cell_bits: int


@dataclass(frozen=True)
class Work:
    """Of one op, floats or columns. joules: by part. useful: multiplications by kept weights over
    what the multipliers could have done in that time.
    """

    cycles: Any
    tiles: Any
    joules: dict[str, Any]
    useful: Any


def macro_of(params: FlexCiMParams) -> Macro:
    """The geometry of one macro."""
    return Macro(params.sub_macros, params.rows, params.columns, params.pairs)


def technology(params: FlexCiMParams) -> Technology:
    """The constants that these parameters ask for."""
    return Technology(**params.constants)


def tiling(pattern: NMSparsity | None, params: FlexCiMParams) -> Tiling | str:
    """How a pattern runs on the preset, or why it does not."""
    macro = macro_of(params)
    rows = params.sub_macros * params.rows
    load = -(-params.rows // params.write_rows)
    dense = Placement(1, 1, rows)
    if params.preset == "systolic":
        load = -(-rows // params.write_rows)
        return Tiling(dense, rows, params.columns, load, rows + params.columns, WEIGHT_BITS)
    if params.preset == "dense":
        return Tiling(dense, rows, params.columns, load, PIPELINE, WEIGHT_BITS)
    if params.preset == "fixed-2to4":
        place = Placement(2, 4, 2 * rows) if _is_2to4(pattern) else dense
        bits = WEIGHT_BITS + 2
        return Tiling(place, place.inputs, params.columns, load, PIPELINE, bits)
    found = placement(pattern, macro)
    if isinstance(found, str):
        return found
    select = 0 if found.dense else (found.m // 2 - 1).bit_length()
    bits = WEIGHT_BITS + 1 + select
    return Tiling(found, found.inputs, params.columns, load, PIPELINE, bits)


def work(
    op: Any, tile: Tiling, passes: float, density: float, packed_bytes: Any, params: FlexCiMParams
) -> Work:
    """Cycles and energy of a Gemm (an op or a table). passes: of a tile. packed_bytes: of all
    weights as they are stored, for the DRAM.
    """
    p, tech = params, technology(params)
    rows_each = op.m / op.groups  # of the activations, a group
    k_tiles = np.ceil(op.k / tile.inputs)
    tiles = op.groups * k_tiles * np.ceil(op.n / tile.outputs)
    busy = rows_each * passes * p.input_cycles
    per_tile = np.maximum(tile.load_cycles, busy)
    cycles = tile.load_cycles + np.ceil(tiles / p.macros) * per_tile + tile.pipeline

    cells = p.sub_macros * p.rows * p.columns
    shots = tiles * rows_each * passes  # times that a whole macro computes
    multiplications = op.m * op.k * op.n * density
    joules: dict[str, Any] = {"cells": multiplications * tech.multiplier_j}
    if p.preset == "systolic":
        # Every element takes part, the padding too: an add, and registers for x and the sum.
        per_cell = SUM_BITS * (tech.adder_j + tech.register_j) + ACTIVATION_BITS * tech.register_j
        joules["trees"] = shots * cells * per_cell
        joules["merge"] = joules["select"] = 0.0 * shots
    else:
        joules["trees"] = shots * p.sub_macros * p.columns * _tree_bits(p.rows) * tech.adder_j
        width = PRODUCT_BITS + (p.rows - 1).bit_length()
        merge = (p.sub_macros - 1) * width * tech.adder_j
        merge += SUM_BITS * (tech.adder_j + tech.register_j)
        joules["merge"] = shots * p.columns * merge
        joules["select"] = shots * _select_bits(tile, p) * tech.select_j
        if p.preset == "flexible" and not tile.place.dense:
            joules["select"] += shots * cells * _compared_bits(p) * tech.compare_j
    act = tiles * rows_each * tile.inputs  # bytes: a tile reads its inputs once a token
    sums = 2 * op.m * op.n * k_tiles * SUM_BITS / 8
    joules["buffers"] = (act + sums) * tech.sram_j_per_byte
    joules["loading"] = tiles * cells * tile.cell_bits / 8 * tech.sram_j_per_byte
    streamed = packed_bytes if p.weights == "streamed" else 0.0 * packed_bytes
    joules["dram"] = streamed * tech.dram_j_per_byte
    useful = multiplications / (cycles * p.macros * cells / p.input_cycles)
    return Work(cycles, tiles, joules, useful)


def area_mm2(params: FlexCiMParams) -> dict[str, float]:
    """Area of all macros by part, mm2; buffers and DRAM are not in it."""
    p, tech = params, technology(params)
    cells = p.sub_macros * p.rows * p.columns
    index = {"flexible": 1 + (p.pairs - 1).bit_length(), "fixed-2to4": 2}.get(p.preset, 0)
    bits = WEIGHT_BITS + index
    parts = {
        "weights": 2 * cells * bits * tech.sram_cell_mm2,
        "multipliers": cells * tech.multiplier_mm2,
    }
    if p.preset == "systolic":
        adders = cells * SUM_BITS * tech.adder_mm2
        registers = cells * (SUM_BITS + ACTIVATION_BITS) * tech.register_mm2
        parts |= {"adders": adders, "registers": registers}
    else:
        width = PRODUCT_BITS + (p.rows - 1).bit_length()
        parts["trees"] = p.sub_macros * p.columns * _tree_bits(p.rows) * tech.adder_mm2
        merge = ((p.sub_macros - 1) * width + SUM_BITS) * tech.adder_mm2
        parts["merging"] = p.columns * (merge + SUM_BITS * tech.register_mm2)
    if p.preset == "fixed-2to4":
        parts["selectors"] = cells * 3 * ACTIVATION_BITS * tech.select_mm2
    if p.preset == "flexible":
        copies = p.columns if p.select_sharing == "ideal" else 1
        parts["distribution"] = copies * p.rows * _row_select_bits(p) * tech.select_mm2
        parts["cell selectors"] = cells * ACTIVATION_BITS * tech.select_mm2
        parts["comparators"] = cells * _compared_bits(p) * tech.compare_mm2
    return {name: value * p.macros for name, value in parts.items()}


def _tree_bits(rows: int) -> int:
    """Full adders of a tree over `rows` products: half as many adders a level, a bit wider each."""
    bits, left, width = 0, rows, PRODUCT_BITS
    while left > 1:
        bits += left // 2 * width
        left, width = left - left // 2, width + 1
    return bits


def _row_select_bits(p: FlexCiMParams) -> int:
    """2:1 selectors of a row's distribution unit: S of P pairs, then S of S, 16 bits each."""
    return p.sub_macros * ((p.pairs - 1) + (p.sub_macros - 1)) * 2 * ACTIVATION_BITS


def _select_bits(tile: Tiling, p: FlexCiMParams) -> int:
    """2:1 selectors that toggle when a macro computes once; those of dense weights rest."""
    if tile.place.dense:
        return 0
    cells = p.sub_macros * p.rows * p.columns
    if p.preset == "fixed-2to4":
        return cells * 3 * ACTIVATION_BITS
    copies = p.columns if p.select_sharing == "ideal" else 1
    row = _row_select_bits(p) if tile.place.m > 2 else 0
    return copies * p.rows * row + cells * ACTIVATION_BITS


def _compared_bits(p: FlexCiMParams) -> int:
    """Bits that a cell compares to know that its row presents the pair it needs."""
    return (p.pairs - 1).bit_length() if p.select_sharing == "per_cell_gating" else 0


def _is_2to4(pattern: NMSparsity | None) -> bool:
    """Whether any mask of the pattern is a 2:4 mask: four inputs touch two groups of 1:M at most,
    and lie in one of 2:M where 4 divides M.
    """
    if pattern is None or pattern.n == pattern.m:
        return False
    return pattern.n == 1 or (pattern.n == 2 and pattern.m % 4 == 0)
