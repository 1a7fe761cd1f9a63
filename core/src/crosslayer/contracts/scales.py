"""Scales of a quantised tensor: how they are chosen, checked and applied.

amax is the largest magnitude of a group, and every scale is rounded to its format before anything
is divided by it:

    float, int      amax / max, to nearest (int8: amax / 127)
    asymmetric int  (hi - lo) / (2^bits - 1) with lo <= 0 <= hi; zero point rint(-lo / scale).
                    Where both ends round inwards and leave a code unused: the next lower scale
    ternary         mean magnitude of the elements above amax / 2
    e8m0 scales     2^(floor(log2 amax) - e), e the exponent of the largest element (OCP MX 1.0,
                    section 6.3: mxfp4 e = 2); ternary: amax is that mean
    nvfp4           tensor scale amax / (6 * 448) over the tensor, then group scales
                    amax / 6 / tensor scale in fp8_e4m3fn

A float32 scale keeps 16 significant bits (the rest is cut off), so that scale * element is exact in
float32. A scale is at least 2^(bits - 1) times the smallest value of its format (2^bits with a zero
point; nvfp4: 2^-6), where the grid of scales is still fine enough, and large enough that no product
falls off the low end of float32. With these rules a tensor that `unpack` returned packs to the same
values again, bit for bit, and a group of zeros is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts import codecs
from crosslayer.contracts.number_format import NumberFormat, number_format
from crosslayer.errors import InputError

_PRECISION = 16  # significant bits of a float32 scale
FLOAT32_MAX = number_format("fp32").max
# With this one the finest product of an nvfp4 tensor is 2^-149, the last step of float32.
_SMALLEST_TENSOR_SCALE = 2.0**-124


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """Decoded scales of a tensor: `scale` float32 [rows, groups], `zero_point` the same in uint8.

    Rows are all axes but the grouped one, flattened; one scale a tensor is [1, 1]. An element is
    tensor_scale * scale * (value of its code - zero_point).
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8] | None = None
    tensor_scale: float = 1.0


def choose_scales(groups: NDArray[np.float64], format: NumberFormat) -> Scales:
    """The scales of the module's rules for finite elements [rows, groups, elements]."""
    if format.zero_point:
        return _choose_asymmetric(groups, format)
    amax = np.abs(groups).max(axis=-1, initial=0.0)
    if format.tensor_scale:
        largest = format.max * number_format(format.scale_format or "").max
        tensor = float(_cut(np.asarray(amax.max(initial=0.0) / largest), _PRECISION))
        tensor = max(tensor, _SMALLEST_TENSOR_SCALE)
        return Scales(_round(amax / format.max / tensor, format), None, tensor)
    if format.kind == "ternary":
        above = np.abs(groups) > amax[..., None] / 2
        total = np.where(above, np.abs(groups), 0.0).sum(axis=-1)
        amax = total / np.maximum(above.sum(axis=-1), 1)
    if format.scale_format == "e8m0":
        exponent = np.frexp(amax)[1] - math.frexp(format.max)[1]
        exponent = np.clip(np.where(amax > 0, exponent, -127), -127, 127)
        return Scales(np.ldexp(1.0, exponent).astype(np.float32))
    return Scales(_round(amax / format.max, format))


def check_scales(scales: Scales, shape: tuple[int, int], format: NumberFormat) -> Scales:
    """Given scales as they are, or InputError saying what does not fit the format or the shape."""
    if format.scale_format is None:
        raise InputError(f"{format.name} has no scales: leave them out")
    scale, zero = np.asarray(scales.scale), scales.zero_point
    if scale.shape != shape:
        raise InputError(f"scales of this {format.name} tensor are {shape}, got {scale.shape}")
    scale_format = number_format(format.scale_format)
    stored = codecs.decode_elements(codecs.encode_elements(scale, scale_format, True), scale_format)
    if not (np.isfinite(scale) & (scale > 0) & (stored == scale)).all():
        raise InputError(f"scales of {format.name} are positive values of {format.scale_format}")
    if (zero is not None) != format.zero_point:
        raise InputError(f"{format.name} {'needs' if format.zero_point else 'has no'} zero points")
    if zero is not None and (zero.shape != shape or (zero > format.max).any()):
        raise InputError(f"zero points of {format.name} are {shape}, at most {format.max:g}")
    tensor = scales.tensor_scale
    if not format.tensor_scale and tensor != 1.0:
        raise InputError(f"{format.name} has no tensor scale, got {tensor}")
    if not (0 < tensor <= FLOAT32_MAX and float(np.float32(tensor)) == tensor):
        raise InputError(f"a tensor scale is a positive float32, got {tensor}")
    return Scales(scale.astype(np.float32), zero, tensor)


