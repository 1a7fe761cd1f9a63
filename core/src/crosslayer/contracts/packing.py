"""Tensors to the bytes that ship and back: grouped scales, zero points and N:M indices included.

How scales are chosen, and why a tensor that `unpack` returned packs to the same values again, is
told in `scales`. What a buffer holds bit for bit is told in `Packed` and `codecs.pack_bits`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crosslayer.contracts import codecs
from crosslayer.contracts.number_format import NumberFormat, as_format, number_format
from crosslayer.contracts.scales import (
    FLOAT32_MAX,
    Scales,
    check_scales,
    choose_scales,
    dequantise,
    quantise,
)
from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError

_EMPTY = np.zeros(0, dtype=np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A tensor as bit streams (see codecs.pack_bits); what is absent is empty.

    Element codes, group scales and zero points run row by row with `axis` last. Under N:M only kept
    elements have codes: in each group the non-zeros first, then, if they are fewer than n, the
    lowest unused places. indices: their places in the group. tensor_scale: little-endian float32.
    """

    shape: tuple[int, ...]
    format: NumberFormat
    sparsity: NMSparsity | None
    axis: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.uint8]
    zero_points: NDArray[np.uint8]
    indices: NDArray[np.uint8]
    tensor_scale: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers().values())

    def buffers(self) -> dict[str, NDArray[np.uint8]]:
        """The buffers that are not empty, by name, as safetensors stores them."""
        named = {name: getattr(self, name) for name in _BUFFERS}
        return {name: buffer for name, buffer in named.items() if buffer.size}

    @classmethod
    def from_buffers(
        cls,
        buffers: Mapping[str, NDArray[np.uint8]],
        shape: tuple[int, ...],
        format: NumberFormat | str,
        sparsity: NMSparsity | None = None,
        axis: int | None = None,
    ) -> Packed:
        """The tensor whose `buffers()` these are. InputError names a buffer of the wrong size."""
        layout = _Layout.of(shape, as_format(format), sparsity, axis)
        named = {name: np.asarray(buffers.get(name, _EMPTY)) for name in _BUFFERS}
        for name, wanted in layout.sizes().items():
            found = named[name]
            if found.dtype != np.uint8 or found.shape != (wanted,):
                raise InputError(
                    f"buffer {name!r} of a {layout.format.name} tensor {layout.shape} has "
                    f"{wanted} bytes (uint8), got {found.dtype} {found.shape}"
                )
        return cls(layout.shape, layout.format, layout.sparsity, layout.axis, **named)

    def decoded_scales(self) -> Scales | None:
        """The scales, to be given to `pack` for another tensor of this shape; None: has none."""
        return _read_scales(self, _Layout.of(self.shape, self.format, self.sparsity, self.axis))


_BUFFERS = ("codes", "scales", "zero_points", "indices", "tensor_scale")


