"""Number formats by name: how an element is coded and what its scales cost.

An element is a float code, a two's complement integer or a ternary digit. Most narrow formats add a
scale that a group of elements shares. Names: the plain ones below, and

    <element>[-g<group>][-zp][-s<scale format>]     int4-g128, int8-g64, int4-g128-zp, ternary-g16,
                                                    int4-g128-sfp8_e4m3fn, fp8_e4m3fn-sfp32

with elements int2 .. int8, ternary, e2m1, fp8_e4m3fn and fp8_e5m2. Without -g one scale covers the
tensor. Default scale format: fp16 for groups, fp32 for a tensor.

Sources: OCP 8-bit Floating Point (OFP8) 1.0 for the fp8 types; OCP Microscaling Formats (MX) 1.0
for e2m1, e8m0 and mxfp4; NVIDIA Transformer Engine documentation for nvfp4.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Literal

from crosslayer.errors import InputError, nearest

Kind = Literal["float", "int", "ternary"]


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How one element is stored. `max` is the largest finite element, before any scale.

    group: elements along `scale_axis` that share a scale; None with a scale format: one scale a
    tensor; None without: no scale. zero_point: each scale has an integer zero point of `bits` bits.
    tensor_scale: one float32 for the whole tensor multiplies the group scales (nvfp4).
    """

    name: str
    bits: int
    kind: Kind
    exponent_bits: int
    mantissa_bits: int
    max: float
    group: int | None = None
    scale_axis: int = -1
    scale_format: str | None = None
    zero_point: bool = False
    tensor_scale: bool = False

    @property
    def group_bits(self) -> int:
        """Bits that each scale group adds: the scale and, where there is one, the zero point."""
        if self.scale_format is None:
            return 0
        return number_format(self.scale_format).bits + (self.bits if self.zero_point else 0)

    @property
    def storage_bits(self) -> float:
        """Bits per element of a large tensor, scales and zero points included (nvfp4: 4.5)."""
        return self.bits + (self.group_bits / self.group if self.group else 0.0)

    @property
    def signed(self) -> bool:
        """False for e8m0, which codes a bare power of two, and for asymmetric integers."""
        return not self.zero_point and self.bits > self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """Exponent bias of a float format: 2^(e-1) - 1."""
        return int(2 ** (self.exponent_bits - 1)) - 1

    @property
    def max_code(self) -> int:
        """The code of `max`, sign bit aside."""
        if self.kind != "float":
            return int(self.max)
        mantissa, exponent = math.frexp(self.max)  # max = mantissa * 2^exponent, mantissa >= 0.5
        fraction = int((2 * mantissa - 1) * 2**self.mantissa_bits)
        return ((exponent - 1 + self.bias) << self.mantissa_bits) + fraction

    @property
    def has_nan(self) -> bool:
        """Whether codes above `max_code` are left for NaN."""
        all_ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        return self.kind == "float" and self.max_code < all_ones

    @property
    def has_infinity(self) -> bool:
        """Whether the largest exponent is kept for infinity and NaN, as in IEEE 754."""
        ieee_max = ((1 << self.exponent_bits) - 1 << self.mantissa_bits) - 1
        return self.kind == "float" and self.mantissa_bits > 0 and self.max_code == ieee_max

    @property
    def smallest(self) -> float:
        """The smallest positive element, before any scale."""
        if self.kind != "float":
            return 1.0
        if self.mantissa_bits == 0:
            return 2.0**-self.bias  # e8m0 has no zero and no subnormals
        return 2.0 ** (1 - self.bias - self.mantissa_bits)


