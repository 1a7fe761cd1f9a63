"""Element codes: exhaustive over codes, and against ml_dtypes at and beside every midpoint."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from crosslayer.contracts.formats import (
    NMSparsity,
    NumberFormat,
    decode,
    encode,
    number_format,
    pack_bits,
    unpack_bits,
)
from crosslayer.errors import InputError

OUTSIDE = {
    "fp8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
}


def all_codes(name: str) -> np.ndarray:
    bits = number_format(name).bits
    return np.arange(1 << bits, dtype=np.uint8 if bits <= 8 else np.uint16)


def outside_codes(name: str, x: np.ndarray) -> np.ndarray:
    """The bit patterns that ml_dtypes (fp16: NumPy) gives for float32 values."""
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(OUTSIDE[name]).view(all_codes(name).dtype)


def borders(name: str) -> np.ndarray:
    """Every finite value, every midpoint of neighbours, and the float32 numbers beside those."""
    values = decode(all_codes(name), name)
    values = np.unique(values[np.isfinite(values)]).astype(np.float64)
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([values.astype(np.float32), middle, *beside])


@pytest.mark.parametrize("name", OUTSIDE)
def test_every_code_decodes_to_the_value_of_ml_dtypes(name: str) -> None:
    codes = all_codes(name)
    expected = codes.view(OUTSIDE[name]).astype(np.float32)
    found = decode(codes, name)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize("name", OUTSIDE)
def test_every_finite_code_encodes_to_itself_and_keeps_the_sign_of_zero(name: str) -> None:
    codes = all_codes(name)
    finite = codes[np.isfinite(decode(codes, name))]
    np.testing.assert_array_equal(encode(decode(finite, name), name), finite)


@pytest.mark.parametrize("name", OUTSIDE)
def test_rounding_at_and_beside_every_midpoint_equals_ml_dtypes(name: str) -> None:
    x = borders(name)
    np.testing.assert_array_equal(encode(x, name), outside_codes(name, x))


@pytest.mark.parametrize("name", OUTSIDE)
def test_values_past_the_range_saturate_or_overflow_as_ml_dtypes_does(name: str) -> None:
    format = number_format(name)
    top = np.float32(format.max)
    with np.errstate(over="ignore"):
        steps = top * np.linspace(0.9, 1.5, 3001, dtype=np.float32)
    steps = np.concatenate([steps[np.isfinite(steps)], np.float32([3.4e38])])
    x = np.concatenate([steps, -steps])
    np.testing.assert_array_equal(encode(x, name, saturate=False), outside_codes(name, x))
    saturated = decode(encode(x, name), name)
    past = np.abs(x) > format.max
    np.testing.assert_array_equal(saturated[past], np.copysign(top, x[past]))


def test_e4m3_saturates_at_448_and_its_other_convention_gives_nan_past_464() -> None:
    assert decode(encode([464.0, 465.0, -1e9], "fp8_e4m3fn"), "fp8_e4m3fn").tolist() == [
        448.0,
        448.0,
        -448.0,
    ]
    assert encode([464.0, 465.0, -1e9], "fp8_e4m3fn", saturate=False).tolist() == [0x7E, 0x7F, 0xFF]


@pytest.mark.parametrize("name", OUTSIDE)
def test_nan_and_infinity_are_refused_with_their_place(name: str) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        x = np.zeros((2, 3), dtype=np.float32)
        x[1, 2] = bad
        with pytest.raises(InputError, match=rf"{bad} at index \(1, 2\).*{name}"):
            encode(x, name)


def test_nan_and_infinity_are_kept_only_where_the_format_has_them() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1.0], dtype=np.float32)
    for name in ("bf16", "fp16", "fp8_e5m2"):
        kept = encode(x, name, keep_nonfinite=True)
        np.testing.assert_array_equal(kept, outside_codes(name, x))
    assert encode(x[[0, 3]], "fp8_e4m3fn", keep_nonfinite=True).tolist() == [0x7F, 0x38]
    for name, value in (("fp8_e4m3fn", np.inf), ("e2m1", np.nan), ("e2m1", np.inf)):
        with pytest.raises(InputError, match="index"):
            encode([value], name, keep_nonfinite=True)
    np.testing.assert_array_equal(decode(encode(x, "fp32", keep_nonfinite=True), "fp32"), x)


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp8_e4m3fn", "e2m1"])
def test_float64_input_is_rounded_once_not_through_float32(name: str) -> None:
    values = np.unique(decode(all_codes(name)[: number_format(name).max_code + 1], name))
    values = values.astype(np.float64)
    low, high = values[:-1], values[1:]
    just_above = np.nextafter((low + high) / 2, np.inf)
    just_below = np.nextafter((low + high) / 2, 0)
    np.testing.assert_array_equal(decode(encode(just_above, name), name), high)
    np.testing.assert_array_equal(decode(encode(just_below, name), name), low)


def test_fp32_codes_are_ieee_bits_and_float64_rounds_to_the_nearest() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, 1 << 32, 20000, dtype=np.uint32)
    codes = codes[np.isfinite(codes.view(np.float32))]
    np.testing.assert_array_equal(decode(codes, "fp32").view(np.uint32), codes)
    np.testing.assert_array_equal(encode(codes.view(np.float32), "fp32"), codes)
    wide = np.concatenate([random.standard_normal(20000), [1e-40, 1e-46, 1 + 2.0**-24, 0.0, -0.0]])
    expected = wide.astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(encode(wide, "fp32"), expected)
    assert decode(encode([1e39], "fp32"), "fp32")[0] == np.finfo(np.float32).max


def test_e8m0_codes_every_power_of_two_and_rounds_like_ml_dtypes() -> None:
    codes = np.arange(256, dtype=np.uint8)
    outside = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    np.testing.assert_array_equal(decode(codes, "e8m0"), outside)
    np.testing.assert_array_equal(encode(outside[:255], "e8m0"), codes[:255])
    with np.errstate(over="ignore"):
        x = (outside[1:255, None] * np.float32([1, 1.25, 1.4999, 1.5, 1.5001, 1.99])).ravel()
    x = x[np.isfinite(x)]  # from 2^-126 on: ml_dtypes rounds float32 subnormals another way
    expected = x.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    np.testing.assert_array_equal(encode(x, "e8m0", saturate=False), expected)
    assert encode([3.4e38, 1e-40], "e8m0").tolist() == [254, 0]
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(InputError, match=r"index \(1,\)"):
            encode([1.0, bad], "e8m0")


@pytest.mark.parametrize("name, outside", [("int4", ml_dtypes.int4), ("int2", ml_dtypes.int2)])
def test_narrow_int_codes_are_twos_complement_as_in_ml_dtypes(name: str, outside: type) -> None:
    half = 1 << (number_format(name).bits - 1)
    signed = np.arange(-half, half)
    codes = signed.astype(outside).view(np.uint8) & (2 * half - 1)
    np.testing.assert_array_equal(decode(codes, name), signed)
    np.testing.assert_array_equal(encode(signed[1:], name), codes[1:])


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_round_ties_to_even_and_saturate_symmetrically(bits: int) -> None:
    name, top = f"int{bits}", 2 ** (bits - 1) - 1
    x = np.arange(-4 * top, 4 * top + 1) / 4
    expected = np.clip([round(v) for v in x], -top, top)
    np.testing.assert_array_equal(decode(encode(x, name), name), expected)
    assert decode(encode([-1e30, 1e30, -0.0], name), name).tolist() == [-top, top, 0]


def test_ternary_digits_are_two_bit_integers_and_code_2_is_none() -> None:
    assert encode([-9, -0.5, 0.5, 0.51, 3], "ternary").tolist() == [3, 0, 0, 1, 1]
    assert decode([3, 0, 1], "ternary").tolist() == [-1, 0, 1]
    with pytest.raises(InputError, match="code 2"):
        decode([2], "ternary")


def test_codes_past_the_bits_of_a_format_are_refused() -> None:
    with pytest.raises(InputError, match="16"):
        decode([16], "e2m1")
    with pytest.raises(InputError, match="pack"):
        encode([1.0], "nvfp4")
    with pytest.raises(InputError, match="pack"):
        decode([1], "int4-g128-zp")


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 16, 32])
def test_bit_streams_are_little_endian_and_come_back(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, 101, dtype=np.uint64)
    number = sum(int(code) << (i * bits) for i, code in enumerate(codes))
    size = (101 * bits + 7) // 8
    stream = pack_bits(codes, bits)
    assert stream.tobytes() == number.to_bytes(size, "little")
    np.testing.assert_array_equal(unpack_bits(stream, bits, 101), codes)


# Storage: bits of the code + (bits of the scale + bits of the zero point) / group.
@pytest.mark.parametrize(
    "name, bits",
    [
        ("fp32", 32.0),
        ("bf16", 16.0),
        ("fp8_e4m3fn", 8.0),
        ("int8", 8.0),
        ("e2m1", 4.0),
        ("nvfp4", 4 + 8 / 16),
        ("mxfp4", 4 + 8 / 32),
        ("int4-g128", 4 + 16 / 128),
        ("int8-g64", 8 + 16 / 64),
        ("int4-g128-zp", 4 + (16 + 4) / 128),
        ("ternary-g16", 2 + 16 / 16),
        ("int4-g128-sfp8_e4m3fn", 4 + 8 / 128),
        ("int3-g32-zp-sfp32", 3 + (32 + 3) / 32),
    ],
)
def test_storage_bits_count_scales_and_zero_points(name: str, bits: float) -> None:
    assert number_format(name).storage_bits == bits


def test_storage_bits_of_nm_count_indices_and_scales_of_kept_values() -> None:
    assert NMSparsity(2, 4).storage_bits("int8") == 0.5 * (8 + 2)
    assert NMSparsity(4, 8).storage_bits("nvfp4") == 0.5 * (4.5 + 3)
    assert NMSparsity(8, 8).storage_bits("bf16") == 16.0
    # 3 does not divide 32: a scale covers ten whole groups of three.
    assert NMSparsity(3, 8).storage_bits("mxfp4") == pytest.approx(3 / 8 * (4 + 8 / 30 + 3))


def test_a_format_is_a_cached_hashable_value_with_one_spelling() -> None:
    assert number_format("int4-g128") is number_format("int4-g128")
    assert number_format("int4-g0128-sfp16") == number_format("int4-g128")
    assert len({number_format("nvfp4"), number_format("mxfp4"), number_format("nvfp4")}) == 2
    nvfp4 = number_format("nvfp4")
    assert (nvfp4.group, nvfp4.scale_format, nvfp4.tensor_scale) == (16, "fp8_e4m3fn", True)
    assert number_format("int8").max == 127
    assert number_format("int4-g128-zp").max == 15
    with pytest.raises(AttributeError):
        nvfp4.bits = 5  # type: ignore[misc]
    assert isinstance(nvfp4, NumberFormat)


@pytest.mark.parametrize(
    "name, hint",
    [
        ("nvpf4", "'nvfp4'"),
        ("fp8_e4m3", "'fp8_e4m3fn'"),
        ("int4-g128-z", "'int4-g128-zp'"),
        ("int9", "'int"),
        ("int4-g0", "at least one element"),
        ("int4-g32-sfp17", "'fp16'"),
        ("ternary-g16-zp", "only int formats"),
        ("int8-g32-sfp8_e4m3fn", "too coarse"),
        ("int4-g32-zp-se8m0", "too coarse"),
        ("fp8_e4m3fn-g32-sfp8_e4m3fn", "too coarse"),
    ],
)
def test_a_format_that_does_not_exist_is_refused_with_the_way_out(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        number_format(name)
