"""The knapsack against HiGHS, an independent solver of integer programmes."""

from __future__ import annotations

from fractions import Fraction

import highspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError
from flow_flexcim.plan import Option, flow_plan

PATTERNS = [NMSparsity(n, 8) for n in range(1, 9)] + [NMSparsity(n, 16) for n in (3, 5, 9)]
UNIT = 16


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[list[Option]], int, float, float | None]:
    options, weights = [], 0
    for _ in range(draw(st.integers(2, 8))):
        size = UNIT * draw(st.integers(1, 6))
        chosen = draw(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=6, unique=True))
        costs = draw(st.lists(st.integers(0, 99), min_size=len(chosen), max_size=len(chosen)))
        pairs = zip(chosen, costs, strict=True)
        options.append([Option(p, size * p.n // p.m, float(cost)) for p, cost in pairs])
        weights += size
    tolerance = draw(st.sampled_from([None, 0.0, 0.02, 0.1]))
    return options, weights, draw(st.integers(4, 18)) / 20, tolerance


def by_highs(
    options: list[list[Option]], weights: int, sparsity: float, tolerance: float | None
) -> float | None:
    """The optimal cost of the integer programme, None where it has no solution."""
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    picks = [[model.addBinary(obj=option.cost) for option in block] for block in options]
    for block in picks:
        model.addConstr(sum(block[1:], block[0]) == 1)
    kept = sum(
        option.kept * pick
        for block, mine in zip(options, picks, strict=True)
        for option, pick in zip(block, mine, strict=True)
    )
    target = weights * (1 - Fraction(repr(sparsity)))
    slack = weights * Fraction(repr(tolerance or 0.0))
    model.addConstr(kept <= float(target + slack) + 1e-6)
    if tolerance is not None:
        model.addConstr(kept >= float(target - slack) - 1e-6)
    model.run()
    if model.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return float(model.getInfo().objective_function_value)


@given(instances())
@settings(max_examples=40, deadline=None)
def test_the_plan_costs_what_the_integer_programme_says(
    instance: tuple[list[list[Option]], int, float, float | None],
) -> None:
    options, weights, sparsity, tolerance = instance
    expected = by_highs(options, weights, sparsity, tolerance)
    if expected is None:
        with pytest.raises(InputError, match="out of reach"):
            flow_plan(options, weights, sparsity, tolerance)
        return
    plan = flow_plan(options, weights, sparsity, tolerance)
    cost = sum(
        next(o.cost for o in block if o.pattern == p)
        for block, p in zip(options, plan.patterns, strict=True)
    )
    assert cost == pytest.approx(expected)
    if tolerance is not None:
        assert abs(plan.sparsity - sparsity) <= tolerance + 1e-12
