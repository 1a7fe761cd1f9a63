"""Sparsity of an attention row: the share of past positions below 1 % of the row's maximum.

ThinKV appendix C.2 for grouped queries: the largest logit of the query heads that share a KV head,
softmax, mean over KV heads, then the sparsity of that one row. "mean" instead averages the weights
of all heads after the softmax, as another reader describes it. Which of the two was used changes
the values, so a calibration says it.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from thinkv.thoughts import CUT, HeadReduce


def reduced(scores: Any, head_reduce: HeadReduce) -> Any:
    """Scores [kv heads, queries a head, t, n] -> logits [rows to average, t, n]."""
    return scores.amax(1) if head_reduce == "max-logit" else scores.flatten(0, 1)


def row_sparsity(scores: Any, head_reduce: HeadReduce = "max-logit", cut: float = CUT) -> Any:
    """Scores [kv heads, queries a head, t, n], -inf where a query sees no key -> sparsity [t]."""
    visible = torch.isfinite(scores[0, 0])
    row = reduced(scores, head_reduce).softmax(-1).mean(0)
    below = (row < cut * row.amax(-1, keepdim=True)) & visible
    return below.sum(-1) / visible.sum(-1)


def streamed_sparsity(
    q: Any,
    k: Any,
    scaling: float,
    first: int,
    head_reduce: HeadReduce = "max-logit",
    cut: float = CUT,
    block: int = 1024,
) -> Any:
    """`row_sparsity` of queries q [query heads, t, dim] at positions first, first + 1, ... over
    keys k [kv heads, n, dim] at positions 0 .. n - 1, causal -> [t].

    Reads the keys in blocks three times (normaliser, row maximum, count), so that memory is
    t x block and not t x n.
    """
    heads, t = k.shape[0], q.shape[1]
    grouped = q.float().unflatten(0, (heads, -1))
    last = min(first + t, k.shape[1])
    starts = range(0, last, block)
    at = first + torch.arange(t, device=q.device)[:, None]

    def logits(start: int) -> Any:
        keys = k[:, start : min(start + block, last)].float()
        scores = grouped @ keys[:, None].transpose(2, 3) * scaling
        hidden = start + torch.arange(keys.shape[1], device=q.device) > at
        return reduced(scores.masked_fill(hidden, -math.inf), head_reduce)

    normaliser = torch.full(logits(0).shape[:2], -math.inf, device=q.device)
    for start in starts:
        normaliser = torch.logaddexp(normaliser, logits(start).logsumexp(-1))
    top = torch.zeros(t, device=q.device)
    for start in starts:
        row = (logits(start) - normaliser[..., None]).exp().mean(0)
        top = torch.maximum(top, row.amax(-1))
    below = torch.zeros(t, dtype=torch.int64, device=q.device)
    for start in starts:
        found = logits(start)
        row = (found - normaliser[..., None]).exp().mean(0)
        below += ((row < cut * top[:, None]) & torch.isfinite(found[0])).sum(-1)
    return below / (at[:, 0] + 1).clamp(max=last)
