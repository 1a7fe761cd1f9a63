"""Packed tensors: golden bytes, slow independent quantisers, and values that survive packing."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.contracts import ops
from crosslayer.contracts.formats import (
    NMSparsity,
    Packed,
    Scales,
    number_format,
    pack,
    storage_bytes,
    unpack,
)
from crosslayer.contracts.model import Conv, Linear
from crosslayer.contracts.scales import FLOAT32_MAX
from crosslayer.errors import InputError

# fmt: off
FORMATS = [
    "fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2", "e2m1", "nvfp4", "mxfp4", "int8", "int6",
    "int4", "int3", "int2", "ternary", "int8-zp", "int4-g128", "int8-g64", "int4-g128-zp",
    "int8-g32-zp", "int2-g16-zp", "ternary-g16", "int4-g128-sfp8_e4m3fn", "fp8_e4m3fn-sfp32",
    "fp8_e4m3fn-g32-se8m0", "fp8_e5m2-g32-sfp8_e4m3fn", "int8-g32-se8m0", "int8-g32-sbf16",
    "int8-g32-zp-sbf16", "int4-g32-zp-sfp8_e4m3fn", "int8-g20-sfp32", "int8-g20-zp-sfp32",
    "e2m1-g16", "e2m1-g16-sbf16", "ternary-g16-se8m0",
]
# fmt: on
SPARSITIES = [None, NMSparsity(2, 4), NMSparsity(3, 8), NMSparsity(4, 4), NMSparsity(1, 16)]


def hexes(packed: Packed) -> dict[str, str]:
    return {name: buffer.tobytes().hex(" ") for name, buffer in packed.buffers().items()}


def test_golden_bytes_of_mxfp4() -> None:
    # amax 6: scale 2^(floor(log2 6) - 2) = 2^0, e8m0 code 127. E2M1 codes: 0.5 -> 1, -6 -> 8 + 7,
    # 3 -> 5, 0 -> 0, 1.5 -> 3; two a byte, the first in the low half.
    packed = pack([0.5, -6, 3, 0, 1.5], "mxfp4")
    assert hexes(packed) == {"codes": "f1 05 03", "scales": "7f"}


def test_golden_bytes_of_nvfp4() -> None:
    # amax 2688 = 6 * 448: tensor scale 1.0, block scale 448 (E4M3 0x7e). 2688 / 448 = 6 -> 7,
    # -672 / 448 = -1.5 -> 8 + 3.
    packed = pack([2688, -672] + 14 * [0], "nvfp4")
    assert hexes(packed) == {
        "codes": "b7" + 7 * " 00",
        "scales": "7e",
        "tensor_scale": "00 00 80 3f",
    }


def test_golden_bytes_of_2_4_sparse_int8() -> None:
    # Scale 127 / 127 = 1.0 in float32. Kept: places 2, 3 with 3, -127 (0x81); place 0 with 64, then
    # the lowest unused place 1 with 0. Indices 2, 3, 0, 1: 2 + 3 * 4 + 0 * 16 + 1 * 64 = 0x4e.
    packed = pack([0, 0, 3, -127, 64, 0, 0, 0], "int8", NMSparsity(2, 4))
    assert hexes(packed) == {"codes": "03 81 40 00", "scales": "00 00 80 3f", "indices": "4e"}


def test_golden_bytes_of_int3_ternary_and_a_zero_point() -> None:
    # int3, scale 3 / 3: codes 7 (-1), 1, 5 (-3): 7 + 1 * 8 + 5 * 64 = 0x14f.
    assert hexes(pack([-1, 1, -3], "int3"))["codes"] == "4f 01"
    # Ternary: 2 and -2 are above amax / 2, their mean 2.0 is fp16 0x4000; codes 1, 3, 0, 0.
    assert hexes(pack([2, -2, 0.5, 0], "ternary-g4")) == {"codes": "0d", "scales": "00 40"}
    # -5 .. 10 in 15 steps: scale 1.0 (fp16 0x3c00), zero point 5; 2.5 ties to 2, code 7.
    assert hexes(pack([-5, 0, 10, 2.5], "int4-g4-zp")) == {
        "codes": "50 7f",
        "scales": "00 3c",
        "zero_points": "05",
    }


E2M1 = [Fraction(v) for v in ("0", "1/2", "1", "3/2", "2", "3", "4", "6")]
E4M3 = [
    Fraction(float(v))
    for v in np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
]


def nearest_code(value: Fraction, table: list[Fraction]) -> int:
    """Index of the nearest value by trying all; of two equally near, the even index."""
    return min(range(len(table)), key=lambda code: (abs(table[code] - value), code % 2))


def slow_e2m1(x: np.ndarray, scale: Fraction) -> list[float]:
    signs = np.where(np.signbit(x), -1, 1)
    exact = [Fraction(float(v)) for v in np.abs(x)]
    return [
        float(int(sign) * E2M1[nearest_code(v / scale, E2M1)] * scale)
        for sign, v in zip(signs, exact, strict=True)
    ]


def quantiser_inputs() -> list[np.ndarray]:
    random = np.random.default_rng(7)
    normal = random.standard_normal((4, 64)).astype(np.float32)
    spread = normal * np.float32(10.0) ** random.integers(-7, 3, (4, 64)).astype(np.float32)
    blocks = normal * np.float32(10.0) ** -random.integers(0, 8, (4, 1)).astype(np.float32)
    ties = random.choice(np.float32([0, 0.25, 0.75, 1.25, 2.5, 3.5, 5, 6, -5, -0.25]), (4, 64))
    return [normal, spread, blocks, ties, np.zeros((2, 64), np.float32), normal * np.float32(1e-40)]


@pytest.mark.parametrize("x", quantiser_inputs())
def test_mxfp4_equals_a_slow_quantiser_that_tries_every_value(x: np.ndarray) -> None:
    expected = []
    for block in x.reshape(-1, 32):
        amax, exponent = Fraction(float(np.abs(block).max())), -127
        while amax and exponent < 127 and Fraction(2) ** (exponent + 1) * 4 <= amax:
            exponent += 1
        expected += slow_e2m1(block, Fraction(2) ** exponent)
    np.testing.assert_array_equal(unpack(pack(x, "mxfp4")).ravel(), np.float32(expected))


@pytest.mark.parametrize("x", quantiser_inputs())
def test_nvfp4_equals_a_slow_quantiser_that_tries_every_value(x: np.ndarray) -> None:
    wanted = Fraction(float(np.abs(x).max())) / (6 * 448)
    tensor, unit = Fraction(2) ** -124, Fraction(2) ** -139
    while wanted >= 2**16 * unit:
        unit *= 2
    tensor = max(tensor, wanted // unit * unit)  # 16 significant bits
    expected, blocks = [], x.reshape(-1, 16)
    for block in blocks:
        code = nearest_code(Fraction(float(np.abs(block).max())) / 6 / tensor, E4M3)
        expected += slow_e2m1(block, max(E4M3[code], Fraction(1, 64)) * tensor)
    np.testing.assert_array_equal(unpack(pack(x, "nvfp4")).ravel(), np.float32(expected))


def weights(seed: int, exponent: float, sparsity: NMSparsity | None) -> np.ndarray:
    """A [12, 96] tensor: rows of different size, of zeros, one-sided, and of round numbers."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((12, 96)) * random.choice([1, 1e-3, 1e-6], (12, 1))
    x[0], x[1], x[2] = 0, np.abs(x[1]), np.round(x[2] * 4) / 4
    x[3] = random.choice([-6.5, 8.5], 96)  # both ends of an asymmetric group tie inwards
    if sparsity is not None:
        x = np.where(sparsity.mask(np.abs(x)), x, 0.0)
    top = float(np.finfo(np.float32).max)
    return np.clip(x * 10.0**exponent, -top, top).astype(np.float32)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("sparsity", SPARSITIES, ids=str)
