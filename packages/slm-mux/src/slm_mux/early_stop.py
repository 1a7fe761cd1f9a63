"""When outstanding samples can no longer change the choice, and which to draw first.

`settled` is exact: it says so if and only if every completion gives the same model and answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from crosslayer.errors import InputError, nearest
from slm_mux.algorithm import Choice, choose, count

Seen = Mapping[str, Mapping[int, str | None]]
Schedule = Literal["parallel", "best-first", "rounds"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


def settled(seen: Seen, k: int, accuracies: Mapping[str, float]) -> Choice | None:
    """The choice, once nothing that is outstanding can change it; None before.

    seen: of every model the samples that have ended, {sample number: key or None}.
    """
    now = current(seen, k, accuracies)
    outstanding = {model: k - len(samples) for model, samples in seen.items()}
    if not any(outstanding.values()):
        return now
    if now.model is None:
        return None
    votes = {vote.model: vote for vote in now.votes}
    sure = votes[now.model].agreeing  # more samples can only add to it
    order = list(seen)
    for model, vote in votes.items():
        if not outstanding[model]:
            continue
        most = max((number for _, number in vote.counts), default=0) + outstanding[model]
        if model == now.model:
            if _overtaken(seen[model], k, now.answer, sure):
                return None
        elif most > sure or (most == sure and _first(model, now.model, accuracies, order)):
            return None
    return now


def current(seen: Seen, k: int, accuracies: Mapping[str, float]) -> Choice:
    """The choice if no outstanding sample brings an answer."""
    votes = [
        count(model, [samples[i] for i in sorted(samples)], k) for model, samples in seen.items()
    ]
    return choose(votes, accuracies)


def _overtaken(samples: Mapping[int, str | None], k: int, answer: str | None, sure: int) -> bool:
    """Whether another answer of the same model, seen or new, can still be preferred."""
    pending = [i for i in range(k) if i not in samples]
    firsts: dict[str, int] = {}
    counts: dict[str, int] = {}
    for i in sorted(samples):
        key = samples[i]
        if key is not None:
            firsts.setdefault(key, i)
            counts[key] = counts.get(key, 0) + 1
    mine = firsts[answer or ""]
    rivals = [(counts[key], firsts[key]) for key in counts if key != answer] + [(0, k)]
    return any(
        number + len(pending) > sure
        or (number + len(pending) == sure and min(first, pending[0]) < mine)
        for number, first in rivals
    )


def _first(model: str, other: str, accuracies: Mapping[str, float], order: Sequence[str]) -> bool:
    """Whether a tie between the two goes to `model`."""
    if accuracies[model] != accuracies[other]:
        return accuracies[model] > accuracies[other]
    return order.index(model) < order.index(other)


def shortcut(seen: Seen, k: int, accuracies: Mapping[str, float]) -> Choice | None:
    """The shortcut of the paper's appendix: where the first samples of all models agree, their
    answer, whatever later ones say; else as `settled`. Not lossless.

    While they may still agree nothing else is settled than their own answer, so which it is does
    not depend on the order in which samples end.
    """
    if unanimous(seen):
        first = {model: {0: samples[0]} for model, samples in seen.items()}
        return current(first, 1, accuracies)
    choice = settled(seen, k, accuracies)
    firsts = {samples[0] for samples in seen.values() if 0 in samples}
    apart = len(firsts) > 1 or None in firsts
    return choice if apart or (choice is not None and choice.answer in firsts) else None


def unanimous(seen: Seen) -> bool:
    """Whether the first samples of all models are there and agree."""
    first = {samples.get(0) for samples in seen.values()}
    return len(first) == 1 and None not in first


def rounds(
    models: Sequence[str], k: int, accuracies: Mapping[str, float], schedule: Schedule
) -> tuple[tuple[tuple[str, int], ...], ...]:
    """(model, sample) pairs in the order of drawing; a round starts when the one before has ended.

    parallel: everything at once, the quickest. best-first: all samples of the most accurate model,
    then of the next: if it agrees with itself k times, nobody else need be asked. rounds: one
    sample of each, then the next.
    """
    if schedule == "parallel":
        return (tuple((model, i) for model in models for i in range(k)),)
    if schedule == "best-first":
        ranked = sorted(models, key=lambda model: -accuracies[model])  # stable
        return tuple(tuple((model, i) for i in range(k)) for model in ranked)
    if schedule == "rounds":
        return tuple(tuple((model, i) for model in models) for i in range(k))
    raise InputError(f"no schedule {schedule!r}; {nearest(schedule, SCHEDULES)}")
