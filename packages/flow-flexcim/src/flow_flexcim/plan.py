"""Which pattern each block gets: a multiple-choice knapsack, solved exactly.

FLOW solves it as an integer programme with the target as an equality over blocks, which often has
no solution. Here weights are counted, the target is a lower bound or has a tolerance, and dynamic
programming over the (weights kept, cost) that the blocks so far can have finds the optimum without
a solver. Blocks that stay dense are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError
from flow_flexcim.linears import DENSE, BlockLinears


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
    """The candidates that fit a block; a block that stays dense has no other choice.

    InputError where none fits.
    """
    if block.dense:
        return (DENSE,)
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


def largest_m(patterns: Sequence[NMSparsity]) -> tuple[NMSparsity, ...]:
    """Of patterns of equal density the one with the largest M, sparsest first.

    A larger M at equal N/M never drops more of any score.
    """
    by_density = {Fraction(p.n, p.m): p for p in sorted(patterns, key=lambda p: p.m)}
    return tuple(by_density[density] for density in sorted(by_density))


def flow_plan(
    options: Sequence[Sequence[Option]],
    weights: int,
    sparsity: float,
    tolerance: float | None = None,
) -> Plan:
    """The cheapest choice of one option a block that removes at least `sparsity` of the weights;
    with a tolerance, a share within it of `sparsity`.

    Among equally cheap plans it takes the sparsest; then, block by block from the last, the option
    that comes first. InputError where no choice is allowed, naming the nearest that are.
    """
    most = _capacity(weights, sparsity, tolerance or 0.0)
    least = 0 if tolerance is None else _least(weights, sparsity, tolerance)
    if tolerance is None:
        _require_reachable(options, weights, sparsity)
    kept, cost, steps = _choices(options, least, most, front=tolerance is None)
    if not len(kept):
        reachable = _choices(options, 0, weights, front=False)[0]
        shares = [1 - int(count) / weights for count in reachable]
        above = [share for share in reversed(shares) if share >= sparsity]  # nearest first
        below = [share for share in shares if share < sparsity]
        two = above[:1] + below[:1] if above and below else (above or below)[:2]
        raise InputError(
            f"sparsity = {sparsity:g} within {tolerance:g} is out of reach of the candidates: "
            f"{_nearest(two)}; ask for one of them, or allow more"
        )
    at = int(np.lexsort((kept, cost))[0])
    total, chosen = int(kept[at]), []
    for block, order in zip(reversed(options), reversed(steps), strict=True):
        at, choice = divmod(int(order[at]), len(block))
        chosen.append(block[choice].pattern)
    return Plan(tuple(reversed(chosen)), total, weights)


def _choices(
    options: Sequence[Sequence[Option]], least: int, most: int, front: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[NDArray[np.int64]]]:
    """(weights kept, lowest cost, back pointers a block) of all plans that keep least..most.

    front: leave out plans that cost no less than one that keeps fewer; only where `least` is 0.
    """
    rest_least, rest_most = [0], [0]  # what the blocks still to come keep at least and at most
    for block in reversed(options):
        rest_least.append(rest_least[-1] + min(option.kept for option in block))
        rest_most.append(rest_most[-1] + max(option.kept for option in block))
    kept, cost = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps = []
    for block, low, high in zip(options, rest_least[-2::-1], rest_most[-2::-1], strict=True):
        all_kept = (kept[:, None] + np.array([o.kept for o in block], dtype=np.int64)).reshape(-1)
        all_cost = (cost[:, None] + np.array([o.cost for o in block])).reshape(-1)
        order = np.lexsort((all_cost, all_kept))  # stable: ties stay in the order of the options
        sums = all_kept[order]
        order = order[(sums + low <= most) & (sums + high >= least)]
        if front:
            cheapest = np.minimum.accumulate(all_cost[order])
            better = np.concatenate([[True], all_cost[order][1:] < cheapest[:-1]])
        else:
            better = np.diff(all_kept[order], prepend=-1) > 0  # of each sum the cheapest
        order = order[better[: len(order)]]
        kept, cost = all_kept[order], all_cost[order]
        steps.append(order)
    return kept, cost, steps


def uniform_plan(
    blocks: Sequence[BlockLinears], candidates: Sequence[NMSparsity], sparsity: float
) -> Plan:
    """One pattern for all blocks but those that stay dense: the densest that removes enough, with
    the largest M. InputError where no candidate fits all blocks or removes enough.
    """
    pruned = [block for block in blocks if not block.dense]
    common = [p for p in candidates if all(p in offered(block, candidates) for block in pruned)]
    if not common:
        raise InputError(
            f"no candidate of {', '.join(map(str, candidates))} fits the inputs of all "
            f"{len(blocks)} blocks, which a uniform plan needs; add one with a smaller M"
        )
    weights = sum(block.weights for block in blocks)
    frozen = sum(block.weights for block in blocks if block.dense)
    totals = [
        Option(pattern, frozen + sum(kept_weights(block, pattern) for block in pruned))
        for pattern in common
    ]
    _require_reachable([totals], weights, sparsity)
    enough = [option for option in totals if option.kept <= _capacity(weights, sparsity)]
    best = max(enough, key=lambda option: (option.kept, option.pattern.m))
    patterns = tuple(DENSE if block.dense else best.pattern for block in blocks)
    return Plan(patterns, best.kept, weights)


def level_plan(
    blocks: Sequence[BlockLinears],
    candidates: Sequence[NMSparsity],
    sparsity: float,
    tolerance: float | None = None,
) -> Plan:
    """The uniform plan; where no single pattern serves all blocks, the most level mix that reaches
    the target. InputError only where no plan of one pattern a block can reach it.
    """
    try:
        plan = uniform_plan(blocks, candidates, sparsity)
        if tolerance is None or plan.sparsity - sparsity <= tolerance:
            return plan
        raise InputError("the uniform plan is not within the tolerance")
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
        return flow_plan(options, weights, sparsity, tolerance)


def _capacity(weights: int, sparsity: float, tolerance: float = 0.0) -> int:
    """Weights that may be kept. Exact in decimals: 0.7 of 10 leaves 3, not 2."""
    return floor(weights * (1 - Fraction(repr(sparsity)) + Fraction(repr(tolerance))))


def _least(weights: int, sparsity: float, tolerance: float) -> int:
    """Weights that must be kept, exact in decimals too."""
    return ceil(weights * (1 - Fraction(repr(sparsity)) - Fraction(repr(tolerance))))


def _require_reachable(options: Sequence[Sequence[Option]], weights: int, sparsity: float) -> None:
    """InputError naming the two reachable sparsities nearest to one that is out of reach."""
    counts = [sorted({option.kept for option in block}) for block in options]
    least = sum(count[0] for count in counts)
    if least <= _capacity(weights, sparsity):
        return
    steps = [count[1] - count[0] for count in counts if len(count) > 1]
    reachable = [1 - least / weights] + ([1 - (least + min(steps)) / weights] if steps else [])
    if not reachable[0]:
        raise InputError(
            f"sparsity = {sparsity:g} is out of reach: no block has a candidate that removes "
            "weights; add sparser candidates, or leave fewer blocks dense"
        )
    raise InputError(
        f"sparsity = {sparsity:g} is out of reach of the candidates: {_nearest(reachable)}; ask "
        f"for {reachable[0]:.6g} or less, or add sparser candidates"
    )


def _nearest(shares: Sequence[float]) -> str:
    said = " and ".join(f"{value:.6g}" for value in shares)
    return f"the nearest reachable {'is' if len(shares) == 1 else 'are'} {said}"
