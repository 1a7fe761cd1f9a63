"""Wanda's score of a weight (arXiv 2306.11695, equation 1) and the N:M mask that follows it."""

from __future__ import annotations

import torch

from crosslayer.contracts.sparsity import NMSparsity

# Of the smallest norm of a channel that is not dead: see `scores`.
_DEAD = 1e-6


def scores(weight: torch.Tensor, mean_square: torch.Tensor) -> torch.Tensor:
    """A_ij = |W_ij| * sqrt(mean square of input j over the calibration tokens), fp32 [out, in].

    weight: [out, in]. mean_square: [in], float64. A dead channel (no input but zero in the whole
    calibration text) scores below every live one and, among its like, by |W|: it goes first, but
    not in an arbitrary order.
    """
    norm = mean_square.sqrt()
    live = norm[norm > 0]
    floor = _DEAD * float(live.min()) if live.numel() else 1.0
    norm = torch.where(norm > 0, norm, floor)
    return weight.abs().float() * norm.float()


def magnitudes(weight: torch.Tensor) -> torch.Tensor:
    """|W_ij|, fp32: the baseline that looks at no input."""
    return weight.abs().float()


def keep_mask(score: torch.Tensor, pattern: NMSparsity) -> torch.Tensor:
    """True for the N largest of each M consecutive scores of a row; ties go to the lowest index.

    score: [out, in], M divides in. The same mask as `NMSparsity.mask`, which is the reference.
    """
    if pattern.n == pattern.m:
        return torch.ones_like(score, dtype=torch.bool)
    groups = score.reshape(-1, pattern.m)
    order = groups.sort(dim=-1, descending=True, stable=True).indices[:, : pattern.n]
    mask = torch.zeros_like(groups, dtype=torch.bool)
    return mask.scatter_(1, order, True).reshape(score.shape)
