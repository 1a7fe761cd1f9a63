"""The roofline: golden costs by hand, columns against single ops, sparsity, formats, presets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from pydantic import ValidationError

from crosslayer.accelerators.params import RooflineParams, presets
from crosslayer.accelerators.roofline import Roofline
from crosslayer.contracts import ops
from crosslayer.contracts.hardware import HardwareSpec
from crosslayer.contracts.number_format import number_format
from crosslayer.errors import UnsupportedOp


def roofline(preset: str = "a100-80g", **values: Any) -> Roofline:
    return Roofline(RooflineParams(preset=preset, **values))


# --- golden costs; the A100 has 312e12 FLOP/s in bf16, 2039e9 B/s and 0.5e-6 s a launch


def test_a_large_gemm_is_bound_by_arithmetic() -> None:
    # 4096 x 4096 x 4096: 2 * 4096^3 = 137438953472 FLOPs; three matrices of 4096^2 * 2 B.
    # arithmetic 137438953472 / 312e12 = 440.5 us, bytes 100663296 / 2039e9 = 49.4 us
    cost = roofline().estimate(ops.Gemm(m=4096, k=4096, n=4096))
    assert cost.flops == 137438953472
    assert cost.bytes == 3 * 4096 * 4096 * 2
    assert cost.seconds == 137438953472 / 312e12 + 0.5e-6
    assert cost.seconds == pytest.approx(441.0e-6, rel=1e-4)
    assert cost.bound_by == "compute"
    assert cost.joules is None
    assert cost.detail == (("launch_s", 0.5e-6),)


def test_a_gemm_of_one_row_is_bound_by_its_weights() -> None:
    # 1 x 4096 x 4096: weights 33554432 B, in and out 2 * 8192 B; 33570816 / 2039e9 = 16.46 us,
    # arithmetic 33554432 / 312e12 = 0.11 us
    cost = roofline().estimate(ops.Gemm(m=1, k=4096, n=4096))
    assert cost.bytes == 33554432 + 2 * 8192
    assert cost.seconds == 33570816 / 2039e9 + 0.5e-6
    assert cost.bound_by == "memory"


def test_decode_attention_is_bound_by_the_cache_it_reads() -> None:
    # 8 sequences of 1024 keys, 32 heads on 8 KV heads of 128, bf16. A token's K and V of one layer
    # are 8 * (128 + 128) * 2 = 4096 B: 8192 tokens are read, 8 written; q and the output are
    # 8 * 32 * 256 * 2 B. FLOPs: 2 * 8192 pairs * 32 heads * 256.
    attention = ops.Attention(
        sequences=8, queries=8, pairs=8192, kv_tokens=8192, kv_bytes=8192 * 4096,
        heads=32, kv_heads=8, head_dim=128, value_dim=128,
    )  # fmt: skip
    cost = roofline().estimate(attention)
    assert cost.flops == 2 * 8192 * 32 * 256
    assert cost.bytes == 8200 * 4096 + 8 * 32 * 256 * 2
    assert cost.seconds == (8200 * 4096 + 131072) / 2039e9 + 0.5e-6
    assert cost.bound_by == "memory"


def test_a_small_op_is_bound_by_its_launch() -> None:
    # 4096 sums: 3 * 4096 * 2 B / 2039e9 = 12 ns of traffic under 500 ns of launch
    cost = roofline().estimate(ops.Elementwise(elements=4096, reads=2))
    assert cost.seconds == 24576 / 2039e9 + 0.5e-6
    assert cost.bound_by == "launch"
    free = roofline(launch_overhead_s=0.0).estimate(ops.Elementwise(elements=4096, reads=2))
    assert (free.seconds, free.bound_by) == (24576 / 2039e9, "memory")


def test_elementwise_work_runs_at_the_fp32_rate() -> None:
    # 1e6 results of 1000 FLOPs each: 1e9 / 19.5e12 = 51.3 us, whatever the activations' format
    for form in ("bf16", "int8", "fp32"):
        op = ops.Elementwise(elements=1e6, flops_per_element=1000, activation_format=form)
        assert roofline(launch_overhead_s=0.0).estimate(op).seconds == 1e9 / 19.5e12


# --- columns


def _table(draw: Any) -> ops.OpTable:
    kind = draw(st.sampled_from(["gemm", "attention", "scan", "conv", "elementwise", "binding"]))
    rows = draw(st.integers(1, 5))

    def column(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=rows, max_size=rows)))

    bits = st.sampled_from(["fp32", "bf16", "fp16", "int8", "int4-g128", "fp8_e4m3fn", "nvfp4"])
    form, other = draw(bits), draw(bits)
    if kind == "gemm":
        share = draw(st.sampled_from([0.0, 0.03]))
        columns = {
            "m": column(0, 5000), "k": draw(st.integers(1, 20_000)),
            "n": draw(st.integers(1, 9000)), "groups": column(1, 64) + 0.25,
            "weight_format": form, "activation_format": other,
            "sparsity": draw(st.sampled_from([None, "2:4", "4:8", "1:4", "7:8"])),
            "bias": draw(st.booleans()), "outlier_share": share,
            "outlier_format": "fp16" if share else None,
        }  # fmt: skip
        return ops.OpTable(ops.Gemm, columns)
    if kind == "attention":
        columns = {
            "sequences": column(1, 64), "queries": column(1, 4096), "pairs": column(1, 10**7),
            "kv_tokens": column(1, 10**6), "kv_bytes": column(1, 10**9) + 0.5, "heads": 32,
            "kv_heads": 8, "head_dim": 128, "value_dim": 128, "kv_format": form,
        }  # fmt: skip
        return ops.OpTable(ops.Attention, columns)
    if kind == "scan":
        columns = {
            "tokens": column(1, 4096),
            "sequences": column(1, 64),
            "channels": 512,
            "state": 16,
        }
        return ops.OpTable(ops.SelectiveScan, columns)
    if kind == "conv":
        columns = {
            "positions": column(1, 10**5), "inputs": column(1, 10**5), "in_channels": 32,
            "out_channels": 64, "kernel_h": 3, "kernel_w": 3, "weight_format": form, "bias": True,
        }  # fmt: skip
        return ops.OpTable(ops.Conv2d, columns)
    if kind == "binding":
        return ops.OpTable(ops.CircularConvolution, {"vectors": column(1, 500), "dim": 256})
    columns = {"elements": column(0, 10**8), "reads": 2, "weight_elements": 4096}
    return ops.OpTable(ops.Elementwise, columns)


tables = st.composite(_table)()
accelerators = st.builds(
    roofline, st.sampled_from(sorted(presets())), packed_kernels=st.booleans(), tf32=st.booleans()
)


@given(accelerators, tables)
def test_columns_equal_single_ops_exactly(accelerator: Roofline, table: ops.OpTable) -> None:
    many = accelerator.estimate_many(table)
    assert len(many) == len(table)
    for i in range(len(table)):
        assert many.row(i) == replace(accelerator.estimate(table.row(i)), detail=())


@given(accelerators, tables)
def test_an_op_of_twice_every_dimension_never_costs_less(
    accelerator: Roofline, table: ops.OpTable
) -> None:
    for i in range(len(table)):
        op = table.row(i)
        larger = replace(op, **{name: 2 * getattr(op, name) for name in op.numeric})
        small, large = accelerator.estimate(op), accelerator.estimate(larger)
        assert large.seconds >= small.seconds
        assert large.bytes >= small.bytes


def test_a_table_whose_columns_are_all_constant_has_a_cost_in_each_row() -> None:
    table = ops.OpTable(ops.Gemm, {"m": 8, "k": 64, "n": 64}, rows=3)
    assert (
        list(roofline().estimate_many(table).seconds)
        == [roofline().estimate(ops.Gemm(m=8, k=64, n=64)).seconds] * 3
    )


# --- sparsity

PREFILL = ops.Gemm(m=4096, k=4096, n=4096)
DECODE = ops.Gemm(m=1, k=4096, n=4096)


def test_two_of_four_doubles_the_rate_and_reads_packed_weights() -> None:
    accelerator = roofline(launch_overhead_s=0.0)
    pruned = accelerator.estimate(replace(PREFILL, sparsity="2:4"))
    assert pruned.seconds == accelerator.estimate(PREFILL).seconds / 2
    assert pruned.flops == accelerator.estimate(PREFILL).flops  # dense-equivalent
    # half of the bf16 values and a 2-bit index for each: 0.5 * (16 + 2) = 9 bits a weight
    packed = accelerator.estimate(replace(DECODE, sparsity="2:4"))
    assert packed.bytes == 4096 * 4096 * 9 / 8 + 2 * 8192
    assert packed.seconds == packed.bytes / 2039e9


@pytest.mark.parametrize("pattern", ["4:8", "8:16", "1:4", "1:2"])
def test_no_gain_is_a_valid_result_other_patterns_cost_what_dense_weights_cost(
    pattern: str,
) -> None:
    for preset in presets():
        for op in (PREFILL, DECODE):
            accelerator = roofline(preset)
            assert accelerator.estimate(replace(op, sparsity=pattern)) == accelerator.estimate(op)


def test_a_packed_kernel_saves_traffic_and_no_arithmetic() -> None:
    accelerator = roofline(packed_kernels=True, launch_overhead_s=0.0)
    # 4:8 of bf16: 0.5 * (16 + 3) = 9.5 bits a weight
    decode = accelerator.estimate(replace(DECODE, sparsity="4:8"))
    assert decode.bytes == 4096 * 4096 * 9.5 / 8 + 2 * 8192
    assert decode.seconds == decode.bytes / 2039e9
    prefill = accelerator.estimate(replace(PREFILL, sparsity="4:8"))
    assert prefill.seconds == accelerator.estimate(PREFILL).seconds == 2 * 4096**3 / 312e12


def test_a_packed_kernel_takes_weights_dense_where_their_indices_outweigh_the_zeros() -> None:
    # 7:8 of int4 with fp16 scales a tensor: 7/8 * (4 + 3) = 6.125 bits packed, 4 dense
    op = replace(DECODE, weight_format="int4", sparsity="7:8")
    packed, dense = roofline(packed_kernels=True), roofline()
    assert packed.estimate(op) == dense.estimate(op)


def test_sparse_units_are_those_of_the_format_that_computes() -> None:
    # The A100 runs 2:4 of int8, but int4 only in pairs: there int4 as sparse int8 is as fast as
    # dense int4, and reads less. The TX2 has no sparse units.
    a100, tx2 = roofline(), roofline("jetson-tx2")
    assert a100.compute_format("int8", "int8", "2:4") == ("int8", "2:4")
    assert a100.compute_format("int4", "int4") == ("int4", None)
    assert a100.compute_format("int4", "int4", "2:4") == ("int8", "2:4")
    assert tx2.compute_format("fp16", "fp16", "2:4") == ("fp16", None)


def test_a_pruned_bias_and_its_groups_are_read_as_they_are() -> None:
    op = ops.Gemm(m=8, k=64, n=32, groups=3, sparsity="4:8", bias=True)
    dense = roofline().estimate(replace(op, sparsity=None))
    assert roofline().estimate(op).bytes == dense.bytes
    assert dense.bytes == 3 * (64 * 32 * 2 + 32 * 2) + 8 * (64 + 32) * 2


# --- formats


@pytest.mark.parametrize(
    ("preset", "weight", "activation", "expected"),
    [
        ("a100-80g", "bf16", "bf16", "bf16"),
        ("a100-80g", "int4-g128", "bf16", "bf16"),  # weight only: unpacked to the activations
        ("a100-80g", "int8", "int8", "int8"),
        ("a100-80g", "int4", "int8", "int8"),
        ("a100-80g", "ternary", "int8", "int8"),
        ("a100-80g", "fp8_e4m3fn", "fp8_e4m3fn", "bf16"),  # no fp8 before Hopper
        ("a100-80g", "fp16", "bf16", "tf32"),  # neither holds the other
        ("a100-80g", "fp32", "bf16", "fp32"),
        ("h100-80g", "fp8_e4m3fn", "fp8_e4m3fn", "fp8_e4m3fn"),
        ("h100-80g", "fp8_e5m2", "fp8_e4m3fn", "fp8_e4m3fn"),
        ("h100-80g", "int4", "int4", "int8"),  # Hopper has no int4
        ("h100-80g", "int4", "fp8_e4m3fn", "fp8_e4m3fn"),
        ("h100-80g", "nvfp4", "nvfp4", "fp8_e4m3fn"),
        ("rtx4090", "int4", "int4", "int4"),
        ("rtx5090", "nvfp4", "nvfp4", "nvfp4"),
        ("rtx5090", "nvfp4", "bf16", "bf16"),
        ("rtx5090", "mxfp4", "nvfp4", "fp8_e4m3fn"),
        ("jetson-tx2", "bf16", "bf16", "fp32"),
        ("jetson-tx2", "int8", "int8", "fp16"),
    ],
)
def test_a_product_runs_on_the_fastest_units_that_hold_both_operands(
    preset: str, weight: str, activation: str, expected: str
) -> None:
    accelerator = roofline(preset)
    form, pattern = accelerator.compute_format(weight, activation)
    rates = {rate.format: rate for rate in accelerator.describe().rates if rate.sparsity is None}
    assert pattern is None
    assert rates[form].flops_per_s == rates[expected].flops_per_s
    op = ops.Gemm(m=8192, k=8192, n=8192, weight_format=weight, activation_format=activation)
    cost = roofline(preset, launch_overhead_s=0.0).estimate(op)
    assert cost.seconds == 2 * 8192**3 / rates[expected].flops_per_s


def test_quantized_weights_are_read_packed() -> None:
    # int4 in groups of 128 with an fp16 scale: 4 + 16 / 128 = 4.125 bits a weight
    cost = roofline().estimate(replace(DECODE, weight_format="int4-g128"))
    assert cost.bytes == 4096 * 4096 * 4.125 / 8 + 2 * 8192


def test_tf32_is_a_switch_for_fp32_products() -> None:
    op = replace(PREFILL, weight_format="fp32", activation_format="fp32")
    full, rounded = roofline(launch_overhead_s=0.0), roofline(launch_overhead_s=0.0, tf32=True)
    assert full.estimate(op).seconds == 2 * 4096**3 / 19.5e12
    assert rounded.estimate(op).seconds == 2 * 4096**3 / 156e12
    assert rounded.estimate(PREFILL) == full.estimate(PREFILL)
    tx2 = roofline("jetson-tx2", tf32=True)  # has none: the switch changes nothing
    assert tx2.compute_format("fp32", "fp32") == ("fp32", None)


def test_outliers_compute_in_their_own_format_for_their_share() -> None:
    op = replace(PREFILL, weight_format="int4", activation_format="int4")
    op = replace(op, outlier_share=0.25, outlier_format="int8")
    flops = 2 * 4096**3
    cost = roofline(launch_overhead_s=0.0).estimate(op)
    assert cost.seconds == flops * 0.75 / 1248e12 + flops * 0.25 / 624e12


def test_attention_computes_in_a_format_that_holds_cache_and_queries() -> None:
    op = ops.Attention(
        sequences=1, queries=8192, pairs=8192 * 8193 // 2, kv_tokens=8192, kv_bytes=8192 * 2048,
        heads=32, kv_heads=8, head_dim=128, value_dim=128, phase="prefill", kv_format="int8",
    )  # fmt: skip
    accelerator = roofline("h100-80g", launch_overhead_s=0.0)
    flops = 2 * op.pairs * 32 * 256
    assert accelerator.estimate(op).seconds == flops / 989.4e12
    both = replace(op, kv_format="fp8_e4m3fn", activation_format="fp8_e4m3fn")
    assert accelerator.estimate(both).seconds == flops / 1978.9e12
    wide_cache = replace(both, kv_format="bf16")
    assert accelerator.estimate(wide_cache).seconds == flops / 989.4e12


def test_every_number_format_has_units_on_every_preset() -> None:
    names = ["fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2", "e2m1", "nvfp4", "mxfp4", "ternary"]
    names += [f"int{bits}" for bits in range(2, 9)]
    names += ["int4-g128-zp", "int8-g128", "ternary-g16", "fp8_e4m3fn-sfp32", "e2m1-g32"]
    for preset in presets():
        for name in names:
            for other in (name, "bf16", "fp16", "fp32"):
                form, _ = roofline(preset).compute_format(name, other)
                assert number_format("fp32" if form == "tf32" else form)


# --- presets and refusals


def test_all_five_presets_are_there() -> None:
    assert set(presets()) == {"a100-80g", "h100-80g", "rtx4090", "rtx5090", "jetson-tx2"}


@pytest.mark.parametrize("preset", sorted(presets()))
def test_every_figure_of_a_preset_has_a_source(preset: str) -> None:
    spec = HardwareSpec(name=preset, **presets()[preset])
    parts: tuple[Any, ...] = (*spec.rates, *spec.memories, *spec.ports)
    sources = [part.source for part in parts]
    sources += [spec.launch_source, spec.power_source]
    assert len(sources) == len(parts) + 2
    assert all(len(source) > 20 and "to be cited" not in source for source in sources)
    assert spec.power_w is not None
    assert spec.launch_overhead_s > 0


@pytest.mark.parametrize("preset", sorted(presets()))
def test_sparse_rates_are_those_of_two_of_four_and_twice_the_dense_ones(preset: str) -> None:
    rates = {
        (rate.format, rate.sparsity): rate.flops_per_s for rate in roofline(preset).describe().rates
    }
    assert len(rates) == len(roofline(preset).describe().rates), "a format is listed twice"
    for (form, pattern), rate in rates.items():
        if pattern is not None:
            assert pattern == "2:4" and form in ("bf16", "fp16", "int8", "fp8_e4m3fn")
            assert rate == pytest.approx(2 * rates[form, None], rel=1e-3)
    assert ("bf16", "2:4") in rates or preset == "jetson-tx2"


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ValidationError, match="no preset 'a100'; did you mean 'a100-80g'"):
        RooflineParams(preset="a100")


def test_collectives_are_refused_with_the_reason() -> None:
    op = ops.Collective(payload_bytes=1e6, devices=2)
    table = ops.OpTable(ops.Collective, {"payload_bytes": np.array([1e6]), "devices": 2})
    assert not roofline().supports(op)
    with pytest.raises(UnsupportedOp, match=r"roofline:a100-80g prices no Collective: the network"):
        roofline().estimate(op)
    with pytest.raises(UnsupportedOp, match="the network does"):
        roofline().estimate_many(table)


def test_parameters_are_documented() -> None:
    assert all(field.description for field in RooflineParams.model_fields.values())
