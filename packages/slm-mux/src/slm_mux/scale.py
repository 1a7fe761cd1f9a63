"""Test-time scaling: more models, each size's best subset; more samples, one subset.

Subsets are chosen on k samples of the validation questions of each split and judged on its test
questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slm_mux.algorithm import slm_mux
from slm_mux.records import Table, split
from slm_mux.replay import MUX, ORACLE, Outcome, accuracies, drawn, draws, replay
from slm_mux.search import Correct, bits, search


@dataclass(frozen=True)
class Step:
    """Accuracy at one size or number of samples, with its 95 % interval over questions."""

    label: str
    accuracy: float
    interval: tuple[float, float]
    union: float


def more_models(
    table: Table, k: int, seeds: Sequence[int], *, lam: float = 1.0, correct: Correct = "mode"
) -> list[Step]:
    """SLM-MUX on the searched subset of each size, from one model to all."""
    steps = []
    for size in range(1, len(table.models) + 1):
        outcomes = []
        for seed in seeds:
            validation, _ = split(table.questions, seed)
            (best,) = search(
                bits(draws(table, k, seed), validation, correct), sizes=[size], lam=lam, top=1
            )
            outcomes.append(replay(table.pool(best.models), k, [seed]))
        steps.append(_step("1 model" if size == 1 else f"{size} models", _summed(outcomes)))
    return steps


def more_samples(table: Table, ks: Sequence[int], seeds: Sequence[int]) -> list[Step]:
    """SLM-MUX on the whole pool of the table, for each k."""
    return [_step(f"k = {k}", replay(table, k, seeds)) for k in ks]


@dataclass(frozen=True)
class Subsets:
    """Every subset of a pool in every split, in one order.

    objective[lambda]: on validation questions, float64 [splits, subsets]. accuracy: of SLM-MUX on
    test questions, the same shape. chosen[lambda]: accuracy of the subset that the search takes,
    float64 [splits].
    """

    models: tuple[tuple[str, ...], ...]
    objective: Mapping[float, np.ndarray]
    accuracy: np.ndarray
    chosen: Mapping[float, np.ndarray]


def subsets(
    table: Table, k: int, seeds: Sequence[int], lams: Sequence[float], correct: Correct = "mode"
) -> Subsets:
    """Objective and realised accuracy of all subsets; tries them all, so for small pools."""
    names: tuple[tuple[str, ...], ...] = ()
    accuracy: list[list[float]] = []
    objective: dict[float, list[list[float]]] = {lam: [] for lam in lams}
    chosen: dict[float, list[float]] = {lam: [] for lam in lams}
    for seed in seeds:
        validation, test = split(table.questions, seed)
        known = accuracies(table, validation)
        flags = bits(draws(table, k, seed), validation, correct)
        samples = [{m: drawn(table, m, q, k, seed) for m in table.models} for q in test]
        names = names or tuple(one.models for one in search(flags, top=2 ** len(table.models)))
        realised = {}
        for members in names:
            right = [
                slm_mux({m: keys[m] for m in members}, known).answer == table.gold[q]
                for keys, q in zip(samples, test, strict=True)
            ]
            realised[members] = float(np.mean(right))
        accuracy.append([realised[members] for members in names])
        for lam in lams:
            ranked = search(flags, lam=lam, top=2 ** len(table.models))
            value = {one.models: one.objective for one in ranked}
            objective[lam].append([value[members] for members in names])
            chosen[lam].append(realised[ranked[0].models])
    return Subsets(
        names,
        {lam: np.array(rows) for lam, rows in objective.items()},
        np.array(accuracy),
        {lam: np.array(rows) for lam, rows in chosen.items()},
    )


def objective_against_accuracy(
    table: Table, k: int, seeds: Sequence[int], lams: Sequence[float], correct: Correct = "mode"
) -> dict[float, tuple[float, float]]:
    """Per lambda: (mean rank correlation of objective and realised accuracy over all subsets, mean
    test accuracy of the subset with the best objective), over the splits.

    Objectives are those of validation questions, accuracies those of test questions. Rank
    correlation: Spearman's, ties by their mean rank.
    """
    known = subsets(table, k, seeds, lams, correct)
    found = {}
    for lam in lams:
        pairs = zip(known.objective[lam], known.accuracy, strict=True)
        ranks = [_spearman(values, reached) for values, reached in pairs]
        found[lam] = float(np.mean(ranks)), float(known.chosen[lam].mean())
    return found


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        means: np.ndarray = np.cumsum(counts) - (counts + 1) / 2
        return means[inverse]

    x, y = ranks(a), ranks(b)
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _step(label: str, outcome: Outcome) -> Step:
    return Step(label, outcome.accuracy(MUX), outcome.interval(MUX), outcome.accuracy(ORACLE))


def _summed(outcomes: Sequence[Outcome]) -> Outcome:
    def add(parts: Sequence[np.ndarray]) -> np.ndarray:
        total: np.ndarray = np.sum(parts, axis=0)
        return total

    names = (MUX, ORACLE)
    return Outcome(
        outcomes[0].questions,
        {name: add([one.right[name] for one in outcomes]) for name in names},
        {name: add([one.asked[name] for one in outcomes]) for name in names},
    )
