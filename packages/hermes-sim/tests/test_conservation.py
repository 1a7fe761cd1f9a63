"""Nothing is lost: tokens, time, blocks, calls; and what queueing theory says holds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from conftest import STEPS, poisson_trace, trace_of
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_sim.batching import SCHEDULERS, Batching, batching
from hermes_sim.replay import replay
from hermes_sim.step_models.protocol import Linear


@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), rate=st.sampled_from([2, 20, 200]),
       blocks=st.integers(30, 200), clients=st.integers(1, 3))  # fmt: skip
def test_every_call_ends_once_with_all_its_tokens_and_all_its_time(
    name, seed, rate, blocks, clients
):
    trace = poisson_trace(25, rate, seed, prompt=100, output=20)
    found = replay(
        trace, STEPS, batching(name, 8, None if name in ("static", "mixed") else 64),
        kv_blocks=blocks, block_tokens=8, clients=clients,
    )  # fmt: skip
    calls = found.calls
    assert calls["row"].tolist() == list(range(25))
    assert calls["output_tokens"].tolist() == trace.output_tokens.tolist()
    parts = sum(calls.breakdown_ns().values())
    np.testing.assert_array_equal(parts, calls["last_ns"] - calls["arrival_ns"])
    order = [calls[name] for name in ("arrival_ns", "started_ns", "first_ns", "last_ns")]
    assert all((a <= b).all() for a, b in pairwise(order))
    for client in found.clients:
        assert client.blocks.free == client.blocks.total
        assert not client.running and not client.waiting and not client.queued_tokens
        assert client.decodes.n == 0 and not any(client.decodes.phases)


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000))
def test_littles_law_holds_on_every_run(seed):
    calls = replay(poisson_trace(60, 20, seed), STEPS, batching("vllm_v1"), kv_blocks=300).calls
    rate = len(calls) / calls.span_s
    assert calls.mean_in_system() == pytest.approx(rate * calls.e2e_s.mean(), rel=1e-9)


@settings(max_examples=12)
@given(k=st.sampled_from([2, 8, 1024]), seed=st.integers(0, 1000))
def test_a_machine_k_times_as_fast_under_k_times_the_load_has_latencies_k_times_as_short(k, seed):
    # Powers of two: an exact division, so that nothing but the rounding to nanoseconds differs.
    slow = Linear(*(2.0**-4, 2.0**-12, 0.0, 2.0**-9, 2.0**-20))
    fast = Linear(*(x / k for x in (2.0**-4, 2.0**-12, 0.0, 2.0**-9, 2.0**-20)))
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.integers(1, 1000, 40)) * 1.024e-3
    lengths = rng.integers(1, 200, 40), rng.integers(1, 30, 40)
    rules = batching("vllm_v1", 8)
    one = replay(trace_of(at, *lengths), slow, rules, kv_blocks=100).calls
    two = replay(trace_of(at / k, *lengths), fast, rules, kv_blocks=100).calls
    nanosecond = 60 * 40 * k * 1e-9  # each of the steps is rounded
    np.testing.assert_allclose(one.e2e_s, two.e2e_s * k, rtol=1e-9, atol=nanosecond)


def test_equal_arrivals_are_served_in_the_order_of_the_trace():
    calls = replay(trace_of([0] * 5, [8] * 5, [3] * 5), STEPS, batching("continuous", 1)).calls
    assert (np.diff(calls["started_ns"]) > 0).all()


def test_a_call_that_can_never_fit_fails_at_once_and_the_others_go_on():
    found = replay(
        trace_of([0, 0.01, 0.02], [8, 500, 8], [4, 4, 4]), STEPS, batching("vllm_v1"),
        kv_blocks=5, block_tokens=8,
    )  # fmt: skip
    assert found.calls["status"].tolist() == [0, 1, 0]
    assert found.calls["last_ns"][1] == found.calls["arrival_ns"][1]


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), name=st.sampled_from(SCHEDULERS))
def test_a_cache_that_holds_one_call_only_serves_all_without_spinning(seed, name):
    trace = poisson_trace(12, 100, seed, prompt=20, output=20)
    most = int(max(-(-(trace.prompt_tokens + trace.output_tokens) // 4)))
    found = replay(trace, STEPS, batching(name, 8), kv_blocks=most, block_tokens=4)
    assert (found.calls["status"] == 0).all()
    made = int((trace.prompt_tokens + trace.output_tokens).sum())
    assert found.tape.iterations < 100 * made


def test_preempted_calls_compute_their_generated_tokens_again():
    found = replay(
        trace_of([0, 0], [15, 15], [40, 40]), STEPS, batching("chunked", 8, 64), kv_blocks=7,
        block_tokens=8,
    )  # fmt: skip
    assert found.preemptions > 0
    again = found.calls["recomputed_tokens"]
    assert again[1] > 15 and again[0] == 0


# Queues whose means are known. One iteration serves one call where output_tokens = 1, so service
# times are what the step model says of the prompt.


def service(rho, seconds, count, seed, rules, clients=1, prompts=None):
    rng = np.random.default_rng(seed)
    rate = rho * clients / seconds
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    if prompts is None:
        prompts = np.maximum(1, np.rint(rng.exponential(1e5, count))).astype(int)
    model = Linear(prompt_token_s=seconds / 1e5)
    return replay(trace_of(arrivals, prompts, np.ones(count, int)), model, rules).calls


def batch_means(values, batches=20):
    """Mean, and the half width of its 99.9 % interval by batch means (Student t, 19 degrees)."""
    means = np.array([part.mean() for part in np.array_split(values, batches)])
    return means.mean(), 3.88 * means.std(ddof=1) / np.sqrt(batches)


ALONE = Batching("one at a time", max_calls=1)


@settings(max_examples=4)
@given(rho=st.floats(0.2, 0.7), seed=st.integers(0, 10_000))
def test_m_m_1_waits_as_theory_says(rho, seed):
    waits = service(rho, 0.01, 8_000, seed, ALONE).queue_s
    mean, half = batch_means(waits)
    assert abs(mean - rho / (1 - rho) * 0.01) < half + 2e-4


@settings(max_examples=4)
@given(rho=st.floats(0.3, 0.8), urgent=st.floats(0.2, 0.6), seed=st.integers(0, 10_000))
def test_two_priorities_wait_as_cobham_says(rho, urgent, seed):
    """Non-preemptive M/G/1: W_1 = R / (1 - rho_1), W_2 = R / ((1 - rho_1) (1 - rho)), where R is
    half the rate times the second moment of service (A. Cobham, Oper. Res. 2, 1954)."""
    rng = np.random.default_rng(seed)
    count, seconds = 12_000, 0.01
    arrivals = np.cumsum(rng.exponential(seconds / rho, count))
    prompts = np.maximum(1, np.rint(rng.exponential(1e5, count))).astype(int)
    late = rng.random(count) >= urgent
    rules = Batching("one at a time", max_calls=1, queue="priority")
    model = Linear(prompt_token_s=seconds / 1e5)
    trace = trace_of(arrivals, prompts, np.ones(count, int))
    waits = replay(trace, model, rules, ranks=late.astype(int).tolist()).calls.queue_s
    rest = rho * seconds  # of the service that is going on
    first = rest / (1 - urgent * rho)
    for mine, wanted in ((waits[~late], first), (waits[late], first / (1 - rho))):
        mean, half = batch_means(mine)
        assert abs(mean - wanted) < half + 0.03 * wanted


@settings(max_examples=4)
@given(rho=st.floats(0.2, 0.7), seed=st.integers(0, 10_000))
def test_m_d_1_waits_half_as_long(rho, seed):
    prompts = np.full(8_000, 100_000)
    waits = service(rho, 0.01, 8_000, seed, ALONE, prompts=prompts).queue_s
    mean, half = batch_means(waits)
    assert abs(mean - rho / (2 * (1 - rho)) * 0.01) < half + 1e-4


@settings(max_examples=4)
@given(rate=st.floats(20, 400), seed=st.integers(0, 10_000))
def test_a_batch_server_without_limit_takes_all_who_wait(rate, seed):
    """M/D^[1,inf]/1 with fixed time D a batch: the state at begins is Poisson-fed, so the mean wait
    follows from the batch that forms during D: E[L] over cycles of D with rate r."""
    count, D = 8000, 0.01
    rng = np.random.default_rng(seed)
    trace = trace_of(
        np.cumsum(rng.exponential(1 / rate, count)), np.ones(count, int), np.ones(count, int)
    )
    rules = Batching("all who wait", max_calls=1 << 20)
    found = replay(trace, Linear(fixed_s=D), rules).calls
    # Arrivals during a busy period of D wait for its rest, D/2 in the mean; those that find an idle
    # server do not wait. Busy cycles end with nobody: p0 = exp(-rD) after each service.
    p0 = np.exp(-rate * D)
    cycle = D / p0 + 1 / rate  # a busy period of geometric(p0) services, then an idle one
    wait = (D / p0) / cycle * D / 2
    mean, half = batch_means(found.queue_s)
    assert abs(mean - wait) < half + 2e-5


@settings(max_examples=4)
@given(rho=st.floats(0.2, 0.6), seed=st.integers(0, 10_000))
def test_decoding_in_small_steps_shares_the_processor(rho, seed):
    """M/M/1-PS: a call of S seconds alone stays S / (1 - rho) in the mean. Here every iteration
    gives each decoding call one token and takes as long as their number."""
    rng = np.random.default_rng(seed)
    count, token = 4000, 1e-4
    outputs = 2 + rng.geometric(1 / 100, count)
    rate = rho / (token * 102)
    trace = trace_of(np.cumsum(rng.exponential(1 / rate, count)), np.ones(count, int), outputs)
    rules = Batching("share", max_calls=1 << 20)
    model = Linear(decode_s=token, prompt_token_s=token)
    calls = replay(trace, model, rules).calls
    slow = calls.e2e_s / (outputs * token)
    mean, half = batch_means(calls.e2e_s)
    wanted = token * 102 / (1 - rho)
    assert abs(mean - wanted) < half + 0.03 * wanted
    assert slow.min() >= 1 - 1e-6
