"""Which pattern each block gets: a multiple-choice knapsack, solved exactly.

FLOW solves it as an integer programme with the target as an equality over blocks, which often has
no solution. Here weights are counted, the target is a lower bound, and dynamic programming over the
Pareto front of (weights kept, cost) finds the optimum without a solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np

from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError
from flow_flexcim.linears import BlockLinears


@dataclass(frozen=True)
class Option:
    """A pattern for one block: the weights it keeps there, and its cost."""

    pattern: NMSparsity
    kept: int
    cost: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A pattern for each block. kept, weights: of all block linears together."""

    patterns: tuple[NMSparsity, ...]
    kept: int
    weights: int

    @property
    def sparsity(self) -> float:
        """Share of the weights that the plan removes: achieved, not asked for."""
        return 1 - self.kept / self.weights


def offered(block: BlockLinears, candidates: Sequence[NMSparsity]) -> tuple[NMSparsity, ...]:
    """The candidates that fit a block. InputError where none does."""
    fitting = tuple(pattern for pattern in candidates if block.fits(pattern))
    if not fitting:
        inputs = sorted({linear.inputs for linear in block.linears})
        raise InputError(
            f"block {block.name}: none of the candidates {', '.join(map(str, candidates))} divides "
            f"its linears' inputs {inputs}; add a candidate with an M that does"
        )
    return fitting


def kept_weights(block: BlockLinears, pattern: NMSparsity) -> int:
    """Weights of a block that the pattern keeps."""
    return block.weights * pattern.n // pattern.m  # M divides every row: exact


def flow_plan(options: Sequence[Sequence[Option]], weights: int, sparsity: float) -> Plan:
    """The cheapest choice of one option a block that removes at least `sparsity` of the weights.

    Among equally cheap plans it takes the sparsest; then, block by block from the last, the option
    that comes first. InputError where no choice removes enough.
    """
    _require_reachable(options, weights, sparsity)
    capacity = _capacity(weights, sparsity)
    least_after = [0]  # weights that the blocks still to come keep at least
    for block in reversed(options):
        least_after.append(least_after[-1] + min(option.kept for option in block))
    least_after = least_after[-2::-1]

    # The front: plans for the blocks so far, by weights kept, each cheaper than all that keep less.
    kept, cost = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps = []
    for block, least in zip(options, least_after, strict=True):
        all_kept = (kept[:, None] + np.array([o.kept for o in block], dtype=np.int64)).reshape(-1)
        all_cost = (cost[:, None] + np.array([o.cost for o in block])).reshape(-1)
        order = np.lexsort((all_cost, all_kept))  # stable: ties stay in the order of the options
        order = order[all_kept[order] + least <= capacity]
        cheapest = np.minimum.accumulate(all_cost[order])
        better = np.concatenate([[True], all_cost[order][1:] < cheapest[:-1]])
        order = order[better]
        kept, cost = all_kept[order], all_cost[order]
        steps.append(order)

    at, chosen = len(kept) - 1, []
    total = int(kept[at])
    for block, order in zip(reversed(options), reversed(steps), strict=True):
        at, choice = divmod(int(order[at]), len(block))
        chosen.append(block[choice].pattern)
    return Plan(tuple(reversed(chosen)), total, weights)


def uniform_plan(
    blocks: Sequence[BlockLinears], candidates: Sequence[NMSparsity], sparsity: float
) -> Plan:
    """One pattern for all blocks: the densest that removes enough, with the largest M.

    A larger M at equal N/M never drops more of any score. InputError where no candidate fits all
    blocks or removes enough.
    """
    common = [p for p in candidates if all(p in offered(block, candidates) for block in blocks)]
    if not common:
        raise InputError(
            f"no candidate of {', '.join(map(str, candidates))} fits the inputs of all "
            f"{len(blocks)} blocks, which a uniform plan needs; add one with a smaller M"
        )
    weights = sum(block.weights for block in blocks)
    totals = [
        Option(pattern, sum(kept_weights(block, pattern) for block in blocks)) for pattern in common
    ]
    _require_reachable([totals], weights, sparsity)
    enough = [option for option in totals if option.kept <= _capacity(weights, sparsity)]
    best = max(enough, key=lambda option: (option.kept, option.pattern.m))
    return Plan((best.pattern,) * len(blocks), best.kept, weights)


def level_plan(
    blocks: Sequence[BlockLinears], candidates: Sequence[NMSparsity], sparsity: float
) -> Plan:
    """The uniform plan; where no single pattern serves all blocks, the most level mix that reaches
    the target. InputError only where no plan of one pattern a block can reach it.
    """
    try:
        return uniform_plan(blocks, candidates, sparsity)
    except InputError:
        weights = sum(block.weights for block in blocks)
        options = [
            [
                # Convex in the density, so that level plans are the cheapest.
                Option(p, kept_weights(block, p), block.weights / weights * (1 - p.density) ** 2)
                for p in offered(block, candidates)
            ]
            for block in blocks
        ]
        return flow_plan(options, weights, sparsity)


def _capacity(weights: int, sparsity: float) -> int:
    """Weights that may be kept. Exact in decimals: 0.7 of 10 leaves 3, not 2."""
    return floor(weights * (1 - Fraction(repr(sparsity))))


def _require_reachable(options: Sequence[Sequence[Option]], weights: int, sparsity: float) -> None:
    """InputError naming the two reachable sparsities nearest to one that is out of reach."""
    counts = [sorted({option.kept for option in block}) for block in options]
    least = sum(count[0] for count in counts)
    if least <= _capacity(weights, sparsity):
        return
    steps = [count[1] - count[0] for count in counts if len(count) > 1]
    reachable = [1 - least / weights] + ([1 - (least + min(steps)) / weights] if steps else [])
    raise InputError(
        f"sparsity = {sparsity:g} is out of reach of the candidates: the nearest reachable are "
        f"{' and '.join(f'{value:.6g}' for value in reachable)}; ask for "
        f"{reachable[0]:.6g} or less, or add sparser candidates"
    )
