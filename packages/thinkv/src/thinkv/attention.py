"""Attention over a paged, packed store: a dense reference, and the path that runs on a CPU.

Softmax attention does not depend on the order of the keys (RoPE is already in them), so slots are
read where they lie. Queries see every stored token, and of the tokens that came with them those up
to their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import torch

from crosslayer.errors import DependencyError

Decoding = Literal["auto", "torch", "triton"]
BLOCK = 256  # queries at a time: bounds the memory of a long prompt's scores


class Store(Protocol):
    """Keys and values that do not move while they are read."""

    def keys(self, slots: Any | None = None) -> Any: ...
    def values(self, slots: Any | None = None) -> Any: ...


@dataclass(frozen=True)
class Part:
    """A store with the mask of its live slots [slots] (None: all)."""

    store: Store
    live: Any = None


@dataclass(frozen=True)
class Dense:
    """Plain tensors as a store: k, v [heads, n, head_dim]."""

    k: Any
    v: Any

    def keys(self, slots: Any | None = None) -> Any:
        """Keys in float32."""
        return (self.k if slots is None else self.k[:, slots]).float()

    def values(self, slots: Any | None = None) -> Any:
        """Values in float32."""
        return (self.v if slots is None else self.v[:, slots]).float()


# Sees each block of queries: (scores, weights, index of the block's first query). Scores and
# weights are [heads, queries a head, block, keys], -inf and 0 where a query does not see a key;
# keys run over the parts in order, then over the new tokens.
Observer = Callable[[Any, Any, int], None]


def attend(
    q: Any,
    k: Any,
    v: Any,
    parts: Sequence[Part],
    scaling: float,
    observe: Observer | None = None,
    decoding: Decoding = "auto",
) -> Any:
    """`paged`, or the Triton kernel where one token is decoded and nobody looks at its scores.

    decoding "auto": the kernel on a GPU, where Triton is installed and the shape fits it.
    Errors for "triton": DependencyError without Triton, InputError for a shape it does not fit.
    """
    possible = q.shape[1] == 1 and observe is None
    if possible and (decoding == "triton" or (decoding == "auto" and q.is_cuda)):
        if find_spec("triton") is not None:
            from thinkv.kernel import decode_step, refusal

            if decoding == "triton" or refusal(q, parts) is None:
                return decode_step(q, k, v, parts, scaling)
        elif decoding == "triton":
            raise DependencyError(
                "decoding = 'triton' needs Triton, which is not installed; install it, or use "
                "decoding = 'torch'"
            )
    return paged(q, k, v, parts, scaling, observe)


def paged(
    q: Any,
    k: Any,
    v: Any,
    parts: Sequence[Part],
    scaling: float,
    observe: Observer | None = None,
) -> Any:
    """q [query heads, t, head_dim], new tokens k, v [heads, t, head_dim] -> [query heads, t, dim].

    Every slot of a part is decoded where it lies, dead ones are masked. Computed in float32, or in
    float64 where q is.
    """
    heads, t = k.shape[0], q.shape[1]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    grouped = q.to(dtype).unflatten(0, (heads, -1))  # [heads, queries a head, t, dim]
    stores = [part for part in parts if part.live is None or len(part.live)]
    keys = [part.store.keys().to(dtype) for part in stores] + [k.to(dtype)]
    values = [part.store.values().to(dtype) for part in stores] + [v.to(dtype)]
    out = torch.empty(*grouped.shape[:3], v.shape[-1], dtype=dtype, device=q.device)
    for first in range(0, t, BLOCK):
        block = grouped[:, :, first : first + BLOCK]
        rows = block.shape[2]
        flat = block.flatten(1, 2)
        scores = []
        for part, stored in zip(stores, keys[:-1], strict=True):
            found = flat @ stored.transpose(1, 2) * scaling
            if part.live is not None:
                found.masked_fill_(~part.live, -math.inf)
            scores.append(found)
        new = flat @ keys[-1][:, : first + rows].transpose(1, 2) * scaling
        if rows > 1:
            hidden = torch.ones(rows, first + rows, dtype=torch.bool, device=q.device).triu(
                first + 1
            )
            new.view(heads, -1, rows, first + rows).masked_fill_(hidden, -math.inf)
        scores.append(new)
        joined = torch.cat(scores, -1)
        weights = joined.softmax(-1)
        split = weights.split([x.shape[-1] for x in scores], -1)
        seen = [*values[:-1], values[-1][:, : first + rows]]
        total = sum(w @ x for w, x in zip(split, seen, strict=True))
        out[:, :, first : first + rows] = total.unflatten(1, (-1, rows))
        if observe is not None:
            shape = (heads, -1, rows, joined.shape[-1])
            observe(joined.view(shape), weights.view(shape), first)
    return out.flatten(0, 1).to(q.dtype)


def reference(q: Any, k: Any, v: Any, parts: Sequence[Part], scaling: float) -> Any:
    """What `paged` must equal: live tokens gathered and dequantised, dense attention in float64."""
    heads, t = k.shape[0], q.shape[1]
    keys, values = [], []
    for part in parts:
        slots = None if part.live is None else part.live.nonzero()[:, 0]
        keys.append(part.store.keys(slots))
        values.append(part.store.values(slots))
    past = sum(x.shape[1] for x in keys)
    all_k, all_v = torch.cat([*keys, k], 1).double(), torch.cat([*values, v], 1).double()
    grouped = q.double().unflatten(0, (heads, -1))
    scores = grouped @ all_k[:, None].transpose(2, 3) * scaling
    hidden = torch.ones(t, past + t, dtype=torch.bool, device=q.device).triu(past + 1)
    weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
    return (weights @ all_v[:, None]).flatten(0, 1).to(q.dtype)
