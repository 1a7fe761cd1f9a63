"""What an op that an accelerator refuses is made of: convolutions and attention as products."""

from __future__ import annotations

from typing import Any

import numpy as np

from crosslayer.contracts.ops import Attention, Conv2d, Gemm, OpTable, op_type


def in_plain_parts(op: Any) -> tuple[Any, ...]:
    """A refused op in simpler ops, offered once before the fallback; () where there is nothing
    simpler.

    Conv2d becomes the Gemm of its im2col form. Attention becomes two Gemms against the whole KV
    cache of a sequence and KV head, with as many rows as give the op's query x key pairs: FLOPs and
    KV reads are the op's, and a batch of unequal sequences costs what they cost one by one.
    Elementwise parts (softmax, im2col copies) are left out of the count. A table gives tables.
    """
    kind = op_type(op)
    if kind is Conv2d and op.groups == 1:
        taps = op.kernel_h * op.kernel_w * op.in_channels
        product = _like(
            op,
            m=op.positions,
            k=taps,
            n=op.out_channels,
            weight_format=op.weight_format,
            bias=op.bias,
            name=op.name,
        )
        return (product,)
    if kind is Attention:
        keys = op.kv_tokens / np.maximum(op.sequences, 1)
        rows = op.pairs * op.heads / np.maximum(keys, 1)
        common = {
            "m": rows,
            "groups": op.sequences * op.kv_heads,
            "stationary": "activation",
            "weight_format": op.kv_format,
        }
        return (
            _like(op, k=op.head_dim, n=keys, name=f"{op.name}.scores", **common),
            _like(op, k=keys, n=op.value_dim, name=f"{op.name}.values", **common),
        )
    return ()


def _like(op: Any, **columns: Any) -> Any:
    """A Gemm, or a table of Gemms if `op` is a table, with the op's formats and annotations."""
    columns |= {"activation_format": op.activation_format, "annotations": op.annotations}
    return OpTable(Gemm, columns, rows=len(op)) if isinstance(op, OpTable) else Gemm(**columns)
