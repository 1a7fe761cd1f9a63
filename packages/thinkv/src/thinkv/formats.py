"""Number formats of the cache in torch: NVFP4, FP8 E4M3, ternary and 16 bits, really packed.

The reference is the core's NumPy packing (`crosslayer.contracts.formats`); tests compare codes and
scales bit for bit. A tensor of groups has a two-level scale, as NVFP4 has: one float32 for the
whole tensor, one E4M3 code for each group of 16. Sources: NVIDIA Transformer Engine documentation
(NVFP4); OCP OFP8 1.0 (E4M3).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from crosslayer.contracts import codecs
from crosslayer.contracts.number_format import NumberFormat, number_format
from thinkv.layout import GROUP, CacheFormat

E4M3 = number_format("fp8_e4m3fn")
_SMALLEST_TENSOR_SCALE = 2.0**-124
_SMALLEST_GROUP_SCALE = {4: 2.0**-6, 2: 2.0**-8}  # as the core's scales: where the grid is fine


@dataclass(frozen=True)
class Quantised:
    """Codes uint8 [..., elements * bits / 8] in the order of the input, and its scales.

    scales: E4M3 codes uint8, one a group; tensor_scale: float32 [tensors]. None where unscaled.
    """

    codes: Any
    scales: Any = None
    tensor_scale: Any = None


def quantise(x: Any, format: CacheFormat, axis: int) -> Quantised:
    """x [tensors, ..., elements], grouped along `axis`, to codes packed along the last axis.

    Each x[i] is a tensor with a scale of its own. A group is GROUP elements of `axis` (not 0), the
    last one may be short. scales has x's shape with `axis` divided by GROUP, rounded up. 16-bit
    formats: codes are the bytes of the float16 values.
    """
    if format.element is None:
        return Quantised(x.to(torch.float16).contiguous().view(torch.uint8))
    if not format.scaled:
        return Quantised(_encode_e4m3(x))
    axis %= x.dim()
    x = x.double().movedim(axis, -1)
    length = x.shape[-1]
    pad = -length % GROUP
    groups = torch.nn.functional.pad(x, (0, pad)).unflatten(-1, (-1, GROUP))
    amax = groups.abs().amax(-1)
    top = format.element.max
    whole = amax.flatten(1).amax(1).reshape(-1, *[1] * (amax.dim() - 1))
    tensor = _cut(whole / (top * E4M3.max)).clamp(min=_SMALLEST_TENSOR_SCALE)
    wanted = amax / top if format.bits == 4 else _ternary_scale(groups)
    scale_codes = _encode_e4m3(wanted / tensor)
    floor = _encode_e4m3(torch.tensor(_SMALLEST_GROUP_SCALE[format.bits], dtype=torch.float64))
    scale_codes = torch.maximum(scale_codes, floor)  # positive E4M3 codes are ordered
    scale = _lut(E4M3, x.device)[scale_codes.long()].double() * tensor
    scaled = groups / scale[..., None]
    codes = _encode_e2m1(scaled) if format.bits == 4 else _encode_ternary(scaled)
    codes = codes.flatten(-2)[..., :length].movedim(-1, axis)
    return Quantised(
        pack(codes, format.bits), scale_codes.movedim(-1, axis), tensor.flatten().to(torch.float32)
    )


def pack(codes: Any, bits: int) -> Any:
    """Codes of `bits` bits to bytes along the last axis, lowest bits first (codecs.pack_bits)."""
    per_byte = 8 // bits
    parts = codes.to(torch.uint8).unflatten(-1, (-1, per_byte))
    packed = parts[..., 0].clone()
    for i in range(1, per_byte):
        packed |= parts[..., i] << (bits * i)
    return packed


def decode(codes: Any, format: CacheFormat) -> Any:
    """Packed bytes [..., b] to float32 values before scales [..., b * 8 / bits], by table.

    One table entry holds all values of a byte, under a type as wide as they are together.
    """
    if format.element is None:
        return codes.view(torch.float16).float()
    entries = _byte_table(format, codes.device)
    found = entries.index_select(0, codes.flatten().int())
    return found.view(torch.float32).view(*codes.shape[:-1], codes.shape[-1] * 8 // format.bits)


def decode_scales(codes: Any) -> Any:
    """E4M3 codes to float32."""
    return _lut(E4M3, codes.device)[codes.int()]


def _ternary_scale(groups: Any) -> Any:
    """The scale of least squared error of each group [..., 16].

    With the n largest magnitudes kept and the rest zero, the error falls by (their sum)^2 / n at
    the scale sum / n; the best n of 1..16 is the answer, exactly, because the optimal digits of any
    scale are the largest magnitudes.
    """
    ordered = groups.abs().sort(-1, descending=True).values
    total = ordered.cumsum(-1)
    count = torch.arange(1, GROUP + 1, dtype=groups.dtype, device=groups.device)
    best = (total * total / count).argmax(-1, keepdim=True)
    return (total / count).gather(-1, best)[..., 0]


def _encode_ternary(x: Any) -> Any:
    """-1, 0, 1 as two's complement codes 3, 0, 1; ties go to zero, which is even."""
    return x.round().clamp(-1, 1).to(torch.int8).bitwise_and(3).to(torch.uint8)


