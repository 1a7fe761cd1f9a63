"""Scaling, ablations and attribution on records worked by hand."""

from __future__ import annotations

import pytest

from slm_mux.ablations import attribution, raw, reliability, variants
from slm_mux.extract import extractor
from slm_mux.records import Recorded, Row, Table, table
from slm_mux.replay import MUX, replay
from slm_mux.scale import more_models, more_samples, objective_against_accuracy, subsets


def made(answers: dict[str, list[str]], questions: int = 20, gold: str = "1") -> Table:
    rows = [
        Row(model=model, qid=str(q), gold=gold, samples=tuple(Recorded(text=a) for a in said))
        for q in range(questions)
        for model, said in answers.items()
    ]
    return table(rows, extractor("number"))


def test_an_unparsed_sample_is_no_confidence_unless_that_is_what_is_studied() -> None:
    held = made({"mute": ["2", "hm", "hm"], "good": ["1", "1", "3"]})
    outcome = replay(held, 3, range(3), extra=variants())
    assert outcome.accuracy(MUX) == 1
    assert outcome.accuracy("confidence over parsed samples") == 0


def test_ties_by_order_follow_the_list_and_not_the_accuracies() -> None:
    held = made({"wrong": ["2", "2"], "right": ["1", "1"]})
    outcome = replay(held, 2, range(3), extra=variants())
    assert outcome.accuracy(MUX) == 1
    assert outcome.accuracy("ties by order") == 0


def test_answers_as_written_are_told_apart() -> None:
    held = made({"m": ["1.0", "1.00", "01", "2"]}, gold="1")
    assert replay(held, 4, [0]).accuracy(MUX) == 1
    assert replay(raw(held), 4, [0]).accuracy(MUX) == 0


def test_reliability_counts_every_question_once() -> None:
    held = made({"m": ["1", "1", "2", "2"]}, questions=10)
    (rows,) = reliability(held, 4).values()
    assert [n for _, n, _ in rows] == [0, 0, 10, 0, 0]


def test_whose_answer_was_taken_sums_to_one() -> None:
    held = made({"a": ["1", "1"], "b": ["2", "3"]})
    shares = attribution(held, 2, range(2))
    assert shares["a"] == 1 and sum(shares.values()) == pytest.approx(1)
    agreed = attribution(made({"a": ["1"], "b": ["1"]}), 1, [0])
    assert agreed["no disagreement"] == 1


def test_more_models_and_more_samples_end_where_everything_is_used() -> None:
    held = made({"a": ["1", "1", "2"], "b": ["2", "3", "1"]})
    models, samples = more_models(held, 3, range(2)), more_samples(held, [1, 3], range(2))
    assert [step.label for step in models] == ["1 model", "2 models"]
    assert models[-1].accuracy == samples[-1].accuracy
    assert all(step.union >= step.accuracy for step in (*models, *samples))


def test_the_objective_is_compared_with_what_subsets_reach() -> None:
    held = made({"good": ["1", "1"], "bad": ["2", "2"], "mute": ["hm", "hm"]})
    curve = objective_against_accuracy(held, 2, range(2), (0.0, 1.0))
    rank, reached = curve[1.0]
    assert reached == 1 and 0 < rank <= 1


def test_subsets_are_searched_on_as_many_samples_as_are_asked() -> None:
    held = made({"a": ["2", "1"], "b": ["1", "1"]})  # "a" is surely wrong where one is drawn
    one, two = (subsets(held, k, range(5), (0.0, 1.0)) for k in (1, 2))
    assert (one.objective[0.0][:, one.models.index(("a", "b"))] == 1).all()
    assert (one.objective[1.0][:, one.models.index(("a", "b"))] < 1).all()
    assert (two.objective[1.0][:, two.models.index(("a", "b"))] == 1).all()