def quantise(groups: NDArray[np.float64], scales: Scales, format: NumberFormat) -> NDArray[Any]:
    """Codes of elements [rows, groups, elements]; what lies past the range saturates."""
    scaled = groups / (scales.scale.astype(np.float64) * scales.tensor_scale)[..., None]
    if scales.zero_point is None:
        return codecs.encode_elements(scaled, format, saturate=True)
    # The same as rint(scaled + zero point) but for ties, which stay even around zero.
    shifted = np.rint(scaled) + scales.zero_point[..., None]
    return np.clip(shifted, 0, format.max).astype(np.uint8)


def dequantise(values: NDArray[np.float32], scales: Scales) -> NDArray[np.float32]:
    """Elements from the values of their codes, both [rows, groups, elements]; rounded once, and
    saturated at float32's largest."""
    exact = values.astype(np.float64)
    if scales.zero_point is not None:
        exact -= scales.zero_point[..., None]
    exact *= (scales.scale.astype(np.float64) * scales.tensor_scale)[..., None]
    return np.clip(exact, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


def _choose_asymmetric(groups: NDArray[np.float64], format: NumberFormat) -> Scales:
    low = groups.min(axis=-1, initial=0.0)
    high = groups.max(axis=-1, initial=0.0)
    smallest, _ = _range(format)
    scale_format = number_format(format.scale_format or "")
    # Neighbouring scales are one code apart, float32 ones a whole step of their 16 bits.
    step = 1 << max(0, scale_format.mantissa_bits + 1 - _PRECISION)
    scale = _round((high - low) / format.max, format)
    while True:
        below = np.rint(-low / scale.astype(np.float64))
        above = np.rint(high / scale.astype(np.float64))
        # A code left unused would give the result a smaller range, hence another scale.
        unused = (below + above < format.max) & (scale > smallest)
        if not unused.any():
            return Scales(scale, np.minimum(below, format.max).astype(np.uint8))
        code = codecs.encode_elements(scale, scale_format, saturate=True)
        lower = codecs.decode_elements(code - code.dtype.type(step), scale_format)
        scale = np.where(unused, np.maximum(lower, np.float32(smallest)), scale)


def _round(scale: NDArray[np.float64], format: NumberFormat) -> NDArray[np.float32]:
    """Scales rounded to the format's scale format, within `_range`."""
    scale_format = number_format(format.scale_format or "")
    if scale_format.name == "fp32":
        rounded = _cut(scale, _PRECISION)
    else:
        codes = codecs.encode_elements(scale, scale_format, saturate=True)
        rounded = codecs.decode_elements(codes, scale_format).astype(np.float64)
    return np.clip(rounded, *_range(format)).astype(np.float32)


def _range(format: NumberFormat) -> tuple[float, float]:
    """Smallest and largest scale, as the module says; at the top scale * max is still finite."""
    scale_format = number_format(format.scale_format or "")
    precision = min(scale_format.mantissa_bits + 1, _PRECISION)
    coarse = scale_format.smallest * 2.0 ** (format.bits if format.zero_point else format.bits - 1)
    underflow = 2.0 ** (precision - 1 - 149) / format.smallest
    largest = float(_cut(np.asarray(FLOAT32_MAX / format.max), precision))
    return max(coarse, underflow), min(largest, scale_format.max)


def _cut(values: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Positive float64 values with all but the first `bits` significant bits cleared."""
    dropped = np.uint64((1 << (53 - bits)) - 1)
    whole = np.asarray(values, dtype=np.float64).view(np.uint64)
    return np.asarray((whole & ~dropped).view(np.float64))
