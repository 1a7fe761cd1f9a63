"""Exact accuracies against enumeration of every draw."""

from __future__ import annotations

import itertools
from math import prod

import pytest

from crosslayer.errors import InputError
from slm_mux.algorithm import slm_mux
from slm_mux.theory import expected_accuracy, majority, mode_distribution

MODELS = {
    "m": {"A": 0.5, "B": 0.3, None: 0.2},
    "n": {"A": 0.2, "C": 0.6, "B": 0.2},
}


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("best", ["m", "n", "equal"])
def test_the_expected_accuracy_is_the_sum_over_all_draws(k: int, best: str) -> None:
    accuracies = {"m": 0.5, "n": 0.5} | ({best: 0.9} if best != "equal" else {})
    total = 0.0
    for first in itertools.product(MODELS["m"], repeat=k):
        for second in itertools.product(MODELS["n"], repeat=k):
            p = prod(MODELS["m"][a] for a in first) * prod(MODELS["n"][a] for a in second)
            total += p * (slm_mux({"m": first, "n": second}, accuracies).answer == "A")
    assert expected_accuracy(MODELS, k, "A", accuracies) == pytest.approx(total, abs=1e-12)


def test_one_model_is_self_consistency_and_probabilities_sum_to_one() -> None:
    modes = mode_distribution(MODELS["m"], 3, "A")
    assert sum(modes.values()) == pytest.approx(1)
    right = sum(p for (_, correct), p in modes.items() if correct)
    assert expected_accuracy({"m": MODELS["m"]}, 3, "A", {"m": 1}) == pytest.approx(right)


def test_a_of_n_counts_ties_of_even_n_as_won() -> None:
    # P(at least 1 of 2) = 1 - 0.55^2; the claim A > p only for p > 1/2 fails here.
    assert majority(2, 0.45) == pytest.approx(1 - 0.55**2)
    assert majority(4, 0.45) == pytest.approx(0.6090, abs=1e-4)
    assert majority(3, 0.45) < 0.45 < majority(2, 0.45)


def test_scattered_wrong_answers_let_a_vote_win_below_one_half() -> None:
    scattered: dict[str | None, float] = {"A": 0.4, **dict.fromkeys("bcdefg", 0.1)}
    vote = expected_accuracy({"m": scattered}, 7, "A", {"m": 1})
    assert majority(7, 0.4) < 0.4 < vote


def test_distributions_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="sum to 1"):
        mode_distribution({"A": 0.5}, 2, "A")
    with pytest.raises(InputError, match="sum to 1"):
        mode_distribution({"A": float("nan")}, 2, "A")
    with pytest.raises(InputError, match="use replay"):
        mode_distribution({str(i): 1 / 50 for i in range(50)}, 20, "0")
