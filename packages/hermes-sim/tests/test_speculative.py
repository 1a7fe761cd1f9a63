"""Speculative decoding: expected tokens a step, and what they are worth."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from conftest import outcome_of, poisson_trace, tiny_instance, tiny_stack, trace_of
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.errors import InputError
from hermes_sim.batching import batching
from hermes_sim.replay import replay
from hermes_sim.simulator import Hermes, HermesParams
from hermes_sim.step_models.protocol import Linear
from hermes_sim.step_models.speculative import Speculative, tokens_a_step

# A check of k + 1 tokens reads no more weights than one of them: only the fixed part counts.
FIXED = Linear(fixed_s=8e-3, prompt_token_s=1e-5)


@given(st.integers(1, 12), st.integers(0, 100))
def test_the_expected_tokens_are_those_of_all_outcomes(drafted, percent):
    a = Fraction(percent, 100)
    ways = [(made + 1) * a**made * (1 - a) for made in range(drafted)]
    expected = sum(ways) + (drafted + 1) * a**drafted
    assert tokens_a_step(drafted, float(a)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(("acceptance", "share"), [(0.0, 0.2), (0.7, 0.1), (1.0, 0.0)])
def test_a_token_takes_a_step_by_the_expected_tokens(acceptance, share):
    model = Speculative(FIXED, 4, acceptance, share)
    found = replay(trace_of([0], [100], [200]), model, batching("chunked"))
    step = 8e-3 + 5 * 1e-5 + 4 * share * 8e-3  # the check of five tokens, and four drafts
    expected = sum(acceptance**i for i in range(5))
    (tpot,) = found.calls.tpot_s
    assert tpot == pytest.approx(step / expected, rel=1e-6)
    assert found.calls["output_tokens"].tolist() == [200]


def test_a_draft_that_is_never_accepted_only_costs_and_one_that_is_helps_few_calls_most():
    stack = tiny_stack()
    spec = {"tokens": 3, "draft_share": 0.05}
    for count, gain in ((1, 2.0), (64, 1.0)):
        trace = trace_of([0.0] * count, [50] * count, [60] * count)
        plain, _ = outcome_of(stack, trace)
        good, _ = outcome_of(stack, trace, speculation=spec | {"acceptance": 0.9})
        bad, _ = outcome_of(stack, trace, speculation=spec | {"acceptance": 0.0})
        tpots = [one.latencies()["tpot"].mean() for one in (plain, good, bad)]
        assert tpots[1] * gain < tpots[0] < tpots[2]


def test_prompts_are_paid_in_full_beside_it_and_nothing_is_lost():
    trace = poisson_trace(60, 3000)
    spec = {"tokens": 2, "acceptance": 0.8}
    ends = []
    for ahead in (True, False):
        outcome, cluster = outcome_of(tiny_stack(), trace, speculation=spec, run_ahead=ahead)
        np.testing.assert_array_equal(
            sum(outcome.breakdown.values()), outcome.last_ns - outcome.arrival_ns
        )
        assert outcome.output_tokens.tolist() == trace.output_tokens.tolist()
        assert all(client.blocks.free == client.blocks.total for client in cluster.clients)
        ends.append(outcome.last_ns)
    np.testing.assert_array_equal(*ends)
    model = Speculative(FIXED, 2, 0.5, 0.0)
    alone, beside = (model.mixed(p, 4, 4, 400, list)[0] for p in ([], [(300, 0)]))
    assert beside - alone == pytest.approx(300 * 1e-5, rel=1e-9)


def test_the_report_says_what_was_assumed_and_stages_with_drafts_are_refused(context):
    params = HermesParams.model_validate({"speculation": {"tokens": 3, "acceptance": 0.5}})
    report = Hermes(params).simulate(tiny_stack(), poisson_trace(5, 100), context)
    assert any("1.875 tokens a step" in note for note in report.notes)
    stack = tiny_stack(tiny_instance(devices=2, pipeline_parallel=2))
    with pytest.raises(InputError, match="2 pipeline stages"):
        Hermes(params).simulate(stack, poisson_trace(5, 100), context)
