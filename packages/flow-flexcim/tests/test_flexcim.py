"""The FlexCiM macro: exact products, conserved counts, cycles as the formula says, costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.contracts import ops
from crosslayer.contracts.lowering import lower
from crosslayer.contracts.model import Linear
from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.contracts.steps import StepShape
from crosslayer.errors import InputError, UnsupportedOp
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.testing import BoundCheck, checks_for
from flow_flexcim import Flow, FlowParams
from flow_flexcim.flexcim.accelerator import FlexCiM
from flow_flexcim.flexcim.cost import area_mm2, macro_of, tiling
from flow_flexcim.flexcim.functional import schedule, simulate
from flow_flexcim.flexcim.macro import Macro, expected_passes, placement, tile_passes
from flow_flexcim.flexcim.params import PRESETS, FlexCiMParams
from flow_flexcim.flexcim.technology import Technology

tech = Technology()

SMALL = {"sub_macros": 4, "rows": 4, "columns": 4, "macros": 2}
PATTERNS = ["1:2", "1:4", "2:4", "3:4", "1:8", "2:8", "3:8", "4:8", "5:8", None]
SHARING = ["ideal", "per_cell_gating", "column_gating"]


def pruned(rng: np.random.Generator, n: int, k: int, pattern: NMSparsity | None) -> np.ndarray:
    weight = rng.integers(-128, 128, (n, k)).astype(np.int8)
    if pattern is None:
        return weight
    return np.where(pattern.mask(rng.random((n, k))), weight, 0).astype(np.int8)


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 11), st.integers(1, 12)),
    text=st.sampled_from(PATTERNS),
    sharing=st.sampled_from(SHARING),
)
def test_distribution_cells_and_merging_give_the_exact_integer_product(
    seed: int, shape: tuple[int, int, int], text: str | None, sharing: str
) -> None:
    m, n, groups = shape
    pattern = None if text is None else NMSparsity.parse(text)
    k = 8 * groups
    rng = np.random.default_rng(seed)
    weight = pruned(rng, n, k, pattern)
    x = rng.integers(-128, 128, (m, k)).astype(np.int8)
    params = FlexCiMParams.model_validate(SMALL | {"select_sharing": sharing})
    run = simulate(weight, x, pattern, params)
    assert (run.result == x.astype(np.int64) @ weight.astype(np.int64).T).all()
    tile = tiling(pattern, params)
    assert not isinstance(tile, str)
    # Every stored weight fires once a token in whatever number of passes; all tiles are written.
    fired = m * (n * k if tile.place.dense else int((weight != 0).sum()))
    if tile.place.dense:  # padding of the last tile is stored too
        assert run.events["products"] >= fired
    else:
        assert run.events["products"] == fired
    assert run.events["loads"] == run.passes.size
    assert run.events["passes"] == run.passes.sum()


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("text", ["2:4", "2:8", "4:8", None])
def test_the_simulator_counts_the_cycles_of_the_analytical_model(
    sharing: str, text: str | None
) -> None:
    pattern = None if text is None else NMSparsity.parse(text)
    rng = np.random.default_rng(0)
    weight = pruned(rng, 64, 512, pattern)
    x = rng.integers(-128, 128, (40, 512)).astype(np.int8)
    params = FlexCiMParams.model_validate(
        {"rows": 8, "columns": 8, "macros": 3, "select_sharing": sharing}
    )
    run = simulate(weight, x, pattern, params)
    passes = float(run.passes.mean())
    key = f"flexcim.{sharing}.{macro_of(params).name}"
    op = ops.Gemm(
        m=40, k=512, n=64, weight_format="int8", activation_format="int8", sparsity=text,
        annotations=((key, passes),),
    )  # fmt: skip
    detail = dict(FlexCiM(params).estimate(op).detail)
    assert detail["tiles"] == run.passes.size
    if len(np.unique(run.passes)) == 1:  # then the mean of the passes says all
        assert detail["cycles"] == run.cycles
    else:
        assert detail["cycles"] == pytest.approx(run.cycles, rel=0.06)


def test_tiles_are_dealt_to_the_macros_and_the_slowest_counts() -> None:
    params = FlexCiMParams(rows=8, columns=8, macros=2)
    tile = tiling(NMSparsity(2, 8), params)
    assert not isinstance(tile, str)
    # 10 tokens: 10 and 40 cycles on the first macro, 20 on the second; never less than the load.
    passes = np.array([1, 2, 4])
    assert schedule(passes, 10, tile, params) == 8 + (10 + 40) + tile.pipeline
    assert schedule(passes[:1], 1, tile, params) == 8 + 8 + tile.pipeline


def test_a_row_takes_as_many_inputs_as_the_released_mapping_does() -> None:
    macro = Macro()
    inputs = {
        text: getattr(placement(NMSparsity.parse(text), macro), "inputs", None)
        for text in ("4:4", "2:4", "4:8", "1:4", "2:8", "1:8", "3:8", "5:8")
    }
    a_row = {text: value // 32 for text, value in inputs.items() if value}
    expected = {"4:4": 4, "2:4": 8, "4:8": 8, "1:4": 16, "2:8": 16, "1:8": 32, "3:8": 8, "5:8": 4}
    assert a_row == expected  # 3:8 lies as 4:8; 5:8 as 8:8, which is dense


@pytest.mark.parametrize("text", ["1:2", "1:4", "2:4", "1:8", "2:8", "4:8"])
@pytest.mark.parametrize("sharing", SHARING)
def test_expected_passes_are_the_mean_over_random_masks(text: str, sharing: str) -> None:
    macro = Macro(rows=2, columns=4)
    pattern = NMSparsity.parse(text)
    place = placement(pattern, macro)
    assert not isinstance(place, str)
    rng = np.random.default_rng(1)
    mask = pattern.mask(rng.random((4 * 200, place.inputs * 4)))
    found = tile_passes(mask, place, macro, sharing).mean()
    tolerance = 0.02 if sharing != "column_gating" else 0.1
    expected = expected_passes(pattern, place, macro, sharing)
    assert expected == pytest.approx(found, rel=tolerance)


def test_masks_whose_columns_agree_need_one_pass() -> None:
    rng = np.random.default_rng(0)
    macro, pattern = Macro(rows=4, columns=4), NMSparsity(2, 8)
    place = placement(pattern, macro)
    assert not isinstance(place, str)
    row = pattern.mask(rng.random((1, place.inputs)))
    aligned = np.repeat(row, 4, axis=0)
    assert tile_passes(aligned, place, macro, "per_cell_gating").max() == 1
    assert tile_passes(aligned, place, macro, "column_gating").max() == 1
    params = FlexCiMParams.model_validate(SMALL | {"select_sharing": "aligned_masks"})
    x = np.ones((1, place.inputs), dtype=np.int8)
    assert simulate(aligned.astype(np.int8), x, pattern, params).passes.max() == 1
    other = pruned(rng, 4, place.inputs, pattern)
    with pytest.raises(InputError, match="aligned_masks, yet a tile needs"):
        simulate(other, x, pattern, params)


def test_real_masks_that_do_not_agree_take_their_passes_where_aligned_ones_are_assumed() -> None:
    accelerator = FlexCiM(FlexCiMParams(select_sharing="aligned_masks"))

    def passes(**known: float) -> float:
        notes = tuple((f"flexcim.{how}.4x32x32", value) for how, value in known.items())
        op = dataclasses.replace(gemm("2:8"), annotations=notes)
        return dict(accelerator.estimate(op).detail)["passes"]

    assert passes() == 1  # a spec alone: as if they were made so
    assert passes(per_cell_gating=1.0, column_gating=2.0) == 1
    assert passes(per_cell_gating=4.0, column_gating=32.0) == 32


def gemm(sparsity: str | None, m: float = 4096) -> ops.Gemm:
    kind = {"weight_format": "int8", "activation_format": "int8"}
    return ops.Gemm(m=m, k=4096, n=4096, sparsity=sparsity, **kind)  # type: ignore[arg-type]


def test_the_ideal_gain_over_dense_is_one_over_the_density_and_passes_take_it_back() -> None:
    dense = FlexCiM(FlexCiMParams(preset="dense")).estimate(gemm(None)).seconds
    ideal = FlexCiM(FlexCiMParams(select_sharing="ideal"))
    shared = FlexCiM(FlexCiMParams(select_sharing="per_cell_gating"))
    for text, density in (("2:4", 0.5), ("4:8", 0.5), ("2:8", 0.25), ("1:8", 0.125)):
        assert dense / ideal.estimate(gemm(text)).seconds == pytest.approx(1 / density, rel=0.01)
    # 2:8 needs all four pairs in nearly every tile: four passes for a quarter of the tiles.
    assert dense / shared.estimate(gemm("2:8")).seconds == pytest.approx(1.0, rel=0.02)
    assert dense / shared.estimate(gemm("4:8")).seconds < 0.75
    # One token: writing a tile takes longer than its passes, so the gain is whole again.
    one = FlexCiM(FlexCiMParams(preset="dense")).estimate(gemm(None, 1)).seconds
    assert one / shared.estimate(gemm("2:8", 1)).seconds == pytest.approx(4.0, rel=0.07)


def test_the_fixed_engine_runs_2to8_as_2to4_and_4to8_dense() -> None:
    fixed = FlexCiM(FlexCiMParams(preset="fixed-2to4"))
    seconds = {text: fixed.estimate(gemm(text)).seconds for text in (None, "2:4", "2:8", "4:8")}
    assert seconds["2:8"] == seconds["2:4"]
    assert seconds["4:8"] == seconds[None]
    assert seconds[None] / seconds["2:4"] == pytest.approx(2.0, rel=0.01)


def test_the_fixed_engine_runs_as_2to4_all_that_is_sure_to_be_2to4() -> None:
    fixed, four = FlexCiM(FlexCiMParams(preset="fixed-2to4")), NMSparsity(2, 4)
    dense = fixed.estimate(gemm(None)).seconds
    rng = np.random.default_rng(0)
    for pattern in (NMSparsity(n, m) for m in range(2, 9) for n in range(1, m)):
        mask = pattern.mask(rng.random((200, 4 * pattern.m)))
        most = mask.reshape(-1, 4).sum(axis=1).max()
        faster = fixed.estimate(gemm(str(pattern))).seconds < 0.6 * dense
        assert faster == (most <= four.n), pattern


def test_energy_is_the_sum_of_its_parts_and_streaming_adds_the_dram() -> None:
    on_chip = FlexCiM(FlexCiMParams(constants={"leakage_w_per_mm2": 0.0})).estimate(gemm("2:8"))
    parts = {name: value for name, value in on_chip.detail if name.endswith("_j")}
    assert on_chip.joules == pytest.approx(sum(parts.values()))
    assert parts["dram_j"] == 0
    streamed = FlexCiM(FlexCiMParams(weights="streamed")).estimate(gemm("2:8", 1))
    # 4096 x 4096 / 4 weights of 8 + 1 + 2 bits
    packed = 4096 * 4096 / 4 * 11 / 8
    assert streamed.seconds == pytest.approx(packed / 25.6e9, rel=1e-9)
    assert streamed.bound_by == "memory"


def test_a_constant_of_the_runs_own_changes_what_stands_on_it_and_is_named() -> None:
    def parts(**constants: float) -> dict[str, float]:
        accelerator = FlexCiM(FlexCiMParams.model_validate({"constants": constants}))
        cost = accelerator.estimate(gemm("2:8"))
        found = {name: value for name, value in cost.detail if name.endswith("_j")}
        return found | {"leakage": cost.joules - sum(found.values()), "area": accelerator._area}

    base, gates = parts(), ("cells_j", "trees_j", "merge_j", "select_j")
    volts, memory, leaking = (
        parts(**given)
        for given in (
            {"volts": 1.8},
            {"sram_j_per_byte": 2 * Technology().sram_j_per_byte},
            {"leakage_w_per_mm2": 0.0},
        )
    )
    assert volts == pytest.approx(base | {part: 4 * base[part] for part in gates})
    doubled = {part: 2 * base[part] for part in ("buffers_j", "loading_j")}
    assert memory == pytest.approx(base | doubled)
    assert leaking == pytest.approx(base | {"leakage": 0.0}, abs=1e-9 * sum(base.values()))
    assert base["leakage"] > 0
    one = FlexCiM(FlexCiMParams(constants={"volts": 0.8}))
    assert any("volts" in note for note in one.describe().notes)


def test_rows_written_together_load_a_tile_sooner() -> None:
    one, four = (FlexCiM(FlexCiMParams(write_rows=n)).estimate(gemm("2:8", 1)) for n in (1, 4))
    tiles = 4096 / 512 * 4096 / 32 / 64  # a macro takes; 2:8 holds 512 x 32 at a time
    assert dict(one.detail)["cycles"] == 32 + tiles * 32 + 3
    assert dict(four.detail)["cycles"] == 8 + tiles * 8 + 3


def test_the_energy_of_a_tile_is_what_its_gates_and_bytes_are_counted_to() -> None:
    params = FlexCiMParams(macros=1)
    op = ops.Gemm(
        m=3, k=512, n=32, weight_format="int8", activation_format="int8", sparsity="2:8",
        annotations=(("flexcim.per_cell_gating.4x32x32", 4.0),),
    )  # fmt: skip
    cost = FlexCiM(params).estimate(op)
    shots = 3 * 4  # tokens x passes
    tree = 16 * 16 + 8 * 17 + 4 * 18 + 2 * 19 + 1 * 20  # adders x bits, 32 rows to one
    row = 4 * (3 + 3) * 16  # 4 selectors of 4 pairs, 4 of 4 selectors, a pair is 16 bits
    expected = {
        "cells": 3 * 512 * 32 / 4 * tech.multiplier_j,
        "trees": shots * 4 * 32 * tree * tech.adder_j,
        "merge": shots * 32 * ((3 * 21 + 32) * tech.adder_j + 32 * tech.register_j),
        "select": shots * (32 * row + 4096 * 8) * tech.select_j + shots * 4096 * 2 * tech.compare_j,
        "buffers": (3 * 512 + 2 * 3 * 32 * 4) * tech.sram_j_per_byte,  # sums: read and written
        "loading": 4096 * 11 / 8 * tech.sram_j_per_byte,
        "dram": 0.0,
    }
    detail = dict(cost.detail)
    assert {part: detail[f"{part}_j"] for part in expected} == pytest.approx(expected)
    assert detail["cycles"] == 32 + max(32, shots) + 3
    leakage = 0.01 * sum(area_mm2(params).values()) * cost.seconds
    assert cost.joules == pytest.approx(sum(expected.values()) + leakage)


def test_dense_weights_are_streamed_without_index_bits() -> None:
    for preset in PRESETS:
        params = FlexCiMParams(preset=preset, weights="streamed")  # type: ignore[arg-type]
        assert FlexCiM(params).estimate(gemm(None, 1)).seconds == 4096 * 4096 / 25.6e9


def test_selectors_of_their_own_cost_area() -> None:
    shared = area_mm2(FlexCiMParams(select_sharing="per_cell_gating"))
    ideal = area_mm2(FlexCiMParams(select_sharing="ideal"))
    assert ideal["distribution"] == 32 * shared["distribution"]
    assert "distribution" not in area_mm2(FlexCiMParams(preset="dense"))


def test_cells_that_wait_for_their_pair_pay_for_the_index_and_its_comparison() -> None:
    gating, ideal = (
        FlexCiMParams(select_sharing=how, macros=1)  # type: ignore[arg-type]
        for how in ("per_cell_gating", "ideal")
    )
    assert area_mm2(ideal)["comparators"] == 0.0
    # 4096 cells compare two bits; one of two pairs is one bit.
    assert area_mm2(gating)["comparators"] == 4096 * 2 * tech.compare_mm2
    halved = gating.model_copy(update={"pairs": 2})
    assert area_mm2(halved)["comparators"] == 4096 * tech.compare_mm2
    # Twice 4096 words, one being written: what `loading` writes into a cell has room there.
    tile = tiling(NMSparsity(2, 8), gating)
    assert not isinstance(tile, str)
    assert area_mm2(gating)["weights"] == 2 * 4096 * tile.cell_bits * tech.sram_cell_mm2
    # One pass of one tile; 1:2 needs no distribution.
    op = ops.Gemm(m=1, k=256, n=32, weight_format="int8", activation_format="int8", sparsity="1:2")
    paid, free = (dict(FlexCiM(p).estimate(op).detail)["select_j"] for p in (gating, ideal))
    assert paid - free == pytest.approx(4096 * 2 * tech.compare_j)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (ops.Gemm(m=1, k=64, n=64), "macros hold 8-bit integers, not bf16"),
        (ops.Gemm(m=1, k=64, n=64, stationary="activation"), "two activations"),
        (ops.Elementwise(elements=4), "prices no Elementwise"),
        (gemm("1:5"), r"1:5: activations come in pairs; .*an even M"),
        (gemm("8:16"), r"8:16 needs 8 activation pairs .*hardware = \"flexcim\""),
    ],
)
def test_what_the_macros_cannot_run_is_refused_with_the_way_out(op: ops.Op, reason: str) -> None:
    with pytest.raises(UnsupportedOp, match=reason):
        FlexCiM().estimate(op)


@pytest.mark.parametrize("preset", PRESETS)
def test_dense_work_costs_each_preset_what_its_tiles_take(preset: str) -> None:
    params = FlexCiMParams(preset=preset, macros=1)  # type: ignore[arg-type]
    cycles = dict(FlexCiM(params).estimate(gemm(None, 64)).detail)["cycles"]
    load = 128 if preset == "systolic" else 32
    assert cycles == pytest.approx(32 * 128 * max(load, 64), rel=0.001)


CHECKS = [
    check
    for preset in PRESETS
    for check in checks_for(f"flexcim:{preset}", parameters={"as_int8": True})
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_flexcim_passes_the_check(check: BoundCheck) -> None:
    check()


def test_flow_says_in_the_spec_how_many_passes_its_real_masks_need(
    tiny: ModelArtifact, text: str, tmp_path: Path
) -> None:
    params = FlowParams(
        plan="uniform", pattern="2:8", hardware="flexcim", calibration_text=text,
        calibration_tokens=128, window_tokens=64,
    )  # fmt: skip
    context = RunContext(seed=0, output=tmp_path)
    result = Flow(params).transform(tiny, context)
    assert result.live is not None
    linear = next(part for _, part in result.spec.parts(Linear) if part.name == "down")
    mask = result.live.module.get_submodule(str(linear.path)).weight.numpy() != 0
    macro = Macro()
    place = placement(NMSparsity(2, 8), macro)
    assert not isinstance(place, str)
    notes = dict(linear.annotations)
    for sharing in ("per_cell_gating", "column_gating"):
        mean = tile_passes(mask, place, macro, sharing).mean()
        assert notes[f"flexcim.{sharing}.4x32x32"] == mean
    op = next(
        op
        for op in lower(result.spec, StepShape.from_sequences(result.spec, [(64, 0, 0)])).nodes
        if isinstance(op, ops.Gemm) and op.annotations == linear.annotations
    )
    cost = FlexCiM(FlexCiMParams(as_int8=True)).estimate(op)
    assert dict(cost.detail)["passes"] == notes["flexcim.per_cell_gating.4x32x32"]
    assert Flow(params).restore(tiny, result.files, context).spec == result.spec


def test_hardware_narrows_the_candidates_and_refuses_when_none_is_left() -> None:
    assert {str(p) for p in FlowParams(hardware="flexcim").patterns} == {
        *("1:4", "2:4", "1:8", "2:8", "4:8", "4:4")
    }
    # A selector of more pairs would be wider than what passes are computed for.
    with pytest.raises(ValueError, match="less than or equal to 8"):
        FlexCiMParams(pairs=9)
    with pytest.raises(ValueError, match='hardware = "flexcim" needs'):
        FlowParams(hardware="flexcim", candidates=("3:8", "8:16"))
