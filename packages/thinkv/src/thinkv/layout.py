"""How many bits and bytes each thing in the cache takes; arithmetic alone, no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from crosslayer.contracts.number_format import NumberFormat, number_format
from crosslayer.errors import InputError, nearest

GROUP = 16  # elements that share a scale, tokens that are quantised together (g)
SLOT_TABLE_BYTES = 1 + 3 * 4  # live, and int32 segment start, position, group
BUFFER_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class CacheFormat:
    """How one element of K or V is stored. bits: of a code. scaled: has group scales.

    `element`: the number format of the code; None for 16-bit floats, which are stored as they are.
    """

    name: str
    bits: int
    scaled: bool
    element: NumberFormat | None

    @property
    def storage_bits(self) -> float:
        """Bits of an element with its share of an E4M3 scale; tables and buffer come on top."""
        return self.bits + (8 / GROUP if self.scaled else 0.0)

    def row_bytes(self, elements: int) -> int:
        """Bytes of the codes of one token's elements in one head."""
        return elements * self.bits // 8


FORMATS = {
    "nvfp4": CacheFormat("nvfp4", 4, True, number_format("e2m1")),
    "fp8": CacheFormat("fp8", 8, False, number_format("fp8_e4m3fn")),
    "ternary": CacheFormat("ternary", 2, True, number_format("ternary")),
    "fp16": CacheFormat("fp16", 16, False, None),
}
BY_BITS = {"16": "fp16", "8": "fp8", "4": "nvfp4", "2": "ternary"}
BITS = re.compile(r"R(16|8|4|2)E(16|8|4|2)T(16|8|4|2)")


def cache_format(name: str) -> CacheFormat:
    """The format of that name; InputError with the nearest name where there is none."""
    if name not in FORMATS:
        raise InputError(f"unknown cache format {name!r}: {nearest(name, FORMATS)}")
    return FORMATS[name]


def formats_of(bits: str) -> tuple[CacheFormat, CacheFormat, CacheFormat]:
    """Formats of T, E and R from a name such as "R4E4T2"; more important types get no fewer bits.

    InputError for another spelling and for bits that do not fall from R over E to T.
    """
    match = BITS.fullmatch(bits)
    if match is None:
        raise InputError(f"bits {bits!r}: write R, E and T each with 16, 8, 4 or 2, as in R4E4T2")
    r, e, t = (int(width) for width in match.groups())
    if not r >= e >= t:
        raise InputError(f"bits {bits!r}: R is to have no fewer than E, and E no fewer than T")
    formats = [FORMATS[BY_BITS[width]] for width in match.groups()]
    return formats[2], formats[1], formats[0]


@dataclass(frozen=True)
class Layout:
    """The shape of one layer of one sequence; formats in the order T, E, R."""

    kv_heads: int
    head_dim: int
    formats: tuple[CacheFormat, CacheFormat, CacheFormat]
    block_tokens: int = 8
    buffer_format: str = "fp16"

    def slot_bytes(self, format: CacheFormat) -> int:
        """Codes of K and V, value scales and table entries of a slot."""
        scales = self.kv_heads * self.head_dim // GROUP if format.scaled else 0
        return 2 * self.kv_heads * format.row_bytes(self.head_dim) + scales + SLOT_TABLE_BYTES

    def group_bytes(self, format: CacheFormat) -> int:
        """Key scales, the two float32 and the count of users of a group."""
        return self.kv_heads * self.head_dim + 2 * 4 + 2 if format.scaled else 0

    @property
    def buffer_token_bytes(self) -> int:
        """K and V of a token that waits for its group."""
        return 2 * self.kv_heads * self.head_dim * BUFFER_BYTES[self.buffer_format]
