"""Algorithm 1 by hand-worked examples and by what must hold for every input."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.errors import InputError
from slm_mux.algorithm import slm_mux

KEYS = st.sampled_from(["A", "B", "C", None])
TABLES = st.integers(1, 4).flatmap(
    lambda k: st.dictionaries(
        st.sampled_from("mnop"), st.lists(KEYS, min_size=k, max_size=k), min_size=1
    )
)
RIGHT = "A"


def test_a_tie_between_models_goes_to_the_more_accurate() -> None:
    # Confidences 2/3, 2/3, 1/3: one and two tie.
    samples = {"one": ["A", "A", "B"], "two": ["A", "B", "B"], "three": ["A", "B", "C"]}
    first = slm_mux(samples, {"one": 0.7, "two": 0.6, "three": 0.9})
    assert (first.model, first.answer, first.confidence) == ("one", "A", Fraction(2, 3))
    assert first.tied_models == ("one", "two")
    second = slm_mux(samples, {"one": 0.6, "two": 0.7, "three": 0.9})
    assert (second.model, second.answer) == ("two", "B")


def test_the_most_confident_wins_against_the_more_accurate() -> None:
    chosen = slm_mux({"good": ["A", "A", "B"], "sure": ["C"] * 3}, {"good": 0.9, "sure": 0.1})
    assert (chosen.model, chosen.answer, chosen.confidence) == ("sure", "C", 1)
    assert chosen.tied_models == ()


def test_a_sample_without_an_answer_lowers_the_confidence() -> None:
    # 1 of 5 against 2 of 5; over parsed samples alone it would be 1/1 against 2/5.
    chosen = slm_mux(
        {"mute": ["A", None, None, None, None], "split": ["B", "B", "C", "D", "E"]},
        {"mute": 0.9, "split": 0.1},
    )
    assert (chosen.model, chosen.answer, chosen.confidence) == ("split", "B", Fraction(2, 5))


def test_nothings_never_win_a_vote() -> None:
    chosen = slm_mux({"m": [None, None, "A"]}, {"m": 0.5})
    assert (chosen.answer, chosen.confidence) == ("A", Fraction(1, 3))


def test_inside_a_model_the_earliest_of_equal_answers_is_taken_and_told() -> None:
    chosen = slm_mux({"m": ["B", "A"]}, {"m": 0.5})
    assert (chosen.answer, chosen.tied_inside) == ("B", True)
    assert not slm_mux({"m": ["B", "B", "A"]}, {"m": 0.5}).tied_inside


def test_equal_accuracies_go_by_the_order_given() -> None:
    accuracies = {"m": 0.5, "n": 0.5}
    assert slm_mux({"n": ["B"], "m": ["A"]}, accuracies).model == "n"
    assert slm_mux({"m": ["A"], "n": ["B"]}, accuracies).model == "m"


def test_a_missing_accuracy_is_an_error_and_never_nought() -> None:
    with pytest.raises(InputError, match="'mm'"):
        slm_mux({"m": ["A"]}, {"mm": 0.5})


def test_no_answer_at_all_is_told_as_such() -> None:
    chosen = slm_mux({"m": [None], "n": [None]}, {"m": 0.5, "n": 0.4})
    assert (chosen.model, chosen.answer, chosen.confidence) == (None, None, 0)


def accuracies_of(table: dict[str, list[str | None]]) -> dict[str, float]:
    return {model: 0.1 * (ord(model) % 3) for model in table}


@given(TABLES)
def test_it_is_right_only_where_the_mode_of_a_model_is(table: dict[str, list[str | None]]) -> None:
    chosen = slm_mux(table, accuracies_of(table))
    modes = {slm_mux({model: keys}, {model: 0.5}).answer for model, keys in table.items()}
    assert chosen.answer in modes


@given(TABLES)
def test_a_copy_with_the_same_samples_changes_no_answer(table: dict[str, list[str | None]]) -> None:
    accuracies = accuracies_of(table)
    name = next(iter(table))
    copied = {**table, "copy": table[name]}
    before = slm_mux(table, accuracies)
    after = slm_mux(copied, {**accuracies, "copy": accuracies[name]})
    assert after.answer == before.answer


@given(TABLES)
def test_with_one_sample_the_most_accurate_that_answers_is_taken(
    table: dict[str, list[str | None]],
) -> None:
    accuracies = accuracies_of(table)
    ones = {model: keys[:1] for model, keys in table.items()}
    able = [model for model, keys in ones.items() if keys[0] is not None]
    best = max(able, key=lambda model: accuracies[model], default=None)
    assert slm_mux(ones, accuracies).model == best
