"""What a pattern costs a block: the cost modes that need no further pass of the model.

`outlier` and `recon` are in `signals`; here they become options of the knapsack, beside OWL's
allocation and the cost of FLOW's released solver.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.sparsity import NMSparsity
from flow_flexcim.linears import BlockLinears
from flow_flexcim.plan import Option, kept_weights
from flow_flexcim.signals import Signals

# Outliers are few, so many patterns drop none of them; this share of the output error decides then.
_TIE_BREAK = 1e-6
_SCALE = 8  # the released solver's, whatever M is


def options(
    blocks: Sequence[BlockLinears],
    choices: Sequence[Sequence[NMSparsity]],
    costs: Sequence[Sequence[float]],
) -> list[list[Option]]:
    """An option for each pattern of each block, from costs [block][pattern] as they are summed."""
    return [
        [
            Option(pattern, kept_weights(block, pattern), float(cost))
            for pattern, cost in zip(patterns, row, strict=True)
        ]
        for block, patterns, row in zip(blocks, choices, costs, strict=True)
    ]


def shares(blocks: Sequence[BlockLinears]) -> NDArray[np.float64]:
    """Each block's share of the weights."""
    weights = np.array([block.weights for block in blocks], dtype=np.float64)
    found: NDArray[np.float64] = weights / weights.sum()
    return found


def signal_costs(
    blocks: Sequence[BlockLinears], measured: Sequence[Signals], cost: str
) -> list[list[float]]:
    """Dropped-outlier mass ("outlier") or diagonal output error ("recon"), by the blocks' weights.

    Where two patterns drop as much, the output error decides.
    """
    found = []
    for share, signals in zip(shares(blocks), measured, strict=True):
        pairs = zip(signals.dropped, signals.error, strict=True)
        row = [error if cost == "recon" else drop + _TIE_BREAK * error for drop, error in pairs]
        found.append([float(share) * value for value in row])
    return found


def owl_costs(
    blocks: Sequence[BlockLinears],
    choices: Sequence[Sequence[NMSparsity]],
    outlier_density: Sequence[float],
    sparsity: float,
    spread: float,
) -> list[list[float]]:
    """Squared distance from OWL's density of each block, by the blocks' weights.

    OWL (arXiv 2310.05175, section 4) gives a block with more outliers more density: within `spread`
    over the blocks, min-max scaled, with the target as the mean. Patterns are coarse, so the
    nearest plan within the budget takes the place of OWL's rounding, which leaves the budget.
    """
    weight, found = shares(blocks), np.array(outlier_density)
    width = found.max() - found.min()
    scaled = (found - found.min()) / width if width > 0 else np.zeros_like(found)
    wanted = 1 - sparsity + spread * (scaled - weight @ scaled)
    return [
        [float(share * (pattern.density - density) ** 2) for pattern in patterns]
        for share, density, patterns in zip(weight, wanted, choices, strict=True)
    ]


def released_costs(
    choices: Sequence[Sequence[NMSparsity]],
    outlier_density: Sequence[float],
    locality: Sequence[float],
) -> list[list[float]]:
    """The cost of FLOW's released solver: |N - 8 O| + 4 |M - 8 (1 - D)|, for parity.

    O (outlier density) and D (locality) are min-max scaled over the blocks. N and M are compared
    as counts, and clustered outliers ask for a small M, which is against the method's own figure.
    All-equal signals are 0 here; there they divide by zero.
    """
    many, near = _min_max(outlier_density), _min_max(locality)
    return [
        [abs(p.n - _SCALE * o) + 4 * abs(p.m - _SCALE * (1 - d)) for p in patterns]
        for o, d, patterns in zip(many, near, choices, strict=True)
    ]


def _min_max(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
