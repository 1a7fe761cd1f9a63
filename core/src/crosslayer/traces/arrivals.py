"""When requests arrive: Poisson, gamma, on/off; each gives instants in nanoseconds from 0.

`rate_per_s` is always the long-run mean rate, so that changing the process does not change the
load. Gaps are rounded to nanoseconds one by one, so instants do not drift. The first arrival comes
one gap after 0. The randomness is the caller's generator and nothing else.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.calls import LAST_NS, NANOSECONDS
from crosslayer.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def poisson(rate_per_s: float, requests: int, rng: np.random.Generator) -> Ints:
    """Arrivals of independent requests: exponential gaps, cv 1."""
    return _instants(rng.exponential(1 / rate_per_s, requests))


def gamma(rate_per_s: float, cv: float, requests: int, rng: np.random.Generator) -> Ints:
    """Gaps with a gamma distribution of that coefficient of variation: shape 1/cv^2.

    cv above 1: bursts; below 1: more regular than Poisson; 0: equal gaps.
    """
    if cv == 0:
        return _instants(np.full(requests, 1 / rate_per_s))
    shape = 1 / cv**2
    return _instants(rng.gamma(shape, 1 / (rate_per_s * shape), requests))


def on_off(
    rate_per_s: float, on_s: float, off_s: float, requests: int, rng: np.random.Generator
) -> Ints:
    """Poisson arrivals while on, none while off; periods are exponential with these means.

    The interrupted Poisson process, a Markov-modulated one of two states. While on, the rate is
    rate_per_s (on_s + off_s) / on_s. Gaps are independent of each other; the first begins at an
    arrival. `on_off_cv` is the cv of the gaps.
    """
    if off_s == 0:
        return poisson(rate_per_s, requests, rng)
    rate_on = rate_per_s * (on_s + off_s) / on_s
    # Within a gap the source goes off before the arrival with probability p = w / (w + rate_on),
    # w = 1 / on_s, each time over again: a geometric number of off periods. Each stretch of on time
    # ends with rate w + rate_on.
    end = rate_on + 1 / on_s
    offs = rng.geometric(rate_on / end, requests) - 1
    on_time = rng.gamma(offs + 1, 1 / end)
    off_time = np.where(offs > 0, rng.gamma(np.maximum(offs, 1), off_s), 0.0)
    return _instants(on_time + off_time)


def on_off_cv(rate_per_s: float, on_s: float, off_s: float) -> float:
    """The coefficient of variation of the gaps of `on_off`: cv^2 = 1 + 2 r w / (w + v)^2 with r the
    rate while on, w = 1 / on_s, v = 1 / off_s; it follows from the variance of a geometric sum.
    """
    if off_s == 0:
        return 1.0
    rate_on = rate_per_s * (on_s + off_s) / on_s
    to_off, to_on = 1 / on_s, 1 / off_s
    return math.sqrt(1 + 2 * rate_on * to_off / (to_off + to_on) ** 2)


def _instants(gaps_s: Floats) -> Ints:
    last = float(gaps_s.sum()) * NANOSECONDS
    if last > LAST_NS / 2:
        years = last / NANOSECONDS / 31_557_600
        raise InputError(
            f"arrivals: {len(gaps_s)} requests at this rate take {years:.0f} years;"
            " raise rate_per_s or take fewer requests"
        )
    gaps = np.rint(gaps_s * NANOSECONDS).astype(np.int64)
    instants: Ints = np.cumsum(gaps)
    return instants
