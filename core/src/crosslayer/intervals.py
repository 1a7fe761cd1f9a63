"""Confidence intervals at 95 %: of a mean, of a share, of a difference of two shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.95
Z = 1.959963985  # the normal distribution's 0.975 quantile
# Quantiles of Student's t at 0.975 for 1 to 10 degrees of freedom (any table of the distribution).
_T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def mean_interval(
    values: Sequence[float] | NDArray[Any],
) -> tuple[float, tuple[float, float] | None]:
    """Mean and its 95 % Student t interval; no interval from one value."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = _t_975(count - 1) * math.sqrt(variance / count)
    return mean, (mean - half, mean + half)


def _t_975(freedom: int) -> float:
    """0.975 quantile of Student's t; past the table, Abramowitz & Stegun 26.7.5."""
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    g1 = (Z**3 + Z) / 4
    g2 = (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    g3 = (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384
    return Z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3


def wilson(right: int, of: int, z: float = Z) -> tuple[float, float]:
    """The Wilson score interval of a share (E. B. Wilson, doi:10.1080/01621459.1927.10502953)."""
    share, shrink = right / of, 1 + z * z / of
    centre = (share + z * z / (2 * of)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    # At 0 and 1 the end is exact; rounding must not put it outside.
    return (
        0.0 if right == 0 else max(0.0, centre - half),
        1.0 if right == of else min(1.0, centre + half),
    )


def paired_shares(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of mean(first) - mean(second), values 0 or 1 of the same questions: method
    10 of R. G. Newcombe, doi:10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C.
    """
    pairs, n = Counter(zip(first, second, strict=True)), len(first)
    both, one, other, none = (pairs[pair] for pair in ((1, 1), (1, 0), (0, 1), (0, 0)))
    share, share2 = (both + one) / n, (both + other) / n
    (low, high), (low2, high2) = wilson(both + one, n), wilson(both + other, n)
    product = float(both * none - one * other)
    if product > 0:  # the continuity correction
        product = max(product - n / 2, 0.0)
    margins = (both + one) * (other + none) * (both + other) * (one + none)
    phi = product / math.sqrt(margins) if margins else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    below, above = reach(share - low, high2 - share2), reach(high - share, share2 - low2)
    return share - share2 - below, share - share2 + above
