"""Number formats and N:M sparsity with plain NumPy packing: the reference for every fast path.

`number_format` names a format and `storage_bits` prices it; `encode` and `decode` turn elements
into codes and back; `pack` and `unpack` handle whole tensors with their scales, zero points and N:M
indices; `storage_bytes` is the size of a packed tensor without packing it, `stored_bytes` that of
many.
"""

from __future__ import annotations

from crosslayer.contracts.codecs import decode, encode, pack_bits, unpack_bits
from crosslayer.contracts.number_format import NumberFormat, number_format
from crosslayer.contracts.packing import Packed, pack, storage_bytes, stored_bytes, unpack
from crosslayer.contracts.scales import Scales
from crosslayer.contracts.sparsity import NMSparsity

__all__ = [
    "NMSparsity",
    "NumberFormat",
    "Packed",
    "Scales",
    "decode",
    "encode",
    "number_format",
    "pack",
    "pack_bits",
    "storage_bytes",
    "stored_bytes",
    "unpack",
    "unpack_bits",
]
