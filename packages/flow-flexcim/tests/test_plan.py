"""The knapsack against every possible choice, and what it says when there is none."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.contracts.model import Linear
from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError
from flow_flexcim.linears import BlockLinears
from flow_flexcim.plan import Option, Plan, flow_plan, kept_weights, offered, uniform_plan


def block(name: str, *shapes: tuple[int, int]) -> BlockLinears:
    linears = tuple(
        Linear(name=f"l{i}", path=f"{name}.l{i}", outputs=out, inputs=inputs)
        for i, (out, inputs) in enumerate(shapes)
    )
    return BlockLinears(name, linears, (1,) * len(linears))


def patterns(*texts: str) -> list[NMSparsity]:
    return [NMSparsity.parse(text) for text in texts]


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[list[Option]], int, float]:
    """Blocks of different sizes with options of random cost (few values: ties are common)."""
    known = patterns("1:4", "2:4", "3:4", "4:4", "1:8", "3:8", "5:8", "8:16")
    options, weights = [], 0
    for _ in range(draw(st.integers(1, 4))):
        size = 16 * draw(st.integers(1, 5))
        chosen = draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True))
        weights += size
        options.append(
            [
                Option(p, size * p.n // p.m, draw(st.integers(0, 6)) / 8)  # sums of these are exact
                for p in chosen
            ]
        )
    return options, weights, draw(st.integers(1, 19)) / 20


@given(instances())
def test_the_plan_is_as_cheap_as_the_best_of_all_choices(
    instance: tuple[list[list[Option]], int, float],
) -> None:
    options, weights, sparsity = instance
    allowed = weights * (1 - Fraction(str(sparsity)))
    totals = [
        (sum(o.cost for o in choice), sum(o.kept for o in choice))
        for choice in itertools.product(*options)
    ]
    reachable = [total for total in totals if total[1] <= allowed]
    if not reachable:
        with pytest.raises(InputError, match="out of reach"):
            flow_plan(options, weights, sparsity)
        return
    plan = flow_plan(options, weights, sparsity)
    of_plan = [
        next(o for o in block if o.pattern == pattern)
        for block, pattern in zip(options, plan.patterns, strict=True)
    ]
    assert plan.kept == sum(o.kept for o in of_plan)
    # Cheapest, and of the cheapest the sparsest.
    assert (sum(o.cost for o in of_plan), plan.kept) == min(reachable)


def test_a_large_block_weighs_more_than_a_small_one() -> None:
    # 32 weights of 320 kept in the large block reach 0.5 of all; halving the small one does not.
    large, small = 320, 32
    options = [
        [Option(NMSparsity(2, 4), large // 2, 1.0), Option(NMSparsity(4, 4), large, 0.0)],
        [Option(NMSparsity(2, 4), small // 2, 0.1), Option(NMSparsity(4, 4), small, 0.0)],
    ]
    plan = flow_plan(options, large + small, 0.45)
    assert [str(p) for p in plan.patterns] == ["2:4", "4:4"]
    assert plan.sparsity == pytest.approx(160 / 352)


def test_a_target_in_decimals_is_met_exactly_and_not_missed_by_rounding() -> None:
    # 0.7 of 10 leaves 3; in binary floating point 10 * (1 - 0.7) is 3.0000000000000004 or 2.99...
    options = [[Option(NMSparsity(3, 10), 3, 0.0), Option(NMSparsity(2, 10), 2, 5.0)]]
    assert flow_plan(options, 10, 0.7).kept == 3


def test_an_unreachable_target_names_the_two_nearest_reachable_values() -> None:
    options = [
        [Option(NMSparsity(2, 4), 32), Option(NMSparsity(3, 4), 48)],
        [Option(NMSparsity(2, 4), 32), Option(NMSparsity(4, 4), 64)],
    ]
    with pytest.raises(InputError, match=r"sparsity = 0\.7 .* 0\.5 and 0\.375"):
        flow_plan(options, 128, 0.7)


@given(instances(), st.sampled_from([None, 0.0, 0.01, 0.05]))
def test_a_target_out_of_reach_is_told_the_two_shares_that_lie_nearest(
    instance: tuple[list[list[Option]], int, float], tolerance: float | None
) -> None:
    options, weights, sparsity = instance
    kept = {sum(o.kept for o in choice) for choice in itertools.product(*options)}
    shares = sorted(1 - count / weights for count in kept)
    below, above = (
        [share for share in shares if share < sparsity],
        [share for share in shares if share >= sparsity],
    )
    if tolerance is None:
        near = below[-2:] if not above else []
    elif any(abs(share - sparsity) <= tolerance + 1e-9 for share in shares):
        near = []
    else:
        near = below[-1:] + above[:1] if below and above else below[-2:] + above[:2]
    if not near:
        flow_plan(options, weights, sparsity, tolerance)
        return
    with pytest.raises(InputError, match="out of reach") as refused:
        flow_plan(options, weights, sparsity, tolerance)
    said = re.search(
        r"nearest reachable (?:is|are) ([\d.e-]+)(?: and ([\d.e-]+))?;", str(refused.value)
    )
    if near[-1] == 0:
        assert "no block has a candidate that removes weights" in str(refused.value)
        return
    assert said is not None
    assert sorted(said.groups(default="")) == sorted(
        [f"{share:.6g}" for share in near] + [""] * (2 - len(near))
    )


def test_where_every_block_stays_dense_nothing_is_in_reach() -> None:
    frozen = [[Option(NMSparsity(1, 1), 64)], [Option(NMSparsity(1, 1), 32)]]
    with pytest.raises(InputError, match="removes weights; add sparser candidates, or leave fewer"):
        flow_plan(frozen, 96, 0.5)


def test_many_blocks_of_one_size_are_planned_in_the_grid_of_their_patterns() -> None:
    # A convex cost: the best plan of equal blocks is as level as the target allows.
    known = [NMSparsity(n, 16) for n in range(1, 17)]
    options = [
        [Option(p, 1600 * p.n // 16, float((16 - p.n) ** 2)) for p in known] for _ in range(80)
    ]
    plan = flow_plan(options, 80 * 1600, 0.53125)  # between 7:16 and 8:16
    assert sorted({p.n for p in plan.patterns}) == [7, 8]
    assert [p.n for p in plan.patterns].count(7) == 40


def test_the_uniform_plan_takes_the_densest_pattern_that_reaches_the_target() -> None:
    blocks = [block("a", (32, 64)), block("b", (16, 48))]
    plan = uniform_plan(blocks, patterns("2:4", "3:8", "7:16", "8:16", "4:8"), 0.5)
    assert plan.patterns == (NMSparsity(8, 16),) * 2  # of 2:4, 4:8, 8:16 the largest M
    assert uniform_plan(blocks, patterns("2:4", "1:4"), 0.51).sparsity == 0.75


def test_a_uniform_plan_offers_only_what_fits_every_block() -> None:
    blocks = [block("a", (32, 64)), block("b", (16, 24))]  # 16 does not divide 24
    assert uniform_plan(blocks, patterns("8:16", "4:8"), 0.5).patterns[0] == NMSparsity(4, 8)
    with pytest.raises(InputError, match="none of the candidates 8:16 divides"):
        uniform_plan(blocks, patterns("8:16"), 0.5)
    with pytest.raises(InputError, match=r"0\.5 .*out of reach.*0\.25"):
        uniform_plan(blocks, patterns("3:4"), 0.5)
    blocks = [block("a", (32, 36)), block("b", (16, 50))]
    with pytest.raises(InputError, match="fits the inputs of all 2 blocks"):
        uniform_plan(blocks, patterns("2:4", "1:2", "5:10")[::2], 0.5)


def test_a_candidate_is_offered_where_its_m_divides_every_linear() -> None:
    mixed = block("a", (8, 64), (8, 24))
    assert offered(mixed, patterns("2:4", "4:8", "8:16", "16:16")) == (
        *patterns("2:4", "4:8"),
        NMSparsity(16, 16),  # dense fits anything
    )
    assert kept_weights(mixed, NMSparsity(3, 8)) == 8 * (24 + 9)
    with pytest.raises(InputError, match=r"block odd: .* inputs \[7\]"):
        offered(block("odd", (8, 7)), patterns("2:4"))


def test_the_achieved_sparsity_counts_weights() -> None:
    assert Plan((NMSparsity(1, 4),), 30, 120).sparsity == 0.75
