"""SLM-MUX with one thing changed: what the tie-break, the denominator and equivalence are worth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from slm_mux.algorithm import Keys, count, slm_mux
from slm_mux.records import Table, split
from slm_mux.replay import Method, accuracies, drawn


def variants() -> dict[str, Method]:
    """Methods for `replay(extra=...)`, by what is changed."""
    return {
        "ties by order": lambda samples, known, every: _choose(samples, None),
        "ties at random": lambda samples, known, every: _choose(samples, None, shuffle=True),
        "confidence over parsed samples": lambda samples, known, every: _choose(
            samples, known, parsed=True
        ),
    }


def _choose(
    samples: Mapping[str, Keys],
    known: Mapping[str, float] | None,
    *,
    parsed: bool = False,
    shuffle: bool = False,
) -> str | None:
    order = list(samples)
    if shuffle:  # by a hash of the samples themselves: the same again, and no question like another
        text = repr(sorted(samples.items())).encode()
        seed = list(hashlib.sha256(text).digest())
        order = [order[i] for i in np.random.default_rng(seed).permutation(len(order))]
    votes = [count(model, samples[model]) for model in order]
    able = [vote for vote in votes if vote.answer is not None]
    if not able:
        return None

    def confidence(model: str, agreeing: int, k: int) -> Fraction:
        drawn = sum(key is not None for key in samples[model]) if parsed else k
        return Fraction(agreeing, drawn)

    return max(
        able,
        key=lambda vote: (
            confidence(vote.model, vote.agreeing, vote.k),
            known[vote.model] if known else 0.0,
        ),
    ).answer


def raw(table: Table) -> Table:
    """The same records with answers compared as they were written."""
    return Table(
        table.models, table.questions, table.raw_gold, table.raw, table.raw, table.raw_gold
    )


def reliability(table: Table, k: int, seed: int = 0) -> dict[str, list[tuple[int, int, int]]]:
    """Per model and number of agreeing samples j = 0..k: (j, questions, of those right)."""
    found = {}
    for model in table.models:
        rows = [[j, 0, 0] for j in range(k + 1)]
        for q in range(len(table.questions)):
            vote = count(model, drawn(table, model, q, k, seed))
            rows[vote.agreeing][1] += 1
            rows[vote.agreeing][2] += vote.answer == table.gold[q]
        found[model] = [(j, n, right) for j, n, right in rows]
    return found


def attribution(table: Table, k: int, seeds: Sequence[int]) -> dict[str, float]:
    """Share of test questions by whose answer was taken; "no disagreement" where all models' most
    frequent answers are one, "no answer" where there is none.
    """
    taken: dict[str, int] = dict.fromkeys(("no disagreement", *table.models, "no answer"), 0)
    for seed in seeds:
        validation, test = split(table.questions, seed)
        known = accuracies(table, validation)
        for q in test:
            chosen = slm_mux({m: drawn(table, m, q, k, seed) for m in table.models}, known)
            agree = len({vote.answer for vote in chosen.votes}) == 1
            taken["no disagreement" if agree and chosen.model else chosen.model or "no answer"] += 1
    total = sum(taken.values())
    return {name: number / total for name, number in taken.items()}