def pack(
    x: ArrayLike,
    format: NumberFormat | str,
    sparsity: NMSparsity | None = None,
    axis: int | None = None,
    *,
    scales: Scales | None = None,
) -> Packed:
    """Quantise a tensor and pack it. Groups and N:M run along `axis` (default: format.scale_axis).

    Groups start anew in each row, so the last of a row may be short. `scales` replaces the absmax
    rules by given scales, which must be values of the scale format; past the range is saturated,
    and so is what float32 cannot hold.
    With n < m a zero has no sign: -0.0 comes back as 0.0, as it does from every int format.
    InputError: NaN or infinity (located), an axis that m does not divide, a group with more than n
    non-zeros, scales that do not fit.
    """
    array = np.asarray(x)
    layout = _Layout.of(array.shape, as_format(format), sparsity, axis)
    format = layout.format
    codecs.refuse_nonfinite(array, format)
    if array.dtype.itemsize > 4:
        array = np.clip(array, -FLOAT32_MAX, FLOAT32_MAX)
    if scales is not None:
        scales = check_scales(scales, layout.scales, format)
    matrix = np.moveaxis(np.atleast_1d(array), layout.axis, -1).reshape(layout.rows, layout.length)
    indices = _EMPTY
    if layout.sparse is not None:
        layout.sparse.check(matrix)
        groups = layout.sparse.groups(matrix)
        places = np.argsort(groups == 0, axis=-1, kind="stable")[..., : layout.sparse.n]
        matrix = np.take_along_axis(groups, places, axis=-1).reshape(layout.rows, layout.kept)
        indices = codecs.pack_bits(places, layout.sparse.index_bits)
    zero_points = stored = tensor_scale = _EMPTY
    if format.scale_format is None:
        codes = codecs.encode_elements(matrix, format, saturate=True)
    else:
        split = layout.split(matrix.astype(np.float64))
        chosen = choose_scales(split, format) if scales is None else scales
        codes = layout.join(quantise(split, chosen, format))
        scale_format = number_format(format.scale_format)
        code = codecs.encode_elements(chosen.scale, scale_format, saturate=True)
        stored = codecs.pack_bits(code, scale_format.bits)
        if chosen.zero_point is not None:
            zero_points = codecs.pack_bits(chosen.zero_point, format.bits)
        if format.tensor_scale:
            tensor_scale = np.frombuffer(np.array(chosen.tensor_scale, "<f4").tobytes(), np.uint8)
    if layout.sparse is not None and format.kind == "float":
        codes[codes == 1 << (format.bits - 1)] = 0  # -0.0: whether it is kept must not show
    return Packed(
        layout.shape,
        format,
        sparsity,
        layout.axis,
        codecs.pack_bits(codes, format.bits),
        stored,
        zero_points,
        indices,
        tensor_scale,
    )


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The float32 tensor that the buffers stand for: exactly, or its largest value past that."""
    layout = _Layout.of(packed.shape, packed.format, packed.sparsity, packed.axis)
    flat = codecs.unpack_bits(packed.codes, packed.format.bits, layout.rows * layout.kept)
    values = codecs.decode_elements(flat.reshape(layout.rows, layout.kept), packed.format)
    scales = _read_scales(packed, layout)
    if scales is not None:
        values = layout.join(dequantise(layout.split(values), scales))
    if layout.sparse is not None:
        n, m = layout.sparse.n, layout.sparse.m
        count = layout.rows * layout.kept
        flat = codecs.unpack_bits(packed.indices, layout.sparse.index_bits, count)
        full = np.zeros((layout.rows, layout.kept // n, m), dtype=np.float32)
        places = flat.reshape(layout.rows, layout.kept // n, n).astype(np.int64)
        np.put_along_axis(full, places, values.reshape(places.shape), axis=-1)
        values = full.reshape(layout.rows, layout.length)
    if not packed.shape:
        return values.reshape(())
    moved = [size for i, size in enumerate(packed.shape) if i != layout.axis]
    tensor = values.reshape(*moved, packed.shape[layout.axis])
    return np.ascontiguousarray(np.moveaxis(tensor, -1, layout.axis))


def storage_bytes(
    shape: tuple[int, ...],
    format: NumberFormat | str,
    sparsity: NMSparsity | None = None,
    axis: int | None = None,
) -> int:
    """Bytes of `pack` for any tensor of this shape, by arithmetic alone."""
    return sum(_Layout.of(shape, as_format(format), sparsity, axis).sizes().values())


def stored_bytes(
    rows: Any, length: Any, format: NumberFormat | str, sparsity: NMSparsity | None = None
) -> Any:
    """`storage_bytes` of [rows, length] grouped along the length; both numbers or columns."""
    sparse = _sparse(sparsity)
    kept = length if sparse is None else length * sparse.n / sparse.m
    return sum(_buffer_bytes(rows, kept, as_format(format), sparse).values())


def _sparse(sparsity: NMSparsity | None) -> NMSparsity | None:
    """The sparsity if it drops anything: n:n is dense."""
    return sparsity if sparsity and sparsity.n < sparsity.m else None


def _buffer_bytes(
    rows: Any, kept: Any, format: NumberFormat, sparse: NMSparsity | None
) -> dict[str, Any]:
    """Bytes of each buffer of rows of so many kept elements; each row starts a scale group."""
    elements, groups, scale_bits = rows * kept, 1, 0
    if format.group is not None:
        group = sparse.scale_group(format.group) if sparse else format.group
        groups = rows * -(-kept // group)
    if format.scale_format is not None:
        scale_bits = number_format(format.scale_format).bits
    bits = {
        "codes": elements * format.bits,
        "scales": groups * scale_bits,
        "zero_points": groups * format.bits if format.zero_point else 0,
        "indices": elements * sparse.index_bits if sparse else 0,
        "tensor_scale": 32 if format.tensor_scale else 0,
    }
    return {name: -(-count // 8) for name, count in bits.items()}


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a shape falls into rows, kept elements of a row and scale groups."""

    shape: tuple[int, ...]
    format: NumberFormat
    sparsity: NMSparsity | None
    axis: int
    rows: int
    length: int  # elements of a row
    kept: int  # those of them that have codes

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        format: NumberFormat,
        sparsity: NMSparsity | None,
        axis: int | None,
    ) -> _Layout:
        shape = tuple(int(size) for size in shape)
        sizes = shape or (1,)
        axis = format.scale_axis if axis is None else axis
        if not -len(sizes) <= axis < len(sizes):
            raise InputError(f"axis {axis} does not exist in a tensor of shape {shape}")
        axis %= len(sizes)
        length = kept = sizes[axis]
        rows = math.prod(sizes[:axis]) * math.prod(sizes[axis + 1 :])
        if sparsity is not None:
            sparsity.check_shape((*sizes[:axis], *sizes[axis + 1 :], kept))
            kept = kept // sparsity.m * sparsity.n
        return cls(shape, format, sparsity, axis, rows, length, kept)

    @property
    def sparse(self) -> NMSparsity | None:
        """The sparsity if it drops anything."""
        return _sparse(self.sparsity)

    @property
    def group(self) -> int:
        """Kept elements that share a scale."""
        if self.format.group is None:
            return max(1, self.rows * self.kept)
        return self.sparse.scale_group(self.format.group) if self.sparse else self.format.group

    @property
    def scales(self) -> tuple[int, int]:
        """Shape of the scales: rows and groups of a row."""
        if self.format.scale_format is None:
            return (0, 0)
        return (self.rows, -(-self.kept // self.group)) if self.format.group else (1, 1)

    def sizes(self) -> dict[str, int]:
        """Bytes of each buffer."""
        return _buffer_bytes(self.rows, self.kept, self.format, self.sparse)

    def split(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """[rows, kept] -> [scale rows, groups, group]; short groups are filled with zeros."""
        rows, groups = self.scales
        flat = matrix.reshape(rows, matrix.size // rows) if rows else matrix
        fill = groups * self.group - flat.shape[1]
        if fill:
            flat = np.pad(flat, ((0, 0), (0, fill)))
        return flat.reshape(rows, groups, self.group)

    def join(self, groups: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `split`."""
        rows, count = self.scales
        width = self.rows * self.kept // rows if rows else 0
        flat = groups.reshape(rows, count * self.group)[:, :width]
        return flat.reshape(self.rows, self.kept)


def _read_scales(packed: Packed, layout: _Layout) -> Scales | None:
    format, shape = packed.format, layout.scales
    if format.scale_format is None:
        return None
    scale_format, count = number_format(format.scale_format), math.prod(shape)
    codes = codecs.unpack_bits(packed.scales, scale_format.bits, count).reshape(shape)
    zero = None
    if format.zero_point:
        zero = codecs.unpack_bits(packed.zero_points, format.bits, count).reshape(shape)
    tensor = packed.tensor_scale.view("<f4")[0] if format.tensor_scale else 1.0
    return Scales(codecs.decode_elements(codes, scale_format), zero, float(tensor))
