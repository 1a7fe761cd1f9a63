"""SparseGPT (arXiv 2301.00774): weights are pruned column by column, and those still to come are
changed to make up for the error (sections 3.2 to 3.4; N:M as in section 3.4).
"""

from __future__ import annotations

import torch

from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError
from flow_flexcim.wanda import keep_mask

_TRIES = 6
_DEAD = 1e-12  # of the damping; a score is the square of a weight times this


def inverse_factor(products: torch.Tensor, damping: float) -> torch.Tensor:
    """U, upper triangular, with U^T U = (H + d I)^-1, fp32 [in, in].

    products: mean of x x^T over the calibration tokens. d = damping * mean of its diagonal; where
    the sum is not positive definite, d grows tenfold, at most five times. A dead channel (0 on the
    diagonal) gets a small share of d alone, so that its weights score below all others and go
    first, the smallest before the others. InputError where nothing helps.
    """
    hessian = products.clone()
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    seen = diagonal[~dead] if dead.any() else diagonal
    added = damping * (float(seen.mean()) if len(seen) else 1.0)
    for attempt in range(_TRIES):
        diagonal += added if attempt == 0 else 9 * added * 10 ** (attempt - 1)
        diagonal[dead] = _DEAD * added
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed:
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed:
                return upper
    raise InputError(
        f"the inputs' second moments stay singular with a damping of {damping:g} times "
        f"{10 ** (_TRIES - 1)}; calibrate on more tokens or raise damping"
    )


def sparsegpt(
    weight: torch.Tensor, factor: torch.Tensor, pattern: NMSparsity, block_columns: int = 128
) -> torch.Tensor:
    """The pruned and updated weight, fp32 [out, in], with exact zeros where the mask is.

    weight: [out, in], M divides in. factor: what `inverse_factor` gave. The mask of each M columns
    is chosen when they are reached, by w^2 / U_jj^2 of the weights as updated by then.
    block_columns: how many columns are updated at once before the rest; changes the time, not the
    result.
    """
    weight = weight.detach().float().clone()
    if pattern.n == pattern.m:
        return weight
    columns = weight.shape[1]
    width = max(pattern.m, block_columns // pattern.m * pattern.m)
    diagonal = factor.diagonal()
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        part = weight[:, start:stop].t().contiguous()  # columns as rows: each is read whole
        corner = factor[start:stop, start:stop]
        errors = torch.zeros_like(part)
        for at in range(stop - start):
            if at % pattern.m == 0:
                group = part[at : at + pattern.m].t()
                score = (group / diagonal[start + at : start + at + pattern.m]).square()
                drop = ~keep_mask(score.contiguous(), pattern).t()
            column = part[at]
            gone = drop[at % pattern.m]
            error = torch.where(gone, column, 0.0) / corner[at, at]
            part[at].masked_fill_(gone, 0.0)
            if at + 1 < stop - start:
                part[at + 1 :].addr_(corner[at, at + 1 :], error, alpha=-1)
            errors[at] = error
        weight[:, start:stop] = part.t()
        weight[:, stop:].addmm_(errors.t(), factor[start:stop, stop:], alpha=-1)
    return weight
