"""Elements to codes and back, and codes to bit streams: plain NumPy, the reference for fast paths.

Every rounding is to the nearest element, ties to the even code. The one exception is e8m0, which
has no mantissa bit to be even: its ties go up, as in ml_dtypes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crosslayer.contracts.number_format import NumberFormat, as_format
from crosslayer.errors import InputError

_CHUNK = 1 << 20  # elements encoded at a time: float64 temporaries stay small for an embedding


def encode(
    x: ArrayLike,
    format: NumberFormat | str,
    *,
    saturate: bool = True,
    keep_nonfinite: bool = False,
) -> NDArray[Any]:
    """The code of each element: same shape, uint8, uint16 or uint32. Scales are left to `pack`.

    saturate: what rounds past the largest element becomes +-max (fp8_e4m3fn: 448; int8: 127, so the
    code of -128 is never written). False: infinity, or NaN in fp8_e4m3fn and e8m0; int, ternary and
    e2m1 have neither and saturate all the same. Signed zeros stay signed in float formats.
    keep_nonfinite: NaN and infinity keep their meaning where the format has them. InputError names
    the first NaN or infinity that cannot be stored; for e8m0 the first value that is not positive.
    """
    format = as_format(format)
    _refuse_scaled(format)
    values = np.asarray(x)
    refuse_nonfinite(values, format, keep_nonfinite)
    if format.mantissa_bits == 0 and format.kind == "float":
        _refuse_first(values, ~np.isnan(values) & (values <= 0), format, "is not positive")
    return encode_elements(values, format, saturate)


def decode(codes: ArrayLike, format: NumberFormat | str) -> NDArray[np.float32]:
    """The float32 value of each code, exactly; NaN and infinity codes give NaN and infinity."""
    format = as_format(format)
    _refuse_scaled(format)
    array = np.asarray(codes)
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 1 << format.bits:
        raise InputError(f"{format.name} codes are below {1 << format.bits}, got {array.max()}")
    if format.kind == "ternary" and (array == 2).any():
        raise InputError("code 2 is no ternary digit: 0 is 0, 1 is 1, 3 is -1")
    return np.asarray(decode_elements(array, format))


def encode_elements(values: NDArray[Any], format: NumberFormat, saturate: bool) -> NDArray[Any]:
    """`encode` without the checks, for values that were divided by their scale."""
    codes = np.empty(values.size, dtype=code_type(format.bits))
    flat = values.reshape(-1)
    for start in range(0, values.size, _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        if format.kind == "float" and format.mantissa_bits == 0:
            done = _encode_powers(part, format, saturate)
        elif format.kind == "float":
            done = _encode_floats(part, format, saturate)
        else:
            rounded = np.clip(np.rint(part), -format.max, format.max)
            done = rounded.astype(np.int64) & ((1 << format.bits) - 1)
        codes[start : start + _CHUNK] = done
    return codes.reshape(values.shape)


def decode_elements(codes: NDArray[Any], format: NumberFormat) -> NDArray[np.float32]:
    """`decode` without the checks."""
    if format.bits <= 8:
        return np.asarray(_table(format)[codes], dtype=np.float32)
    if format.bits == 16 and format.exponent_bits == 5:
        return codes.astype(np.uint16).view(np.float16).astype(np.float32)
    return (codes.astype(np.uint32) << np.uint32(32 - format.bits)).view(np.float32)


def pack_bits(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Codes one after another, code i in bits [i * bits, (i + 1) * bits), lowest bit first.

    Bit j of the stream is bit j % 8 of byte j // 8; the last byte is filled with zeros.
    """
    flat = codes.reshape(-1)
    if bits % 8 == 0:
        return np.frombuffer(flat.astype(f"<u{bits // 8}").tobytes(), dtype=np.uint8)
    shifts = np.arange(bits, dtype=np.uint32)
    stream = ((flat.astype(np.uint32)[:, None] >> shifts) & 1).astype(np.uint8)
    return np.packbits(stream.reshape(-1), bitorder="little")


def unpack_bits(stream: NDArray[np.uint8], bits: int, count: int) -> NDArray[Any]:
    """The first `count` codes that `pack_bits` wrote, flat."""
    if bits % 8 == 0:
        whole = np.frombuffer(stream.tobytes(), dtype=f"<u{bits // 8}")[:count]
        return whole.astype(code_type(bits))
    digits = np.unpackbits(stream, count=count * bits, bitorder="little").reshape(count, bits)
    places = (1 << np.arange(bits)).astype(code_type(bits))
    return np.asarray((digits * places).sum(axis=1, dtype=code_type(bits)))


