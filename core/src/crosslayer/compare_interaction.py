"""Two techniques, alone and together: do their gains survive each other?

Four runs: neither, a, b, both. Differences add up where both = a + b - neither; factors multiply
where both = a * b / neither, which says that the logarithms add up. What the runs show beyond that
is the interaction: (both - b) - (a - neither), or the ratio of ratios (both / b) / (a / neither).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crosslayer.compare_inputs import Factor
from crosslayer.compare_samples import Interval, Scale, Term, interval, samples_of, signed_sum
from crosslayer.contracts.report import Metric, Provenance
from crosslayer.render.values import format_ratio, format_value
from crosslayer.results import Run

SIGNS = (1, -1, -1, 1)  # of neither, a, b, both
# Without an interval, an interaction below this share of the effects is called none.
NEGLIGIBLE = 0.01
_SAME = 1e-9  # relative: sums of the same terms in another order
# Units in which a value may be negative or has no ratio that means something: differences add up.
_ADDITIVE = ("", "1", "share", "fraction", "%", "nat/token")
Verdict = Literal["unchanged", "none", "none beyond the interval", "less", "more", "no comparison"]


@dataclass(frozen=True)
class Interaction:
    """One metric over the four runs.

    values: of neither, a, b, both. effects: a alone, b alone, both; ratios: the same as factors,
    for positive metrics. scale: on which the verdict and `expected` are: factors for times, sizes,
    energies, perplexity, else differences. verdict: whether both is worse (less) or better (more)
    than what the effects alone add up to; without a better direction, smaller or larger.
    """

    metric: str
    unit: str
    provenance: Provenance | None
    scale: Literal["factors", "differences"]
    values: tuple[float, ...]
    effects: tuple[float, ...]
    ratios: tuple[float, ...] | None
    expected: float | None
    interaction: float | None
    interaction_interval: Interval | None
    ratio_of_ratios: float | None
    ratio_interval: Interval | None
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class InteractionTable:
    """What two factors do to every metric that all four runs have. runs: their names."""

    a: Factor
    b: Factor
    runs: tuple[str, str, str, str]
    rows: tuple[Interaction, ...]


def interaction_table(
    a: Factor, b: Factor, runs: Sequence[Run], names: Sequence[str]
) -> InteractionTable:
    """Of the runs neither, a, b and both, called `names`: each metric that all of them have."""
    called = (a.name, b.name)
    rows = [
        _interaction(runs, [run.metrics[name] for run in runs], called)
        for name in runs[0].metrics
        if all(name in run.metrics for run in runs)
    ]
    one, two, three, four = names
    return InteractionTable(a, b, (one, two, three, four), tuple(rows))


def _interaction(
    runs: Sequence[Run], metrics: Sequence[Metric], called: tuple[str, str]
) -> Interaction:
    first = metrics[0]
    values = tuple(metric.value for metric in metrics)
    factors = ratio_like(first, values)
    scale: Literal["factors", "differences"] = "factors" if factors else "differences"
    refused = incomparable(metrics)
    if refused:
        nothing = (None, None, None, None, None)
        unit, provenance = first.unit, None
        return Interaction(
            *(first.name, unit, provenance, scale, values, (), None, *nothing),
            verdict="no comparison",
            sentence=refused,
        )
    terms = [
        Term(sign, metric, samples_of(run, metric))
        for sign, run, metric in zip(SIGNS, runs, metrics, strict=True)
    ]
    neither, a, b, both = values
    log = interval(terms, "log") if factors else None
    difference = interval(terms, "difference")
    expected = a * b / neither if factors else a + b - neither
    verdict, sentence = _judge(
        first, values, expected, "log" if factors else "difference",
        log if factors else difference, called,
    )  # fmt: skip
    return Interaction(
        metric=first.name,
        unit=first.unit,
        provenance=first.provenance,
        scale=scale,
        values=values,
        effects=(a - neither, b - neither, both - neither),
        ratios=(a / neither, b / neither, both / neither) if factors else None,
        expected=expected,
        interaction=signed_sum(terms, "difference"),
        interaction_interval=difference,
        ratio_of_ratios=math.exp(signed_sum(terms, "log")) if factors else None,
        ratio_interval=log and log.exp(),
        verdict=verdict,
        sentence=sentence,
    )


def incomparable(metrics: Sequence[Metric]) -> str:
    """Why metrics of one name are no comparison; "" if they are."""
    kinds = dict.fromkeys(metric.provenance for metric in metrics)
    if len(kinds) > 1:
        return f"not a comparison: {' against '.join(kinds)}"
    units = dict.fromkeys(metric.unit or "no unit" for metric in metrics)
    if len(units) > 1:
        return f"not a comparison: {' against '.join(units)}"
    return ""


def ratio_like(metric: Metric, values: Sequence[float]) -> bool:
    """Whether factors say more of a metric than differences: of a time, say, not of a share."""
    if min(values) <= 0:
        return False
    return metric.unit not in _ADDITIVE or "perplexity" in metric.name


def _judge(
    metric: Metric,
    values: tuple[float, ...],
    expected: float,
    scale: Scale,
    found: Interval | None,
    called: tuple[str, str],
) -> tuple[Verdict, str]:
    """What the four values say, as a verdict and a sentence."""
    neither, a, b, both = values
    if all(_same(value, neither) for value in values):
        return "unchanged", "neither changes it"
    direction = -1.0 if metric.better == "lower" else 1.0
    # Effects so that a gain is positive; a metric without a better direction gains upwards.
    alone_a, alone_b, together = (
        0.0 if _same(value, neither) else direction * (value - neither) for value in (a, b, both)
    )
    over = direction * (both - expected)
    wanted = abs(expected - neither)
    largest = max(abs(a - neither), abs(b - neither), wanted, abs(both - neither))
    missed, sum_of = (amount(abs(value), metric.unit) for value in (over, wanted))
    # An interval of no width holds 0 though the sum's last digits do not.
    around = _SAME * (1.0 if scale == "log" else max(map(abs, values)))
    if found is not None and found.low <= around and found.high >= -around:
        return (
            "none beyond the interval",
            f"no interaction beyond the interval{_range(found, scale)}",
        )
    if found is None and abs(over) <= NEGLIGIBLE * largest:
        return "none", _adds_up((alone_a, alone_b), values, metric, scale, called)
    noise = ""
    if found is None and metric.provenance in ("measured", "recorded"):
        noise = "; there is no interval, so this may be chance"
    if metric.better is None:
        word = "more" if over > 0 else "less"
        sentence = f"together {missed} {word} than the effects add up to"
    elif not alone_a and not alone_b:
        what = "gain" if together > 0 else "cost"
        sentence = f"{what} only together: {missed}, and each alone changes nothing"
    elif alone_a >= 0 and alone_b >= 0:
        sentence = _gains(over, together, max(alone_a, alone_b), missed, sum_of)
    elif alone_a <= 0 and alone_b <= 0:
        sentence = f"costs overlap: {missed} of {sum_of} saved"
        if over < 0:
            sentence = f"costs compound: {missed} on top of the {sum_of} that they add up to"
    else:
        word = "better" if over > 0 else "worse"
        sentence = f"together {missed} {word} than the gain and the cost add up to"
    return ("more" if over > 0 else "less"), sentence + noise


def _gains(over: float, together: float, best: float, missed: str, sum_of: str) -> str:
    if over > 0:
        return f"gains reinforce each other: {missed} on top of the {sum_of} that they add up to"
    if together <= 0:
        return f"gains cancel: together no gain, where they add up to {sum_of}"
    sentence = f"gains overlap: {missed} of {sum_of} lost"
    return f"{sentence}, together less than the better one alone" if together < best else sentence


def _adds_up(
    alone: tuple[float, float],
    values: tuple[float, ...],
    metric: Metric,
    scale: Scale,
    called: tuple[str, str],
) -> str:
    neither, a, b, both = values
    alone_a, alone_b = alone
    if not alone_a or not alone_b:
        which, other = called if alone_a else (called[1], called[0])
        return f"only {which} changes it, with or without {other}"
    what = "effects"
    if metric.better is not None and alone_a * alone_b > 0:
        what = "gains" if alone_a > 0 else "costs"
    if scale == "difference":
        return f"{what} add up"
    shown = [format_ratio(value / neither) for value in (a, b, both)]
    return f"{what} add up: as factors, {shown[0]} times {shown[1]} is {shown[2]}"


def _range(found: Interval, scale: Scale) -> str:
    """How large the interaction may still be."""
    ratio = found.exp() if scale == "log" else None
    if ratio is None:
        return ""
    return f": together {format_ratio(ratio.low)} to {format_ratio(ratio.high)} of the product"


def amount(value: float, unit: str) -> str:
    """A difference as text; that of two shares is in points, not in per cent of anything."""
    text = format_value(value, unit)
    return f"{text.removesuffix(' %')} points" if text.endswith(" %") else text


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_SAME)
