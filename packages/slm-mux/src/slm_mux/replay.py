"""Evaluate on recorded samples: drawn without replacement, seeded, split by question.

Accuracies, ties and selected models come from the validation questions of a split, what is reported
from its test questions. The same draw serves every method, so differences are paired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from crosslayer.errors import InputError
from slm_mux.algorithm import Keys, slm_mux
from slm_mux.baselines import pooled_vote, self_consistency, single, union, weighted_vote
from slm_mux.records import Table, split

Samples = Mapping[str, Keys]
Method = Callable[[Samples, Mapping[str, float], Mapping[str, Keys]], str | None]
ORACLE = "union of modes (oracle)"
MUX = "slm-mux"


def drawn(table: Table, model: str, question: int, k: int, seed: int) -> Keys:
    """k of the recorded samples, in an order that a hash of seed, model and question decides.

    The k first of it: a larger k draws the same and more. Errors: InputError for more than there
    are.
    """
    keys = table.keys[model][question]
    return [keys[i] for i in order(table, model, question, k, seed)]


def order(table: Table, model: str, question: int, k: int, seed: int) -> Sequence[int]:
    """The sample numbers of `drawn`."""
    keys = table.keys[model][question]
    if k > len(keys):
        raise InputError(
            f"{model} has {len(keys)} recorded samples of question {table.questions[question]!r};"
            f" {k} cannot be drawn without replacement"
        )
    return _permuted(f"{seed}/{model}/{table.questions[question]}", len(keys))[:k]


def draws(table: Table, k: int, seed: int) -> Table:
    """The table with `drawn` instead of all samples: what a search that may ask k times sees."""
    keys, raw = {}, {}
    for model in table.models:
        numbers = [order(table, model, q, k, seed) for q in range(len(table.questions))]
        keys[model] = tuple(
            tuple(table.keys[model][q][i] for i in chosen) for q, chosen in enumerate(numbers)
        )
        raw[model] = tuple(
            tuple(table.raw[model][q][i] for i in chosen) for q, chosen in enumerate(numbers)
        )
    return replace(table, keys=keys, raw=raw)


@lru_cache(maxsize=2**17)  # every k and every pool draws it again
def _permuted(name: str, n: int) -> tuple[int, ...]:
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
    return tuple(int(i) for i in rng.permutation(n))


def accuracies(table: Table, questions: Sequence[int]) -> dict[str, float]:
    """a_i: the share of right samples among all recorded ones of these questions."""
    found = {}
    for model in table.models:
        right = [key == table.gold[q] for q in questions for key in table.keys[model][q]]
        found[model] = sum(right) / len(right)
    return found


@dataclass(frozen=True)
class Outcome:
    """Per method and question: in how many splits it was asked as a test question, and was right.

    questions: their ids. right[method], asked[method]: int64 [questions].
    """

    questions: tuple[str, ...]
    right: Mapping[str, np.ndarray]
    asked: Mapping[str, np.ndarray]

    def accuracy(self, method: str) -> float:
        """Mean over splits and their test questions."""
        return float(self.right[method].sum() / self.asked[method].sum())

    def interval(
        self, method: str, against: str | None = None, *, resamples: int = 2000, seed: int = 0
    ) -> tuple[float, float]:
        """The 95 % bootstrap interval over questions of an accuracy, or of its difference to
        another method's; paired, a question keeps all its splits.
        """
        weights = _weights(len(self.questions), resamples, seed)
        values = (weights @ self.right[method]) / np.maximum(weights @ self.asked[method], 1)
        if against is not None:
            values -= (weights @ self.right[against]) / np.maximum(weights @ self.asked[against], 1)
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)


@lru_cache(maxsize=8)
def _weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of n questions is in each resample, int64 [resamples, n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)


def replay(
    table: Table,
    k: int,
    seeds: Sequence[int],
    *,
    share: float = 0.5,
    extra: Mapping[str, Method] | None = None,
) -> Outcome:
    """SLM-MUX and every baseline on the pool of a table, one split and draw a seed.

    share: of the questions for validation. extra: further methods by name, called with the k
    samples of each model, the accuracies, and all recorded samples in drawn order. Self-consistency
    at n x k samples of the best model is there only where so many are recorded.
    """
    if not 1 <= k <= table.samples:
        raise InputError(
            f"{k} samples cannot be drawn without replacement: the records hold {table.samples} of"
            " every model and question"
        )
    n = len(table.models)
    equal = n * k if n * k <= table.samples else None
    methods = _methods(equal, k) | dict(extra or {})
    size = len(table.questions)
    right = {name: np.zeros(size, dtype=np.int64) for name in (*methods, ORACLE)}
    asked = {name: np.zeros(size, dtype=np.int64) for name in (*methods, ORACLE)}
    for seed in seeds:
        validation, test = split(table.questions, seed, share)
        known = accuracies(table, validation)
        for q in test:
            every = {
                model: drawn(table, model, q, len(table.keys[model][q]), seed)
                for model in table.models
            }
            samples = {model: keys[:k] for model, keys in every.items()}
            for name, method in methods.items():
                asked[name][q] += 1
                right[name][q] += method(samples, known, every) == table.gold[q]
            asked[ORACLE][q] += 1
            right[ORACLE][q] += union(samples, table.gold[q])
    return Outcome(table.questions, right, asked)


def best(known: Mapping[str, float]) -> str:
    """The model of the highest accuracy, of equals the first."""
    return max(known, key=lambda model: known[model])


def _methods(equal: int | None, k: int) -> dict[str, Method]:
    methods: dict[str, Method] = {
        MUX: lambda samples, known, every: slm_mux(samples, known).answer,
        "best single sample": lambda samples, known, every: single(samples, best(known)),
        f"best, self-consistency of k={k}": lambda samples, known, every: self_consistency(
            samples[best(known)]
        ),
        "pooled vote": lambda samples, known, every: pooled_vote(samples),
        "accuracy-weighted vote": lambda samples, known, every: weighted_vote(samples, known),
    }
    if equal is not None:
        methods[f"best, self-consistency of nk={equal}"] = lambda samples, known, every: (
            self_consistency(every[best(known)][:equal])
        )
    return methods
