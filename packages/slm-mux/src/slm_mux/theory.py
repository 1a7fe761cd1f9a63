"""Exact accuracies from per-question answer distributions, and the paper's A(N, p).

A(N, p) = P(Binomial(N, p) >= ceil(N / 2)) (section on theory) counts a tie as won for even N, so it
can exceed p where p < 1/2; it also forgets that wrong answers scatter. `expected_accuracy` has
neither fault: it sums over all ways in which k samples of each model can fall.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, comb, factorial, prod

from crosslayer.errors import InputError

Distribution = Mapping[str | None, float]
MOST_OUTCOMES = 200_000  # of one model; a larger k is for replay


def majority(samples: int, p: float) -> float:
    """A(N, p): at least half of N samples are right, each with probability p."""
    return sum(
        comb(samples, i) * p**i * (1 - p) ** (samples - i)
        for i in range(ceil(samples / 2), samples + 1)
    )


def mode_distribution(answers: Distribution, k: int, gold: str) -> dict[tuple[int, bool], float]:
    """P(agreeing samples of the mode, whether it is right) of one model's k samples.

    Among equally frequent answers each is the earliest with equal probability. Errors: InputError
    for probabilities that do not sum to 1, or for too many outcomes to sum over.
    """
    names = [name for name, p in answers.items() if p > 0]
    sums = abs(sum(answers.values()) - 1) <= 1e-9  # never with NaN
    if not sums or min(answers.values()) < 0:
        raise InputError(f"the probabilities of {sorted(map(str, answers))} do not sum to 1")
    if comb(k + len(names) - 1, k) > MOST_OUTCOMES:
        raise InputError(
            f"{len(names)} answers in {k} samples fall in too many ways to sum over; use replay"
        )
    found: dict[tuple[int, bool], float] = {}
    for counts in _compositions(k, len(names)):
        p = factorial(k) * prod(
            answers[name] ** number / factorial(number)
            for name, number in zip(names, counts, strict=True)
        )
        votes = {n: c for n, c in zip(names, counts, strict=True) if n is not None and c}
        top = max(votes.values(), default=0)
        tied = [name for name, number in votes.items() if number == top]
        share = (gold in tied) / len(tied) if tied else 0.0
        for right, part in ((True, share), (False, 1 - share)):
            if part:
                found[top, right] = found.get((top, right), 0.0) + p * part
    return found


def expected_accuracy(
    models: Mapping[str, Distribution], k: int, gold: str, accuracies: Mapping[str, float]
) -> float:
    """P(SLM-MUX is right) on one question, exactly.

    models: each one's distribution over answers, None for no answer, in the order that settles
    equal accuracies.
    """
    modes = {model: mode_distribution(answers, k, gold) for model, answers in models.items()}
    ranked = sorted(models, key=lambda model: -accuracies[model])
    total = 0.0
    for place, model in enumerate(ranked):
        for (agreeing, right), p in modes[model].items():
            if not right:
                continue
            for other, name in enumerate(ranked):
                if name != model:
                    # An earlier one must have fewer, a later one at most as many.
                    most = agreeing - 1 if other < place else agreeing
                    p *= sum(q for (number, _), q in modes[name].items() if number <= most)
            total += p
    return total


def _compositions(total: int, parts: int) -> Iterator[Sequence[int]]:
    """All ways to write `total` as an ordered sum of `parts` numbers from 0."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)
