"""Which models to deploy: O(S) = UnionAcc(S) - lambda * Contradiction(S) over subsets S of a pool.

UnionAcc: share of questions on which some member is correct. Contradiction: share on which some
member is consistently wrong (all its samples agree on one wrong answer) and another is correct.
Every question is a bit, so a subset costs a few words; all subsets of 20 models are searched, and
beyond that the best of each size grow by one model (a beam). The paper leaves open when a model
with k samples is correct: `correct` says. With "mode" the union is a true bound on SLM-MUX's
accuracy; the objective is a guide and no bound from below.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crosslayer.errors import InputError
from slm_mux.algorithm import Keys, count
from slm_mux.records import Table

EXHAUSTIVE = 20  # models; 2**20 subsets
Correct = Literal["mode", "any", "all"] | int
Words = np.ndarray  # uint64 [..., words]


@dataclass(frozen=True)
class Bits:
    """Per model the questions it is correct on and those it is consistently wrong on.

    correct, wrong: bool [models, questions].
    """

    models: tuple[str, ...]
    correct: np.ndarray
    wrong: np.ndarray


@dataclass(frozen=True)
class Subset:
    """A candidate. union, contradiction: shares of questions; interval: of the objective, 95 %."""

    models: tuple[str, ...]
    objective: float
    union: float
    contradiction: float
    cost: float
    interval: tuple[float, float] | None = None


def bits(table: Table, questions: Sequence[int], correct: Correct = "mode") -> Bits:
    """From recorded samples. correct: "mode", the most frequent answer is right; "any" or "all"
    samples are; a number, so many are. Errors: InputError for a number that no model can reach.
    """
    if isinstance(correct, int) and not 1 <= correct <= table.samples:
        raise InputError(f"correct = {correct}: with {table.samples} samples 1 to that many are")
    shape = (len(table.models), len(questions))
    right, wrong = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for i, model in enumerate(table.models):
        for j, q in enumerate(questions):
            keys, gold = table.keys[model][q], table.gold[q]
            right[i, j] = is_correct(keys, gold, correct)
            wrong[i, j] = keys[0] not in (None, gold) and len(set(keys)) == 1
    return Bits(table.models, right, wrong)


def is_correct(keys: Keys, gold: str, correct: Correct) -> bool:
    """Whether a model counts as correct on a question."""
    if correct == "mode":
        return count("", keys).answer == gold
    hits = sum(key == gold for key in keys)
    needed = (
        {"any": 1, "all": len(keys)}.get(correct, correct) if isinstance(correct, str) else correct
    )
    return hits >= int(needed)


def search(
    known: Bits,
    *,
    sizes: Sequence[int] | None = None,
    lam: float = 1.0,
    normalise: Literal["all", "union"] = "all",
    costs: Mapping[str, float] | None = None,
    budget: float | None = None,
    top: int = 10,
    beam: int = 64,
    resamples: int = 0,
    seed: int = 0,
) -> tuple[Subset, ...]:
    """The `top` subsets by objective; of equals the smaller, then the cheaper, then the earlier.

    sizes: allowed ones, all if left out. normalise: contradictions over all questions (the paper)
    or over those of the union (the released code). costs, budget: of a model, and the most that a
    subset may cost. beam: subsets kept a size beyond EXHAUSTIVE models. resamples: bootstrap over
    questions for the interval. Errors: InputError where no subset is allowed.
    """
    n = len(known.models)
    if not 0 <= lam < np.inf:
        raise InputError(f"lambda = {lam}: 0 or more, and finite")
    allowed = set(range(1, n + 1) if sizes is None else sizes)
    price = np.array([(costs or {}).get(model, 1.0) for model in known.models])
    if not allowed & set(range(1, n + 1)):
        raise InputError(f"sizes {sorted(allowed)} hold none from 1 to {n}, the pool's models")
    if n <= EXHAUSTIVE:
        masks = _fitting(n, allowed, price, budget)
        union, both = _all_counts(known)
        union, both = union[masks], both[masks]
    else:
        masks, union, both = _beam(known, allowed, price, budget, lam, normalise, beam)
    if not len(masks):
        raise InputError(f"no subset of sizes {sorted(allowed)} costs {budget} or less")
    questions = known.correct.shape[1]
    value = _objective(union, both, questions, lam, normalise)
    size = _popcount(masks)
    cost = (
        np.array([price[_members(int(mask), n)].sum() for mask in masks])
        if n > EXHAUSTIVE
        else (_cost_of_all(price)[masks])
    )
    best = np.lexsort((_earlier(masks, n), cost, size, -value))[:top]
    found = []
    for i in best:
        members = _members(int(masks[i]), n)
        interval = None
        if resamples:
            interval = _interval(known, members, lam, normalise, resamples, seed)
        found.append(
            Subset(
                tuple(known.models[m] for m in members),
                float(value[i]),
                float(union[i] / questions),
                float(both[i] / questions),
                float(cost[i]),
                interval,
            )
        )
    return tuple(found)


def reference(known: Bits, lam: float = 1.0) -> Iterator[tuple[tuple[int, ...], float]]:
    """(members, objective) of every subset by plain loops over questions: what `search` equals."""
    n, questions = known.correct.shape
    correct, wrong = known.correct.tolist(), known.wrong.tolist()
    for size in range(1, n + 1):
        for members in itertools.combinations(range(n), size):
            union = contradiction = 0
            for q in range(questions):
                if any(correct[m][q] for m in members):
                    union += 1
                    if any(wrong[m][q] for m in members):
                        contradiction += 1
            yield members, (union - lam * contradiction) / questions


def objectives(known: Bits, lam: float = 1.0) -> np.ndarray:
    """The objective of every subset, float64 [2**models]; bit i of the index is model i, 0 is -inf.

    Errors: InputError beyond EXHAUSTIVE models.
    """
    union, both = _all_counts(known)
    value = _objective(union, both, known.correct.shape[1], lam, "all")
    value[0] = -np.inf
    return value


def _all_counts(known: Bits) -> tuple[np.ndarray, np.ndarray]:
    """Questions in the union and in the contradiction of every subset, int64 [2**models]."""
    n = len(known.models)
    if n > EXHAUSTIVE:
        raise InputError(f"{n} models have too many subsets to try all; at most {EXHAUSTIVE}")
    correct, wrong = _words(known.correct), _words(known.wrong)
    union = np.zeros(1 << n, dtype=np.int64)
    both = np.zeros(1 << n, dtype=np.int64)
    for word in range(correct.shape[1]):  # a word at a time, so memory does not grow with them
        some = np.zeros(1 << n, dtype=np.uint64)
        sure = np.zeros(1 << n, dtype=np.uint64)
        for i in range(n):
            half = 1 << i
            np.bitwise_or(some[:half], correct[i, word], out=some[half : 2 * half])
            np.bitwise_or(sure[:half], wrong[i, word], out=sure[half : 2 * half])
        union += np.bitwise_count(some)
        both += np.bitwise_count(some & sure)
    return union, both


def _words(flags: np.ndarray) -> Words:
    """Bool [models, questions] to uint64 [models, words]."""
    packed = np.packbits(flags, axis=1)
    pad = -packed.shape[1] % 8
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, pad)))).view(np.uint64)


def _objective(
    union: np.ndarray, both: np.ndarray, questions: int, lam: float, normalise: str
) -> np.ndarray:
    if normalise == "union":
        shares = np.where(union > 0, both / np.maximum(union, 1), 0.0)
        value: np.ndarray = union / questions - lam * shares
        return value
    value = (union - lam * both) / questions
    return value


def _fitting(n: int, allowed: set[int], price: np.ndarray, budget: float | None) -> np.ndarray:
    masks = np.arange(1, 1 << n, dtype=np.int64)
    fits = np.isin(_popcount(masks), sorted(allowed))
    if budget is not None:
        fits &= _cost_of_all(price)[masks] <= budget
    kept: np.ndarray = masks[fits]
    return kept


def _cost_of_all(price: np.ndarray) -> np.ndarray:
    cost = np.zeros(1 << len(price))
    for i, one in enumerate(price):
        cost[1 << i : 2 << i] = cost[: 1 << i] + one
    return cost


def _popcount(masks: np.ndarray) -> np.ndarray:
    if masks.dtype == object:
        return np.array([int(mask).bit_count() for mask in masks])
    counted: np.ndarray = np.bitwise_count(masks).astype(np.int64)
    return counted


def _members(mask: int, n: int) -> list[int]:
    return [i for i in range(n) if mask >> i & 1]


def _earlier(masks: np.ndarray, n: int) -> np.ndarray:
    """A key that is smaller for subsets of earlier models: the bits from behind, negative."""
    key = np.zeros_like(masks)
    for i in range(n):
        key -= (masks >> i & 1) << (n - 1 - i)
    return key


def _beam(
    known: Bits, allowed: set[int], price: np.ndarray, budget: float | None, lam: float,
    normalise: str, beam: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The best `beam` of every size, each grown from those of the size below."""
    n, questions = known.correct.shape
    correct, wrong = _words(known.correct), _words(known.wrong)
    held: list[tuple[int, int, int]] = []
    level: dict[int, tuple[Words, Words]] = {
        0: (np.zeros_like(correct[0]), np.zeros_like(wrong[0]))
    }
    for size in range(1, max(allowed) + 1):
        grown: dict[int, tuple[Words, Words]] = {}
        for mask, (some, sure) in level.items():
            for i in range(n):
                if mask >> i & 1 or mask | 1 << i in grown:
                    continue
                if budget is None or price[_members(mask | 1 << i, n)].sum() <= budget:
                    grown[mask | 1 << i] = (some | correct[i], sure | wrong[i])
        if not grown:
            break
        masks = list(grown)
        union = np.array([int(np.bitwise_count(grown[m][0]).sum()) for m in masks])
        both = np.array([int(np.bitwise_count(grown[m][0] & grown[m][1]).sum()) for m in masks])
        ranked = np.argsort(-_objective(union, both, questions, lam, normalise), kind="stable")
        level = {masks[i]: grown[masks[i]] for i in ranked[:beam]}
        if size in allowed:
            held += [(masks[i], int(union[i]), int(both[i])) for i in ranked[:beam]]
    return (
        np.array([one[0] for one in held], dtype=object),
        np.array([one[1] for one in held]),
        np.array([one[2] for one in held]),
    )


def _interval(
    known: Bits, members: list[int], lam: float, normalise: str, resamples: int, seed: int
) -> tuple[float, float]:
    some = np.logical_or.reduce(known.correct[members], axis=0)
    both = some & np.logical_or.reduce(known.wrong[members], axis=0)
    questions = len(some)
    weights = np.random.default_rng(seed).multinomial(
        questions, np.full(questions, 1 / questions), size=resamples
    )
    values = _objective(weights @ some, weights @ both, questions, lam, normalise)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
