"""A Triton kernel: one query against the paged store, dequantised while it is read.

The cache uses it on a GPU (`attention.attend`). Each program serves one KV head and walks the block
table: free blocks are not in it, evicted slots are masked, codes, value scales and the scales of
each slot's group are decoded in registers, and an online softmax needs one pass. Pools and the
buffer are merged by their maxima and sums. Under TRITON_INTERPRET=1 it runs on a CPU, which tests
its arithmetic and nothing about its speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from crosslayer.errors import InputError
from thinkv.attention import Part
from thinkv.layout import GROUP
from thinkv.paged import FREE, Pool

SLOTS_A_STEP = 32


@triton.jit
def _e4m3(code):  # type: ignore[no-untyped-def]
    """The value of an E4M3 code."""
    exponent = (code >> 3) & 15
    fraction = (code & 7).to(tl.float32)
    normal = (1.0 + fraction / 8.0) * tl.exp2(exponent.to(tl.float32) - 7.0)
    value = tl.where(exponent == 0, fraction / 512.0, normal)
    return tl.where((code >> 7) == 1, -value, value)


@triton.jit
def _element(code, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The value of a code of 2 (ternary), 4 (E2M1) or 8 bits (E4M3), before scales."""
    if BITS == 2:
        return (code - (code >> 1) * 4).to(tl.float32)
    elif BITS == 4:
        exponent = (code >> 1) & 3
        half = (code & 1).to(tl.float32) * 0.5
        value = tl.where(exponent == 0, half, (1.0 + half) * tl.exp2(exponent.to(tl.float32) - 1.0))
        return tl.where((code >> 3) == 1, -value, value)
    else:
        return _e4m3(code)


