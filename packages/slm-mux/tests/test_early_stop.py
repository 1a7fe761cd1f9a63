"""Stopping early against every way in which the outstanding samples could end."""

from __future__ import annotations

import itertools
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from slm_mux.algorithm import slm_mux
from slm_mux.early_stop import rounds, settled, shortcut, unanimous

LETTERS = ["A", "B", "new", "newer", None]
ACCURACIES = {"m": 0.5, "n": 0.5, "o": 0.7}


@st.composite
def _partly_seen(draw: st.DrawFn) -> tuple[int, dict[str, dict[int, str | None]]]:
    k = draw(st.integers(1, 3))
    seen: dict[str, dict[int, str | None]] = {}
    for model in draw(st.sampled_from(["m", "mn", "om", "no"])):
        numbers = draw(st.sets(st.integers(0, k - 1)))
        seen[model] = {i: draw(st.sampled_from(["A", "B", None])) for i in sorted(numbers)}
    return k, seen


@given(_partly_seen())
def test_it_stops_exactly_when_no_completion_changes_model_or_answer(
    case: tuple[int, dict[str, dict[int, str | None]]],
) -> None:
    k, seen = case
    open_ = [(model, i) for model in seen for i in range(k) if i not in seen[model]]
    outcomes = set()
    for ending in itertools.product(LETTERS, repeat=len(open_)):
        whole = {model: dict(samples) for model, samples in seen.items()}
        for (model, i), key in zip(open_, ending, strict=True):
            whole[model][i] = key
        table = {model: [samples[i] for i in range(k)] for model, samples in whole.items()}
        chosen = slm_mux(table, ACCURACIES)
        outcomes.add((chosen.model, chosen.answer))
    stopped = settled(seen, k, ACCURACIES)
    assert (stopped is not None) == (len(outcomes) == 1)
    if stopped is not None:
        assert outcomes == {(stopped.model, stopped.answer)}


def test_the_most_accurate_agreeing_with_itself_needs_nobody_else() -> None:
    seen = {"o": {0: "A", 1: "A", 2: "A"}, "m": {}, "n": {}}
    stopped = settled(seen, 3, ACCURACIES)
    assert stopped is not None and stopped.answer == "A"
    # Of a less accurate model the same proves nothing: o may still reach 3 of 3.
    assert settled({"o": {}, "m": {0: "A", 1: "A", 2: "A"}, "n": {}}, 3, ACCURACIES) is None


def test_schedules_draw_every_sample_once() -> None:
    every = {(model, i) for model in "mno" for i in range(3)}
    for schedule in ("parallel", "best-first", "rounds"):
        drawn = [one for r in rounds("mno", 3, ACCURACIES, schedule) for one in r]  # type: ignore[arg-type]
        assert len(drawn) == 9 and set(drawn) == every
    assert rounds("mno", 3, ACCURACIES, "best-first")[0][0] == ("o", 0)


@st.composite
def _arrivals(draw: st.DrawFn) -> tuple[int, dict[str, list[str | None]], list[tuple[str, int]]]:
    k = draw(st.integers(1, 3))
    keys = st.lists(st.sampled_from(["A", "B", None]), min_size=k, max_size=k)
    table = {model: draw(keys) for model in draw(st.sampled_from(["m", "mn", "om", "nom"]))}
    return k, table, draw(st.permutations([(model, i) for model in table for i in range(k)]))


@given(_arrivals(), st.randoms(use_true_random=False))
def test_the_shortcut_answers_as_the_first_samples_do_in_whatever_order_samples_end(
    case: tuple[int, dict[str, list[str | None]], list[tuple[str, int]]], random: Random
) -> None:
    k, table, arrivals = case

    def stopped_at(order: list[tuple[str, int]]) -> str | None:
        seen: dict[str, dict[int, str | None]] = {model: {} for model in table}
        for model, i in order:
            seen[model][i] = table[model][i]
            choice = shortcut(seen, k, ACCURACIES)
            if choice is not None:
                return choice.answer
        raise AssertionError("never")

    firsts = {keys[0] for keys in table.values()}
    expected = slm_mux(table, ACCURACIES).answer
    if len(firsts) == 1 and None not in firsts:
        (expected,) = firsts
    shuffled = list(arrivals)
    random.shuffle(shuffled)
    assert stopped_at(arrivals) == stopped_at(shuffled) == expected


def test_unanimous_first_samples_are_told_from_silence() -> None:
    assert unanimous({"m": {0: "A"}, "n": {0: "A"}})
    assert not unanimous({"m": {0: "A"}, "n": {}})
    assert not unanimous({"m": {0: None}, "n": {0: None}})
