"""What each candidate pattern would do to a block: outliers dropped and output error.

Outliers as OWL (arXiv 2310.05175) counts them and FLOW takes over: scores above a multiple of the
block's mean. FLOW's own code measures their spread by the distance between their positions, which
says nothing on clusters inside a group; here it is what a pattern would have to drop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from crosslayer.contracts.sparsity import NMSparsity
from flow_flexcim.wanda import scores

_CHUNK = 1 << 22  # scores sorted at a time


@dataclass(frozen=True)
class Signals:
    """Of one block. outlier_density: share of its weights that are outliers.

    dropped, error, one a pattern. dropped: share of the outliers' summed score that the pattern
    drops, 0 where there is no outlier. error: share of a linear's summed squared score that it
    drops, which is that linear's relative squared output error on the calibration text if inputs
    were uncorrelated; the mean over the linears by their weights. (One share of the whole block's
    sum would be that of the one linear with the largest activations.)
    """

    outlier_density: float
    dropped: tuple[float, ...]
    error: tuple[float, ...]


def block_signals(
    weights: Sequence[torch.Tensor],
    mean_squares: Sequence[torch.Tensor],
    patterns: Sequence[NMSparsity],
    outlier_multiple: float,
) -> Signals:
    """Signals of one block's linears: weights [out, in], mean_squares [in].

    Every M is sorted once: what N:M drops of a sum are the places N.. of the sorted groups.
    """
    count = sum(weight.numel() for weight in weights)
    pairs = list(zip(weights, mean_squares, strict=True))
    mean = sum(float(scores(w, x).sum(dtype=torch.float64)) for w, x in pairs) / count
    threshold = outlier_multiple * mean

    sizes = sorted({pattern.m for pattern in patterns if pattern.n < pattern.m})
    # Per M: sums over groups at each place of the sorted group, of outliers' scores and of squares.
    outliers = {m: torch.zeros(m, dtype=torch.float64) for m in sizes}
    number, errors = 0, torch.zeros(len(patterns), dtype=torch.float64)
    for weight, mean_square in pairs:
        squares = {m: torch.zeros(m, dtype=torch.float64) for m in sizes}
        rows = max(1, _CHUNK // weight.shape[1])
        for part in weight.split(rows):
            score = scores(part, mean_square)
            number += int((score > threshold).sum())
            for m in sizes:
                ranked = score.reshape(-1, m).sort(dim=-1, descending=True).values
                above = (ranked > threshold).nonzero(as_tuple=True)  # few
                outliers[m].index_add_(0, above[1].cpu(), ranked[above].double().cpu())
                squares[m] += ranked.square_().sum(0, dtype=torch.float64).cpu()
        shares = [_dropped(squares, pattern) for pattern in patterns]
        errors += weight.numel() / count * torch.tensor(shares, dtype=torch.float64)
    dropped = tuple(_dropped(outliers, pattern) for pattern in patterns)
    return Signals(number / count, dropped, tuple(errors.tolist()))


def _dropped(places: Mapping[int, torch.Tensor], pattern: NMSparsity) -> float:
    """Share of the sum that lies at place N and after in the sorted groups of M."""
    if pattern.n == pattern.m:
        return 0.0
    sums = places[pattern.m]
    total = float(sums.sum())
    return float(sums[pattern.n :].sum()) / total if total > 0 else 0.0


def released_locality(
    weights: Sequence[torch.Tensor],
    mean_squares: Sequence[torch.Tensor],
    outlier_multiple: float,
    first: int = 10_000,
) -> float:
    """D of FLOW's released solver: 1 / mean distance between the positions of the block's first
    outliers, all linears flattened and joined. 0 where there is at most one.

    It sees the first rows of one linear and follows the outliers' density, not their clusters.
    """
    count = sum(weight.numel() for weight in weights)
    pairs = list(zip(weights, mean_squares, strict=True))
    mean = sum(float(scores(w, x).sum(dtype=torch.float64)) for w, x in pairs) / count
    found: list[torch.Tensor] = []
    start = 0
    for weight, mean_square in pairs:
        above = scores(weight, mean_square).reshape(-1) > outlier_multiple * mean
        found.append(above.nonzero().flatten().double() + start)
        start += weight.numel()
        if sum(len(part) for part in found) >= first:
            break
    at = torch.cat(found)[:first]
    number = len(at)
    if number < 2:
        return 0.0
    # Sorted: the k-th position is added k times and subtracted number - 1 - k times.
    signs = 2 * torch.arange(number, dtype=torch.float64) - (number - 1)
    return number**2 / (2 * float((signs * at).sum()))