_E2M1 = NumberFormat("e2m1", 4, "float", 2, 1, 6.0)
_PLAIN = {
    f.name: f
    for f in (
        NumberFormat("fp32", 32, "float", 8, 23, (2 - 2.0**-23) * 2.0**127),
        NumberFormat("bf16", 16, "float", 8, 7, (2 - 2.0**-7) * 2.0**127),
        NumberFormat("fp16", 16, "float", 5, 10, 65504.0),
        NumberFormat("fp8_e4m3fn", 8, "float", 4, 3, 448.0),
        NumberFormat("fp8_e5m2", 8, "float", 5, 2, 57344.0),
        NumberFormat("e8m0", 8, "float", 8, 0, 2.0**127),
        _E2M1,
        NumberFormat(
            "nvfp4", 4, "float", 2, 1, 6.0, 16, scale_format="fp8_e4m3fn", tensor_scale=True
        ),
        NumberFormat("mxfp4", 4, "float", 2, 1, 6.0, 32, scale_format="e8m0"),
    )
}
_SCALES = ("fp32", "fp16", "bf16", "fp8_e4m3fn", "fp8_e5m2", "e8m0")
_KNOWN = (*_PLAIN, *(f"int{b}" for b in range(2, 9)), "ternary", "int4-g128", "int8-g128")
_KNOWN += ("int4-g128-zp", "ternary-g16", "int4-g128-sfp8_e4m3fn")
_NAME = re.compile(
    r"(?P<element>int[2-8]|ternary|e2m1|fp8_e4m3fn|fp8_e5m2)"
    r"(?:-g(?P<group>[0-9]{1,9}))?(?P<zp>-zp)?(?:-s(?P<scale>[a-z0-9_]+))?"
)


@functools.cache
def number_format(name: str) -> NumberFormat:
    """The format of that name. InputError with the nearest name where there is none."""
    if name in _PLAIN:
        return _PLAIN[name]
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(f"unknown number format {name!r}: {nearest(name, _KNOWN)}")
    element, zero_point = match["element"], match["zp"] is not None
    group = int(match["group"]) if match["group"] else None
    if group == 0:
        raise InputError(f"number format {name!r}: a scale group needs at least one element")
    if zero_point and not element.startswith("int"):
        raise InputError(f"number format {name!r}: only int formats take a zero point (-zp)")
    scale = match["scale"] or ("fp16" if group else "fp32")
    if scale not in _SCALES:
        raise InputError(f"number format {name!r}: scale {scale!r}, {nearest(scale, _SCALES)}")
    _refuse_coarse_scale(name, element, scale, zero_point)

    canonical = element + (f"-g{group}" if group else "") + ("-zp" if zero_point else "")
    canonical += "" if scale == ("fp16" if group else "fp32") else f"-s{scale}"
    if canonical != name and not (element in _PLAIN and canonical == element):
        return number_format(canonical)  # one spelling, so that equal formats compare equal
    if element == "ternary":
        return NumberFormat(name, 2, "ternary", 0, 0, 1.0, group, scale_format=scale)
    if element in _PLAIN:
        raw = _PLAIN[element]
        exponent, mantissa = raw.exponent_bits, raw.mantissa_bits
        return NumberFormat(
            name, raw.bits, "float", exponent, mantissa, raw.max, group, scale_format=scale
        )
    bits = int(element[3:])
    largest = float(2**bits - 1 if zero_point else 2 ** (bits - 1) - 1)
    return NumberFormat(
        name, bits, "int", 0, 0, largest, group, scale_format=scale, zero_point=zero_point
    )


def as_format(format: NumberFormat | str) -> NumberFormat:
    """A format from itself or from its name."""
    return number_format(format) if isinstance(format, str) else format


def _refuse_coarse_scale(name: str, element: str, scale: str, zero_point: bool) -> None:
    """Refuse a scale so coarse that quantising a quantised tensor would choose another scale.

    Rounding a scale of m mantissa bits moves max / scale by a factor of up to 1 - 2^-(m+1). The
    largest element must still round to the format's largest code, or the absmax of the result asks
    for a smaller scale. e8m0 scales follow the MX floor rule, which has no such trouble.
    """
    if element == "ternary" or (scale == "e8m0" and not zero_point):
        return
    if element in _PLAIN:
        raw = _PLAIN[element]
        largest, step = raw.max, 2.0 ** (math.frexp(raw.max)[1] - 1 - raw.mantissa_bits)
    else:
        bits = int(element[3:])
        # An asymmetric group has two ends to round, so the two halves of a step count together.
        largest, step = (2.0**bits - 1, 2.0) if zero_point else (2.0 ** (bits - 1) - 1, 1.0)
    if largest * 2.0 ** -(_PLAIN[scale].mantissa_bits + 1) >= step / 2:
        raise InputError(
            f"number format {name!r}: {scale} is too coarse a scale for {element}, "
            "use fp16, bf16 or fp32"
        )
