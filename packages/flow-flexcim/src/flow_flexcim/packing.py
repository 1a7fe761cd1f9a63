"""A fast path of the core's `pack` and `unpack` for N:M weights in a plain float format.

The core's functions are the reference, and what this file does not handle goes to them: other
formats, M above 16, values that need saturation, and every input that they refuse.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.formats import (
    NMSparsity,
    NumberFormat,
    Packed,
    number_format,
    pack,
    pack_bits,
    unpack,
)

_LARGEST_M = 16  # a table of 2^16 rows
_CHUNK = 1 << 20  # weights at a time
_CODE = {"bf16": np.uint16, "fp16": np.uint16, "fp32": np.uint32}
_EMPTY = np.zeros(0, dtype=np.uint8)


def fast_pack(weight: NDArray[np.float32], format: str, pattern: NMSparsity) -> Packed:
    """`pack(weight, format, pattern)` of a matrix [out, in]: the same bytes, the same errors."""
    known = number_format(format)
    fits = weight.ndim == 2 and weight.shape[1] % pattern.m == 0
    within = np.abs(weight).max(initial=0) <= known.max  # False for NaN
    if not (fits and within and _is_fast(known, pattern)):
        return pack(weight, known, pattern)
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    codes, indices = [], []
    for start, stop in _chunks(weight.shape):
        groups = weight[start:stop].reshape(-1, pattern.m)
        used = np.packbits(groups != 0, axis=-1, bitorder="little")
        key = used[:, 0] if used.shape[1] == 1 else used.view("<u2")[:, 0]
        if (_non_zeros(pattern.m)[key] > pattern.n).any():
            return pack(weight, known, pattern)  # which says where
        place = _places(pattern.n, pattern.m)[key]
        first = np.arange(len(groups), dtype=np.intp)[:, None] * pattern.m
        code = _encoded(groups.reshape(-1)[first + place], known)
        code[code == 1 << (known.bits - 1)] = 0  # -0.0 of a sparse weight is 0.0
        codes.append(code.reshape(-1))
        indices.append(_joined_bits(place.reshape(-1), pattern.index_bits))
    return Packed(
        weight.shape,
        known,
        pattern,
        1,
        pack_bits(_joined(codes, _CODE[known.name]), known.bits),
        _EMPTY,
        _EMPTY,
        _joined(indices, np.uint8),
        _EMPTY,
    )


def fast_unpack(packed: Packed) -> NDArray[np.float32]:
    """`unpack(packed)` of a matrix, equal bit for bit."""
    pattern, format = packed.sparsity, packed.format
    if pattern is None or len(packed.shape) != 2 or not _is_fast(format, pattern):
        return unpack(packed)
    out = np.zeros(packed.shape, dtype=np.float32)
    width = packed.shape[1] // pattern.m * pattern.n  # kept weights of a row
    for start, stop in _chunks(packed.shape):
        codes = packed.codes.view(f"<u{format.bits // 8}")[start * width : stop * width]
        stream = packed.indices[start * width * pattern.index_bits // 8 :]
        place = _split_bits(stream, pattern.index_bits, codes.size).reshape(-1, pattern.n)
        first = np.arange(len(place), dtype=np.intp)[:, None] * pattern.m
        out[start:stop].reshape(-1)[first + place] = _decoded(codes, format).reshape(place.shape)
    return out


def _is_fast(format: NumberFormat, pattern: NMSparsity) -> bool:
    return format.name in _CODE and pattern.n < pattern.m <= _LARGEST_M


def _chunks(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Row ranges of about _CHUNK weights, a multiple of 8 rows: then bits fill whole bytes."""
    rows = max(8, _CHUNK // max(1, shape[1]) // 8 * 8)
    return [(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]


def _joined(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


@functools.cache
def _non_zeros(m: int) -> NDArray[np.uint8]:
    """Set bits of every m-bit number."""
    return np.array([number.bit_count() for number in range(1 << m)], dtype=np.uint8)


@functools.cache
def _places(n: int, m: int) -> NDArray[np.uint8]:
    """[2^m, n]: of a group whose non-zeros are the set bits, the n places that are stored.

    Non-zeros first, then the lowest unused places, as the core's format says.
    """
    numbers = np.arange(1 << m)[:, None] >> np.arange(m) & 1
    return np.argsort(numbers == 0, axis=-1, kind="stable")[:, :n].astype(np.uint8)


def _encoded(values: NDArray[np.float32], format: NumberFormat) -> NDArray[Any]:
    """Codes of values within the format's range; to nearest, ties to even."""
    if format.name == "fp16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    if format.name == "fp32":
        return bits.copy()
    # Half of the last bit kept, less one where that bit is even, and the carry does the rest.
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _decoded(codes: NDArray[Any], format: NumberFormat) -> NDArray[np.float32]:
    if format.name == "fp16":
        return codes.view(np.float16).astype(np.float32)
    if format.name == "fp32":
        return codes.view(np.float32)
    return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _joined_bits(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """`pack_bits` for at most 4 bits: eight codes fill `bits` bytes, put together in one uint32."""
    padded = np.zeros(-(-codes.size // 8) * 8, dtype=np.uint32)
    padded[: codes.size] = codes
    words = np.zeros(padded.size // 8, dtype="<u4")
    for i in range(8):
        words |= padded[i::8] << np.uint32(bits * i)
    joined = words.view(np.uint8).reshape(-1, 4)[:, :bits].reshape(-1)
    return joined[: -(-codes.size * bits // 8)]


def _split_bits(stream: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The first `count` codes that `_joined_bits` wrote."""
    words = np.zeros((-(-count // 8), 4), dtype=np.uint8)
    needed = stream[: len(words) * bits]
    flat = np.zeros(len(words) * bits, dtype=np.uint8)
    flat[: needed.size] = needed
    words[:, :bits] = flat.reshape(-1, bits)
    joined = words.reshape(-1).view("<u4")
    codes = np.empty((len(joined), 8), dtype=np.uint8)
    for i in range(8):
        codes[:, i] = joined >> np.uint32(bits * i) & np.uint32((1 << bits) - 1)
    return codes.reshape(-1)[:count]
