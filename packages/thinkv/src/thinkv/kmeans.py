"""Which tokens of a segment stay: deterministic k-means, then the real token at each centre.

ThinKV section 5: cluster a segment's post-RoPE keys into as many clusters as tokens are kept. The
papers' notes give no initialisation and no iteration count; here the first centres are tokens at
even distances in time, and ITERATIONS rounds of Lloyd's algorithm follow.
"""

from __future__ import annotations

from typing import Any

import torch

ITERATIONS = 10


def representatives(keys: Any, count: int, iterations: int = ITERATIONS) -> Any:
    """keys [batch, n, channels] -> indices [batch, count] of the tokens to keep, ascending.

    Exactly `count` different tokens, also where keys coincide: each cluster gives the member
    nearest its centre (the lowest index at a tie), and what empty clusters leave open is filled
    with the tokens farthest from the centre they belong to.
    """
    batch, n, channels = keys.shape
    if count >= n:
        return torch.arange(n, device=keys.device).expand(batch, n)
    keys = keys.float()
    first = (torch.arange(count, device=keys.device) * n) // count
    centres = keys[:, first]
    assigned = _nearest(keys, centres)[1]
    for _ in range(iterations):
        total = torch.zeros_like(centres).scatter_add_(
            1, assigned[..., None].expand(-1, -1, channels), keys
        )
        size = torch.zeros(batch, count, device=keys.device).scatter_add_(
            1, assigned, torch.ones_like(assigned, dtype=torch.float32)
        )
        moved = total / size.clamp(min=1)[..., None]
        centres = torch.where((size > 0)[..., None], moved, centres)
        before, assigned = assigned, _nearest(keys, centres)[1]
        if torch.equal(before, assigned):
            break
    distance = (keys - centres.gather(1, assigned[..., None].expand(-1, -1, channels))).norm(dim=-1)
    # Order by cluster, then distance, then index; the first of each cluster is its medoid.
    order = distance.argsort(dim=1, stable=True)
    order = order.gather(1, assigned.gather(1, order).argsort(dim=1, stable=True))
    sorted_clusters = assigned.gather(1, order)
    is_first = torch.ones_like(sorted_clusters, dtype=torch.bool)
    is_first[:, 1:] = sorted_clusters[:, 1:] != sorted_clusters[:, :-1]
    medoid = torch.zeros_like(is_first).scatter_(1, order, is_first)
    rank = torch.where(medoid, torch.inf, distance)
    kept = rank.argsort(dim=1, descending=True, stable=True)[:, :count]
    return kept.sort(dim=1).values


def _nearest(keys: Any, centres: Any) -> tuple[Any, Any]:
    """(distance, index) of the nearest centre, the lowest index at a tie."""
    squared = (
        (keys * keys).sum(-1, keepdim=True)
        - 2 * keys @ centres.transpose(1, 2)
        + (centres * centres).sum(-1)[:, None]
    )
    distance, index = squared.min(dim=-1)
    return distance, index
