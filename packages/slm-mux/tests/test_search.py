"""The search by bits against plain loops, and what its objective does and does not promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.errors import InputError
from slm_mux.algorithm import slm_mux
from slm_mux.extract import extractor
from slm_mux.records import Recorded, Row, Table, table
from slm_mux.search import Bits, bits, is_correct, objectives, reference, search


def made(models: int, questions: int, seed: int) -> Bits:
    rng = np.random.default_rng(seed)
    correct = rng.random((models, questions)) < 0.4
    wrong = ~correct & (rng.random((models, questions)) < 0.3)
    return Bits(tuple(f"m{i}" for i in range(models)), correct, wrong)


@given(st.integers(1, 7), st.integers(1, 140), st.integers(0, 1000), st.sampled_from([0, 0.5, 2]))
def test_all_subsets_have_the_objective_of_plain_loops(
    models: int, questions: int, seed: int, lam: float
) -> None:
    known = made(models, questions, seed)
    values = objectives(known, lam)
    for members, expected in reference(known, lam):
        assert values[sum(1 << m for m in members)] == pytest.approx(expected, abs=1e-12)
    (best,) = search(known, lam=lam, top=1)
    assert best.objective == pytest.approx(max(v for _, v in reference(known, lam)), abs=1e-12)


def test_a_beam_that_keeps_everything_finds_what_the_exhaustive_search_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = made(8, 90, 3)
    exhaustive = search(known, sizes=[2, 3, 4], top=20)
    monkeypatch.setattr("slm_mux.search.EXHAUSTIVE", 4)
    beam = search(known, sizes=[2, 3, 4], top=20, beam=1000)
    assert [(s.models, s.objective) for s in beam] == [(s.models, s.objective) for s in exhaustive]


def test_more_than_twenty_models_are_searched_and_the_budget_holds() -> None:
    known = made(26, 200, 1)
    costs = {model: float(i + 1) for i, model in enumerate(known.models)}
    found = search(known, sizes=[3], costs=costs, budget=20, top=5)
    assert all(len(one.models) == 3 and one.cost <= 20 for one in found)
    assert found[0].objective == max(one.objective for one in found)


def test_a_subset_of_two_worked_by_hand() -> None:
    # Questions: both right; only a right and b sure but wrong; only b right; nobody right.
    known = Bits(
        ("a", "b"),
        np.array([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=bool),
        np.array([[0, 0, 0, 1], [0, 1, 0, 0]], dtype=bool),
    )
    (pair,) = search(known, sizes=[2])
    assert (pair.union, pair.contradiction, pair.objective) == (0.75, 0.25, 0.5)
    (code,) = search(known, sizes=[2], normalise="union")
    assert code.objective == pytest.approx(0.75 - 1 / 3)
    with pytest.raises(InputError, match="costs 1 or less"):
        search(known, sizes=[2], budget=1)
    with pytest.raises(InputError, match="none from 1 to 2"):
        search(known, sizes=[5])


def test_negative_objectives_still_give_a_subset() -> None:
    known = Bits(("a", "b"), np.array([[1], [0]], dtype=bool), np.array([[0], [1]], dtype=bool))
    (found,) = search(known, sizes=[2], lam=3)
    assert found.models == ("a", "b") and found.objective == -2


def test_an_interval_holds_the_objective() -> None:
    (best,) = search(made(5, 80, 2), top=1, resamples=500)
    assert best.interval is not None
    assert best.interval[0] < best.objective < best.interval[1]


def records(samples: dict[str, list[str]], gold: str) -> Table:
    rows = [
        Row(model=model, qid="q", gold=gold, samples=tuple(Recorded(answer=a) for a in answers))
        for model, answers in samples.items()
    ]
    return table(rows, extractor("number"))


@pytest.mark.parametrize(
    ("correct", "expected"),
    [("mode", True), ("any", True), ("all", False), (2, True), (3, False)],
)
def test_correct_has_the_meaning_that_is_asked_for(correct: object, expected: bool) -> None:
    assert is_correct(["1", "1", "2"], "1", correct) is expected  # type: ignore[arg-type]


def test_consistently_wrong_means_all_samples_agree_on_one_wrong_answer() -> None:
    one = records({"sure": ["2", "2"], "torn": ["2", "3"], "right": ["1", "1"]}, "1")
    known = bits(one, [0])
    assert known.wrong[:, 0].tolist() == [True, False, False]
    assert known.correct[:, 0].tolist() == [False, False, True]


def test_the_objective_is_no_floor_under_the_accuracy() -> None:
    # Union 1 and no contradiction where "any" counts, yet SLM-MUX is wrong.
    samples = {"one": ["2", "2", "1"], "two": ["1", "1", "2"]}
    table_ = records(samples, "1")
    (pair,) = search(bits(table_, [0], "any"), sizes=[2])
    assert (pair.union, pair.contradiction) == (1, 0)
    assert slm_mux(table_.keys_of(0), {"one": 0.6, "two": 0.4}).answer != "1"
