"""Arrival processes and lengths: rate and cv within five standard errors of what they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import InputError
from crosslayer.kinds import RunContext
from crosslayer.pipeline.workload import Workload
from crosslayer.traces import (
    ClosedLoop,
    describe,
    empirical,
    gamma,
    independent,
    lognormal,
    on_off,
    on_off_cv,
    poisson,
    requests_of,
)

N = 100_000
Draw = Callable[[np.random.Generator], NDArray[np.int64]]
PROCESSES: dict[str, tuple[Draw, float]] = {
    "poisson": (lambda rng: poisson(5.0, N, rng), 1.0),
    "gamma, bursts": (lambda rng: gamma(5.0, 2.0, N, rng), 2.0),
    "gamma, regular": (lambda rng: gamma(5.0, 0.3, N, rng), 0.3),
    "on-off": (lambda rng: on_off(5.0, 2.0, 6.0, N, rng), on_off_cv(5.0, 2.0, 6.0)),
    "mostly on": (lambda rng: on_off(5.0, 9.0, 0.5, N, rng), on_off_cv(5.0, 9.0, 0.5)),
}


def standard_error_of_cv(values: NDArray[np.float64]) -> float:
    """Delta method for independent values: cv^2 (cv^2 - skew cv + (kurtosis - 1) / 4) / n."""
    z = (values - values.mean()) / values.std()
    cv, skew, kurtosis = values.std() / values.mean(), (z**3).mean(), (z**4).mean()
    return float(cv * np.sqrt((cv**2 - skew * cv + (kurtosis - 1) / 4) / len(values)))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("seed", [1, 2])
def test_rate_and_cv_of_the_gaps_are_as_asked(name: str, seed: int) -> None:
    draw, cv = PROCESSES[name]
    at = draw(np.random.default_rng(seed))
    assert len(at) == N and (np.diff(at) >= 0).all() and at[0] > 0
    gaps = np.diff(at, prepend=0) / 1e9
    # Gaps are independent, so their mean has the standard error cv / sqrt(n), relative.
    assert gaps.mean() * 5.0 == pytest.approx(1, abs=5 * cv / N**0.5)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=5 * standard_error_of_cv(gaps))
    assert (draw(np.random.default_rng(seed)) == at).all()


def test_a_poisson_process_has_as_much_variance_as_mean_in_every_window() -> None:
    at = poisson(5.0, N, np.random.default_rng(3)) / 1e9
    for window in (0.5, 4.0):
        counts = np.bincount((at // window).astype(int))[:-1]
        # The index of dispersion of k windows has the standard error sqrt(2 / k).
        assert counts.var() / counts.mean() == pytest.approx(1, abs=5 * (2 / len(counts)) ** 0.5)


def test_on_off_agrees_with_a_simulation_of_its_two_states() -> None:
    rng, rate_on, at, gaps = np.random.default_rng(8), 5.0 * 8 / 2, 0.0, []
    on, end = True, rng.exponential(2.0)
    last = 0.0
    while len(gaps) < 20_000:
        step = rng.exponential(1 / rate_on) if on else np.inf
        if at + step < end:
            at += step
            gaps.append(at - last)
            last = at
        else:
            at, on = end, not on
            end = at + rng.exponential(2.0 if on else 6.0)
    plain = np.array(gaps)
    ours = np.diff(on_off(5.0, 2.0, 6.0, 20_000, np.random.default_rng(9)), prepend=0) / 1e9
    # Two samples of one distribution: Kolmogorov and Smirnov's distance at a level of 1e-5.
    both = np.sort(np.concatenate([plain, ours]))
    shares = [np.searchsorted(np.sort(one), both, side="right") / len(one) for one in (plain, ours)]
    assert np.abs(shares[0] - shares[1]).max() < np.sqrt(-np.log(1e-5 / 2) / 20_000)


def test_regular_arrivals_have_equal_gaps_and_no_drift() -> None:
    at = gamma(3.0, 0.0, 1000, np.random.default_rng(0))
    assert (np.diff(at) == 333_333_333).all()
    with pytest.raises(InputError, match="years; raise rate_per_s"):
        poisson(1e-9, 100, np.random.default_rng(0))


def test_lognormal_lengths_have_their_mean_and_cv() -> None:
    values = lognormal(800, 0.7, N, np.random.default_rng(5)).astype(float)
    assert values.mean() == pytest.approx(800, abs=5 * 800 * 0.7 / N**0.5)
    assert values.std() / values.mean() == pytest.approx(0.7, abs=5 * standard_error_of_cv(values))
    assert (lognormal(800, 0, 3, np.random.default_rng(0)) == 800).all()
    assert lognormal(1, 3, 1000, np.random.default_rng(0)).min() == 1


def test_empirical_lengths_keep_prompt_and_output_together() -> None:
    trace = RequestTrace(np.arange(3), np.array([10, 20, 30]), np.array([1, -1, 3]))
    prompts, outputs = empirical(trace)(1000, np.random.default_rng(0))
    assert set(zip(prompts.tolist(), outputs.tolist(), strict=True)) == {(10, 1), (30, 3)}
    with pytest.raises(InputError, match="no call of the trace has a known output length"):
        empirical(RequestTrace(np.arange(1), np.array([10]), np.array([-1])))


def test_a_workload_gives_the_same_requests_for_the_same_seed(tmp_path: Path) -> None:
    workload = Workload(arrivals="gamma", cv=2.0, rate_per_s=4, requests=50, prompt_cv=1.0)
    one, two, other = (
        requests_of(workload, tmp_path, RunContext(seed, tmp_path)) for seed in (1, 1, 2)
    )
    assert isinstance(one, RequestTrace) and isinstance(two, RequestTrace)
    assert isinstance(other, RequestTrace)
    assert list(one) == list(two) != list(other)
    assert len(set(one.prompt_tokens.tolist())) > 10 and set(one.output_tokens.tolist()) == {128}


def test_a_closed_loop_draws_think_times() -> None:
    loop = ClosedLoop.draw(4, 2.0, N, independent(9, 3), np.random.default_rng(1))
    assert loop.think_ns.mean() / 1e9 == pytest.approx(2.0, abs=5 * 2.0 / N**0.5)
    assert [r.session for r in loop.first()] == ["user 0", "user 1", "user 2", "user 3"]
    assert loop.request(7, 2, 100).arrival_ns == 100 + loop.think_ns[7]


def test_statistics_are_those_of_a_trace_worked_out_by_hand() -> None:
    trace = RequestTrace(
        np.array([0, 1, 2, 5]) * 10**9, np.array([10, 20, 30, 40]), np.array([1, -1, 3, 5])
    )
    found = describe(trace)
    # Gaps 1, 1, 3: mean 5/3, variance with n - 1: (4/9 + 4/9 + 16/9) / 2 = 4/3.
    assert (found.requests, found.span_s, found.rate_per_s) == (4, 5.0, 3 / 5)
    assert found.gap_cv == pytest.approx((4 / 3) ** 0.5 / (5 / 3))
    assert found.burstiness == pytest.approx((found.gap_cv - 1) / (found.gap_cv + 1))
    assert found.prompt_tokens and found.prompt_tokens.p50 == 30 and found.prompt_tokens.p99 == 40
    assert found.output_tokens and found.output_tokens.mean == 3 and found.unknown_outputs == 1
    assert found.sessions is None and found.prefix_reuse is None
    alone = describe(RequestTrace(np.array([7]), np.array([1]), np.array([-1])))
    assert (alone.rate_per_s, alone.gap_cv, alone.output_tokens) == (None, None, None)