def code_type(bits: int) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned NumPy type that holds a code of that many bits."""
    return np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32


def _encode_floats(x: NDArray[np.float64], format: NumberFormat, saturate: bool) -> NDArray[Any]:
    # A magnitude in [2^e, 2^(e+1)) lies on a grid of step 2^(e-m); below 2^emin the step stays. The
    # rounded multiple q runs from 2^m to 2^(m+1), so (e - emin) * 2^m + q is the code, also where
    # rounding carries into the next exponent.
    finite = np.isfinite(x)
    magnitude = np.where(finite, np.abs(x), 0.0)
    lowest, m = 1 - format.bias, format.mantissa_bits
    exponent = np.maximum(np.frexp(magnitude)[1] - 1, lowest)
    exponent = np.where(magnitude == 0, lowest, exponent).astype(np.int64)
    multiple = np.rint(np.ldexp(magnitude, (m - exponent).astype(np.int32))).astype(np.int64)
    codes = ((exponent - lowest) << m) + multiple
    past = format.max_code if saturate or not format.has_nan else format.max_code + 1
    codes = np.where(codes > format.max_code, past, codes)
    if not finite.all():
        above = format.max_code + 1  # infinity, or the only NaN of fp8_e4m3fn
        nan = above | (1 << (m - 1)) if format.has_infinity else above
        codes = np.where(np.isinf(x), above, np.where(np.isnan(x), nan, codes))
    return codes | (np.signbit(x).astype(np.int64) << (format.bits - 1))


def _encode_powers(x: NDArray[np.float64], format: NumberFormat, saturate: bool) -> NDArray[Any]:
    finite = np.isfinite(x)
    mantissa, exponent = np.frexp(np.where(finite, x, 1.0))  # mantissa in [0.5, 1)
    codes = exponent.astype(np.int64) - 1 + (mantissa >= 0.75) + format.bias
    codes = np.maximum(codes, 0)
    nan = format.max_code + 1
    codes = np.where(codes > format.max_code, format.max_code if saturate else nan, codes)
    return np.where(finite, codes, nan)


@functools.cache
def _table(format: NumberFormat) -> NDArray[np.float32]:
    """The value of each code of a format of at most 8 bits."""
    codes = np.arange(1 << format.bits)
    if format.kind != "float":
        signed = np.where(codes >= 1 << (format.bits - 1), codes - (1 << format.bits), codes)
        table = (codes if format.zero_point else signed).astype(np.float32)
    elif format.mantissa_bits == 0:
        table = np.ldexp(1.0, np.minimum(codes, format.max_code) - format.bias).astype(np.float32)
        table[format.max_code + 1 :] = np.nan
    else:
        m = format.mantissa_bits
        magnitude = codes & ((1 << (format.bits - 1)) - 1)
        field, fraction = magnitude >> m, magnitude & ((1 << m) - 1)
        significand = np.where(field > 0, fraction + (1 << m), fraction)
        step = np.maximum(field, 1) - format.bias - m
        table = np.ldexp(significand.astype(np.float64), step).astype(np.float32)
        table[magnitude > format.max_code] = np.nan
        if format.has_infinity:
            table[magnitude == format.max_code + 1] = np.inf
        table = np.where(codes >> (format.bits - 1), -table, table).astype(np.float32)
    table.flags.writeable = False
    return table


def _refuse_scaled(format: NumberFormat) -> None:
    if format.zero_point or (format.kind == "float" and format.scale_format is not None):
        raise InputError(f"{format.name} codes have no value without their scales: use pack")


def refuse_nonfinite(values: NDArray[Any], format: NumberFormat, keep: bool = False) -> None:
    """Raise InputError naming the first NaN or infinity; keep: unless the format has it."""
    bad = ~np.isfinite(values)
    if keep and format.has_nan:
        bad &= ~np.isnan(values)
    if keep and format.has_infinity:
        bad &= ~np.isinf(values)
    _refuse_first(values, bad, format, "cannot be stored" if keep else "is not finite")


def _refuse_first(
    values: NDArray[Any], bad: NDArray[np.bool_], format: NumberFormat, reason: str
) -> None:
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{values[where]} at index {where} {reason}: {format.name} refuses it")