@triton.jit
def _decode_step(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    v_scales,
    k_scales,
    tensor_scales,
    group,
    live,
    blocks,
    out,
    top,
    total,
    slots,
    groups,
    block_count,
    scaling,
    QUERIES: tl.constexpr,
    DIM: tl.constexpr,
    BITS: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS_A_STEP: tl.constexpr,
    PER_SCALE: tl.constexpr,
):
    head = tl.program_id(0)
    d = tl.arange(0, DIM)
    i = tl.arange(0, BLOCK * BLOCKS_A_STEP)
    row_bytes: tl.constexpr = DIM * BITS // 8
    scales_a_row: tl.constexpr = DIM // PER_SCALE
    query = tl.load(q + (head * QUERIES + tl.arange(0, QUERIES)[:, None]) * DIM + d[None, :])
    best = tl.full((QUERIES,), -float("inf"), tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    acc = tl.zeros((QUERIES, DIM), tl.float32)
    for first in range(0, block_count, BLOCKS_A_STEP):
        index = first + i // BLOCK
        listed = index < block_count
        slot = tl.load(blocks + index, mask=listed, other=0) * BLOCK + i % BLOCK
        alive = listed & (tl.load(live + slot, mask=listed, other=0) != 0)
        at = (head * slots + slot)[:, None] * row_bytes + (d * BITS // 8)[None, :]
        shift = (d * BITS % 8)[None, :]
        mask: tl.constexpr = (1 << BITS) - 1
        k_code = (tl.load(k + at, mask=alive[:, None], other=0).to(tl.int32) >> shift) & mask
        v_code = (tl.load(v + at, mask=alive[:, None], other=0).to(tl.int32) >> shift) & mask
        key, value = _element(k_code, BITS), _element(v_code, BITS)
        if SCALED:
            g = tl.load(group + slot, mask=alive, other=0)
            where = (head * groups + g)[:, None] * DIM + d[None, :]
            k_scale = tl.load(k_scales + where, mask=alive[:, None], other=0).to(tl.int32)
            key *= _e4m3(k_scale) * tl.load(tensor_scales + g * 2, mask=alive, other=0)[:, None]
            where = (head * slots + slot)[:, None] * scales_a_row + (d // PER_SCALE)[None, :]
            v_scale = tl.load(v_scales + where, mask=alive[:, None], other=0).to(tl.int32)
            tensor = tl.load(tensor_scales + g * 2 + 1, mask=alive, other=0)
            value *= _e4m3(v_scale) * tensor[:, None]
        score = tl.sum(query[:, None, :] * key[None, :, :], 2) * scaling
        score = tl.where(alive[None, :], score, -float("inf"))
        new = tl.maximum(best, tl.max(score, 1))
        safe = tl.where(new == -float("inf"), 0.0, new)
        p = tl.exp(score - safe[:, None])
        shrink = tl.exp(best - safe)
        weight = weight * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.sum(p[:, :, None] * value[None, :, :], 1)
        best = new
    row = head * QUERIES + tl.arange(0, QUERIES)
    tl.store(out + row[:, None] * DIM + d[None, :], acc)
    tl.store(top + row, best)
    tl.store(total + row, weight)


def refusal(q: Any, parts: Sequence[Part]) -> str | None:
    """Why the kernel cannot serve these queries and stores; None: it can."""
    if q.shape[1] != 1:
        return f"the kernel decodes one token a step, got {q.shape[1]}"
    if q.shape[2] & (q.shape[2] - 1):
        return f"the kernel needs heads of a power of two, not of {q.shape[2]} channels"
    for part in parts:
        size = part.store.table.block_tokens if isinstance(part.store, Pool) else 1
        if size & (size - 1):
            return f"the kernel needs blocks of a power of two, not of {size} tokens"
    return None


def decode_step(q: Any, k: Any, v: Any, parts: Sequence[Part], scaling: float) -> Any:
    """`attention.paged` for one query a head: q [query heads, 1, dim], the new token's k and v
    [heads, 1, dim] -> [query heads, 1, dim], in float32. Pools of 16 bits have nothing to
    dequantise and go through PyTorch. InputError for what `refusal` names.
    """
    reason = refusal(q, parts)
    if reason is not None:
        raise InputError(reason)
    heads = k.shape[0]
    grouped = q[:, 0].float().view(heads, -1, q.shape[2])  # [heads, queries a head, dim]
    partial = [_dense(grouped, k.float(), v.float(), scaling)]
    for part in parts:
        if isinstance(part.store, Pool) and part.store.format.element is not None:
            if part.store.table.slots:
                partial.append(_pool(grouped, part.store, scaling))
            continue
        slots = None if part.live is None else part.live.nonzero()[:, 0]
        keys, values = part.store.keys(slots), part.store.values(slots)
        if keys.shape[1]:
            partial.append(_dense(grouped, keys, values, scaling))
    top = torch.stack([best for _, best, _ in partial]).amax(0)
    factors = [torch.exp(best - top) for _, best, _ in partial]
    total = sum(f * weight for f, (_, _, weight) in zip(factors, partial, strict=True))
    acc = sum(f[..., None] * out for f, (out, _, _) in zip(factors, partial, strict=True))
    return (acc / total[..., None]).flatten(0, 1)[:, None].to(q.dtype)


def _pool(q: Any, pool: Pool, scaling: float) -> tuple[Any, Any, Any]:
    """(weighted values [heads, queries, dim], maxima, sums [heads, queries]) of one pool."""
    heads, queries, dim = q.shape
    padded = triton.next_power_of_2(queries)
    query = torch.zeros(heads, padded, dim, device=q.device)
    query[:, :queries] = q
    out = torch.empty_like(query)
    top, total = (torch.empty(heads, padded, device=q.device) for _ in range(2))
    table = pool.table
    blocks = (table.thought != FREE).nonzero()[:, 0].to(torch.int32)
    _decode_step[(heads,)](
        query,
        pool.k,
        pool.v,
        pool.v_scales,
        pool.k_scales,
        pool.tensor_scales,
        table.group,
        table.live.view(torch.uint8),
        blocks,
        out,
        top,
        total,
        table.slots,
        len(pool.references),
        len(blocks),
        scaling,
        QUERIES=padded,
        DIM=dim,
        BITS=pool.format.bits,
        SCALED=pool.format.scaled,
        BLOCK=table.block_tokens,
        BLOCKS_A_STEP=max(1, SLOTS_A_STEP // table.block_tokens),
        PER_SCALE=GROUP,
    )
    return out[:, :queries], top[:, :queries], total[:, :queries]


def _dense(q: Any, k: Any, v: Any, scaling: float) -> tuple[Any, Any, Any]:
    scores = q @ k.transpose(1, 2) * scaling
    top = scores.amax(-1)
    weights = torch.exp(scores - top[..., None])
    return weights @ v, top, weights.sum(-1)