def test_a_tensor_of_format_values_packs_and_unpacks_bit_for_bit(
    name: str, sparsity: NMSparsity | None
) -> None:
    for seed, exponent in enumerate((-44, -40, -36, -8, -6, -5, -3, -1, 0, 2, 6, 37.5, 39)):
        first = pack(weights(seed, exponent, sparsity), name, sparsity)
        values = unpack(first)
        assert np.isfinite(values).all()
        again = pack(values, name, sparsity)
        assert unpack(again).tobytes() == values.tobytes(), exponent
        if sparsity is None or sparsity.n == sparsity.m:
            assert hexes(again) == hexes(first), exponent
        given = pack(values, name, sparsity, scales=first.decoded_scales())
        assert unpack(given).tobytes() == values.tobytes(), exponent


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_are_exact_and_a_zero_group_beside_large_ones_stays_zero(name: str) -> None:
    x = np.zeros((3, 256), dtype=np.float32)
    assert unpack(pack(x, name)).tobytes() == x.tobytes()
    x[1] = np.linspace(-3, 5, 256)
    assert not unpack(pack(x, name))[[0, 2]].any()


@pytest.mark.parametrize("name", ["int8-g64", "int4-g128", "int4-g32-zp", "int8-g32-zp", "int3-zp"])
def test_int_errors_are_half_a_step_of_the_groups_scale(name: str) -> None:
    x = weights(3, 0, None)
    packed = pack(x, name)
    error = np.abs(unpack(packed).astype(np.float64) - x)
    scales, group = packed.decoded_scales(), number_format(name).group or 96
    assert scales is not None
    step = np.repeat(np.broadcast_to(scales.scale, (12, -(-96 // group))), group, axis=1)[:, :96]
    # The scale is rounded to 11 bits, so an end of the range may lie max * 2^-10 steps outside.
    slack = number_format(name).max * 2.0**-10
    normal = step >= 2.0**-14  # below, fp16 scales are subnormal and coarser
    assert normal.mean() > 0.25
    assert (error <= (0.5 + slack) * step)[normal].all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("sparsity", SPARSITIES, ids=str)
def test_storage_bytes_is_the_size_of_the_packed_tensor(
    name: str, sparsity: NMSparsity | None
) -> None:
    shapes = [(16,), (48,), (3, 80), (7, 16), (2, 5, 32), (0, 16), (4, 0), (1, 272)]
    for shape in shapes if sparsity else [*shapes, (), (1,), (5, 7), (33, 1)]:
        packed = pack(np.zeros(shape), name, sparsity)
        assert packed.nbytes == storage_bytes(shape, name, sparsity), shape
        assert unpack(packed).shape == shape
    assert storage_bytes((16, 5), name, sparsity, axis=0) == storage_bytes((5, 16), name, sparsity)


def test_storage_bytes_of_a_large_weight_agree_with_storage_bits() -> None:
    shape = (4096, 7680)  # 3840 kept a row: whole scale groups of 128
    for name in ("bf16", "nvfp4", "mxfp4", "int4-g128-zp", "ternary-g16"):
        for sparsity in (NMSparsity(2, 4), NMSparsity(4, 8)):
            bits = sparsity.storage_bits(name) * 4096 * 7680
            extra = 4 if name == "nvfp4" else 0  # the tensor scale
            assert storage_bytes(shape, name, sparsity) == bits / 8 + extra
    assert storage_bytes((10**6, 10**6), "int8") == 10**12 + 4  # no array is made


@pytest.mark.parametrize("sparsity", SPARSITIES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_an_op_a_spec_and_the_packed_tensor_have_as_many_bytes(
    name: str, sparsity: NMSparsity | None
) -> None:
    shapes = [(7, 16), (3, 576), (5, 80)] if sparsity else [(7, 16), (3, 576), (5, 7), (1, 1)]
    pattern = None if sparsity is None else str(sparsity)
    for n, k in shapes:
        packed = pack(np.zeros((n, k)), name, sparsity).nbytes
        part = Linear(name="w", inputs=k, outputs=n, weight_format=name, sparsity=pattern)
        assert part.weight_bytes == packed
        op = ops.Gemm(m=1, k=k, n=n, groups=3, weight_format=name, sparsity=pattern, bias=True)
        assert ops.weight_bytes(op) == 3 * (packed + 2 * n)
        assert ops.weight_bytes(ops.changed(op, bias=False)) == 3 * packed
        table = ops.OpTable(ops.Gemm, {"m": 1.0, "k": np.array([float(k)]), "n": n} | {
            "weight_format": name, "sparsity": pattern,
        })  # fmt: skip
        assert ops.weight_bytes(table).tolist() == [packed]
    if sparsity is None:
        conv = Conv(name="c", in_channels=3, out_channels=5, kernel_w=3, weight_format=name)
        same = ops.Conv2d(
            positions=1, inputs=1, in_channels=3, out_channels=5, kernel_h=1, kernel_w=3,
            weight_format=name,
        )  # fmt: skip
        assert ops.weight_bytes(same) == conv.weight_bytes == storage_bytes((45,), name)
        norm = ops.Elementwise(elements=1, weight_elements=13, weight_format=name)
        assert ops.weight_bytes(norm) == storage_bytes((13,), name)
        assert ops.weight_bytes(ops.changed(norm, weight_elements=0)) == 0


@pytest.mark.parametrize("name", FORMATS)
def test_what_float32_cannot_hold_saturates_as_its_largest_value_does(name: str) -> None:
    x = np.zeros((2, 32))
    x[0, 3], x[1, 7] = 1e39, -1e300
    most = np.clip(x, -FLOAT32_MAX, FLOAT32_MAX)
    found = unpack(pack(x, name))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, unpack(pack(most, name)))
    np.testing.assert_array_equal(unpack(pack(found, name)), found)


def test_the_largest_given_scale_saturates_too() -> None:
    x = np.full((1, 32), FLOAT32_MAX, np.float32)
    given = Scales(np.full((1, 1), 2.0**127, np.float32))
    np.testing.assert_array_equal(unpack(pack(x, "mxfp4", scales=given)), x)


def test_groups_run_along_the_axis_that_is_asked_for() -> None:
    x = np.random.default_rng(0).standard_normal((32, 3, 5)).astype(np.float32)
    columns = unpack(pack(x, "int4-g16", axis=0))
    moved = unpack(pack(np.moveaxis(x, 0, -1), "int4-g16"))
    np.testing.assert_array_equal(columns, np.moveaxis(moved, -1, 0))
    with pytest.raises(InputError, match="axis 3"):
        pack(x, "int4-g16", axis=3)


@pytest.mark.parametrize("name", ["nvfp4", "int4-g32-zp", "bf16"])
def test_buffers_rebuild_the_tensor_and_a_wrong_one_is_named(name: str) -> None:
    sparsity = NMSparsity(2, 4)
    packed = pack(weights(1, 0, sparsity), name, sparsity)
    buffers = packed.buffers()
    again = Packed.from_buffers(buffers, (12, 96), name, sparsity)
    assert unpack(again).tobytes() == unpack(packed).tobytes()
    short = {**buffers, "indices": buffers["indices"][:-1]}
    with pytest.raises(InputError, match=r"'indices'.*144 bytes"):
        Packed.from_buffers(short, (12, 96), name, sparsity)


def test_given_scales_are_used_and_what_does_not_fit_is_refused() -> None:
    x = np.array([[1.0, 9.0]], dtype=np.float32)
    half = np.full((1, 1), 0.5, dtype=np.float32)
    assert unpack(pack(x, "int4-g16", scales=Scales(half))).tolist() == [[1.0, 3.5]]
    shifted = Scales(half, np.array([[2]], dtype=np.uint8))
    assert unpack(pack(x, "int4-g16-zp", scales=shifted)).tolist() == [[1.0, 6.5]]
    refused: list[tuple[str, Scales, str]] = [
        ("int4-g16", Scales(half[0]), r"\(1, 1\)"),
        ("int4-g16", Scales(half * np.float32(1 + 2.0**-20)), "values of fp16"),
        ("int4-g16", Scales(-half), "positive"),
        ("int4-g16", shifted, "no zero points"),
        ("int4-g16-zp", Scales(half), "needs zero points"),
        ("int4-g16", Scales(half, None, 2.0), "no tensor scale"),
        ("nvfp4", Scales(half, None, 0.1), "positive float32"),
        ("bf16", Scales(half), "no scales"),
    ]
    for name, scales, reason in refused:
        with pytest.raises(InputError, match=reason):
            pack(x, name, scales=scales)


@pytest.mark.parametrize("name", ["nvfp4", "int8", "bf16", "fp32"])
def test_pack_refuses_nan_and_infinity_with_their_place(name: str) -> None:
    for bad in (np.nan, -np.inf):
        x = np.ones((2, 16), dtype=np.float32)
        x[1, 3] = bad
        with pytest.raises(InputError, match=r"index \(1, 3\)"):
            pack(x, name)


def test_a_sparse_zero_has_no_sign_and_a_dense_one_keeps_it() -> None:
    x = np.array([-0.0, 1.0, -0.0, 0.0], dtype=np.float32)
    assert np.signbit(unpack(pack(x, "bf16"))).tolist() == [True, False, True, False]
    assert not np.signbit(unpack(pack(x, "bf16", NMSparsity(2, 4)))).any()


def sparse_tensors() -> st.SearchStrategy[Any]:
    return st.tuples(
        st.integers(1, 8).flatmap(lambda m: st.tuples(st.integers(1, m), st.just(m))),
        st.integers(1, 4),
        st.integers(1, 5),
        st.integers(0, 2**32 - 1),
    )


@settings(max_examples=60, deadline=None)
@given(sparse_tensors())
def test_a_pruned_tensor_round_trips_exactly(case: Any) -> None:
    (n, m), rows, groups, seed = case
    random, sparsity = np.random.default_rng(seed), NMSparsity(n, m)
    x = random.integers(-3, 4, (rows, groups * m)).astype(np.float32)
    x = np.where(sparsity.mask(np.abs(x)), x, np.float32(0))
    packed = pack(x, "bf16", sparsity)
    assert unpack(packed).tobytes() == x.tobytes()
    assert packed.nbytes == storage_bytes(x.shape, "bf16", sparsity)