def _encode_e2m1(x: Any) -> Any:
    """Nearest of 0, .5, 1, 1.5, 2, 3, 4, 6, ties to the even code, sign in bit 3; saturates."""
    magnitude = x.abs()
    # Between codes c and c + 1 the tie belongs to the even one: below for even c, above for odd c.
    edges = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
    codes = torch.zeros_like(magnitude, dtype=torch.uint8)
    for lower, edge in enumerate(edges):
        above = magnitude > edge if lower % 2 == 0 else magnitude >= edge
        codes += above.to(torch.uint8)
    return codes | (torch.signbit(x).to(torch.uint8) << 3)


def _encode_e4m3(x: Any) -> Any:
    """E4M3 codes, round to nearest even, saturating at 448."""
    clipped = x.clamp(-E4M3.max, E4M3.max)
    # From float64 torch rounds twice (over float32); a value a hair beside a tie could go wrong, so
    # ties are decided in float64: the exponent's grid, then a rint.
    magnitude = clipped.double().abs()
    exponent = torch.frexp(magnitude).exponent.double() - 1
    exponent = exponent.clamp(min=-6)
    step = torch.exp2(exponent - 3)
    rounded = torch.round(magnitude / step) * step  # torch.round: half to even
    value = torch.copysign(rounded, clipped.double()).to(torch.float32)
    return value.to(torch.float8_e4m3fn).view(torch.uint8)


def _cut(x: Any) -> Any:
    """A float64 with all but the first 16 significant bits cleared."""
    return (x.view(torch.int64) & ~((1 << 37) - 1)).view(torch.float64)


@functools.cache
def _lut(format: NumberFormat, device: Any) -> Any:
    codes = torch.arange(1 << format.bits).numpy()
    return torch.from_numpy(codecs.decode_elements(codes, format).copy()).to(device)


@functools.cache
def _byte_table(format: CacheFormat, device: Any) -> Any:
    """The values of every byte: 256 entries. The unused ternary digit 2 reads as NaN."""
    assert format.element is not None
    values = _lut(format.element, device)
    if format.bits == 2:
        values = values.clone()
        values[2] = torch.nan
    byte = torch.arange(256, device=device)
    parts = [
        values[(byte >> (format.bits * i)) & ((1 << format.bits) - 1)]
        for i in range(8 // format.bits)
    ]
    wide = {8: torch.float32, 4: torch.float64, 2: torch.complex128}[format.bits]
    return torch.stack(parts, -1).contiguous().view(wide).flatten()
