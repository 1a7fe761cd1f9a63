"""The ladder, the budget rule and the choice of tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinkv.kmeans import representatives
from thinkv.thoughts import Rules, Shrink, Thought, Timeline

R, E, T = Thought.REASONING, Thought.EXECUTION, Thought.TRANSITION


def run(labels: str, **rules: object) -> Timeline:
    """A timeline whose segments have these labels; the first letter is the first segment's."""
    types = {t.letter: t for t in Thought}
    timeline = Timeline(Rules(**rules), first=types[labels[0]])  # type: ignore[arg-type]
    for letter in labels[1:]:
        timeline.add(timeline.room)
        timeline.open(types[letter])
    return timeline


@pytest.mark.parametrize(
    ("transitions", "kept"), [(0, 128), (1, 64), (2, 32), (3, 16), (4, 8), (5, 4), (7, 4)]
)
def test_each_transition_lowers_a_segment_by_one_rung_and_never_below_the_last(
    transitions: int, kept: int
) -> None:
    timeline = run("R" + "RT" * transitions + "R", budget_tokens=None)
    assert timeline.segments[0].alive == kept


def test_a_transition_lowers_every_segment_before_it_and_not_itself() -> None:
    timeline = run("RET", budget_tokens=None)
    timeline.add(10)
    assert [s.alive for s in timeline.segments] == [64, 64, 10]


@pytest.mark.parametrize(
    ("trigger", "kept"),
    [
        ("segment", [16, 32, 64, 128, 0]),
        ("entry", [64, 128, 128, 128, 0]),
        ("end", [64, 64, 64, 64, 0]),
    ],
)
def test_when_a_run_of_transitions_shrinks_is_a_choice(trigger: str, kept: list[int]) -> None:
    timeline = run("RTTTR", budget_tokens=None, trigger=trigger)
    assert [s.alive for s in timeline.segments] == kept


def test_over_budget_the_oldest_of_the_least_important_segments_goes_first() -> None:
    timeline = run("RETETR", budget_tokens=None, trigger="end")
    assert [s.alive for s in timeline.segments] == [32, 32, 32, 64, 64, 0]
    timeline.rules = Rules(budget_tokens=150, trigger="end")
    # The older T down to 4, then the younger one from 64 to 32 and 16: 224 - 28 - 48 = 148.
    assert timeline.fit() == [Shrink(256, 4), Shrink(512, 16)]
    assert [s.alive for s in timeline.segments] == [32, 32, 4, 64, 16, 0]


def test_a_budget_below_the_floor_is_not_reached_and_the_floor_is_told() -> None:
    rules = Rules(budget_tokens=20)
    timeline = Timeline(rules)
    for _ in range(10):
        timeline.add(128)
        timeline.open(R)
        timeline.fit()
    timeline.add(50)
    assert timeline.unreachable()
    assert timeline.alive == rules.floor(timeline.generated) == 10 * 4 + 50


@given(
    st.lists(st.sampled_from("RET"), min_size=2, max_size=60),
    st.integers(1, 2000),
    st.sampled_from(["segment", "entry", "end"]),
)
def test_no_segment_falls_below_four_and_the_budget_holds_above_the_floor(
    labels: list[str], budget: int, trigger: str
) -> None:
    types = {t.letter: t for t in Thought}
    rules = Rules(budget_tokens=budget, trigger=trigger)  # type: ignore[arg-type]
    timeline = Timeline(rules)
    for letter in labels:
        for _ in range(8):
            timeline.add(16)
            before = [s.alive for s in timeline.segments]
            timeline.fit()
            after = [s.alive for s in timeline.segments]
            assert all(b >= a for b, a in zip(before, after, strict=True))
        assert all(s.alive >= 4 for s in timeline.segments)
        assert timeline.alive <= max(budget, rules.floor(timeline.generated))
        timeline.open(types[letter])


@given(st.integers(0, 9999), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_exactly_the_asked_number_of_different_tokens_is_chosen_whatever_the_keys(
    seed: int, n: int, count: int, duplicates: bool
) -> None:
    keys = torch.randn(2, n, 6, generator=torch.Generator().manual_seed(seed))
    if duplicates:
        keys = keys.round() * 0 + keys[:, :1]
    chosen = representatives(keys, count)
    again = representatives(keys.clone(), count)
    assert torch.equal(chosen, again)
    for row in chosen.tolist():
        assert row == sorted(set(row)) and len(row) == min(count, n)


def test_each_well_separated_cluster_keeps_the_token_nearest_its_centre() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    around = torch.tensor([[0.0, 0.1], [1.0, 0.0], [-1.0, -0.1]])
    keys = (centres[:, None] + around).flatten(0, 1)[None]
    assert representatives(keys, 3).tolist() == [[0, 3, 6]]
    together = representatives(torch.cat([keys, keys.flip(1)]), 3)
    assert together.tolist() == [[0, 3, 6], [2, 5, 8]]
