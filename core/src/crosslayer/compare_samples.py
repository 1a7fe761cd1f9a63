"""Intervals of differences between runs: paired where the runs have the same samples, else combined
from the runs' own intervals, else none.

Paired: a metric is the mean of a value a sample (a window of text, a question), or exp of it. A
difference, a log ratio or an interaction is a signed sum of such metrics; to first order (the delta
method) it is the mean of one number a sample, whose Student t interval at 95 % is taken. For log
ratios of perplexities, and differences of means, nothing is linearised. A difference of two shares
(right or wrong, question by question) has Newcombe's interval instead, which does not collapse
where every question goes the same way; other sums of shares that do so have none.

Unpaired: the ends' distances from their values, added in quadrature, each on its side (G. Y. Zou
and A. Donner, doi:10.1002/sim.3095). That takes the runs as independent.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crosslayer.contracts.report import Metric
from crosslayer.intervals import CONFIDENCE, mean_interval, paired_shares
from crosslayer.results import Run

Scale = Literal["difference", "log"]


@dataclass(frozen=True)
class Interval:
    """(low, high) at `confidence`; `how`: paired over `samples`, or unpaired."""

    low: float
    high: float
    confidence: float
    how: Literal["paired", "unpaired"]
    samples: int | None = None

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def exp(self) -> Interval | None:
        """The interval of a ratio from that of its logarithm; None where it leaves the floats."""
        if max(abs(self.low), abs(self.high)) > 700:
            return None
        ends = (math.exp(self.low), math.exp(self.high))
        return Interval(*ends, self.confidence, self.how, self.samples)


@dataclass(frozen=True)
class _Kept:
    """Where a metric's values a sample are: a table's columns that identify a sample, and the one
    (less another) that is averaged.
    """

    table: str
    ids: tuple[str, ...]
    column: str
    less: str | None = None
    exponential: bool = False


_WINDOWS = "perplexity_windows"
_KEPT = {
    "perplexity": _Kept(_WINDOWS, ("window",), "nll", exponential=True),
    "perplexity_original": _Kept(_WINDOWS, ("window",), "nll original", exponential=True),
    "nll_difference": _Kept(_WINDOWS, ("window",), "nll", less="nll original"),
    "next_token_agreement": _Kept("next_token_agreement_windows", ("window",), "agreement"),
    "policy_accuracy": _Kept("answers", ("question", "reference"), "right"),
}
# What a run puts around a name that several of its steps use: "step.name (2)".
_NAME = re.compile(r"(?P<step>(?:.*\.)?)(?P<name>[^.]*?)(?P<number>(?: \(\d+\))?)")


@dataclass(frozen=True)
class Samples:
    """A value a sample, whose mean (exp of it, if `exponential`) is the metric."""

    ids: tuple[str, ...]
    values: tuple[float, ...]
    exponential: bool

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return math.fsum(self.values) / len(self.values)


@dataclass(frozen=True)
class Term:
    """A metric of a run and its sign in a signed sum."""

    sign: int
    metric: Metric
    samples: Samples | None


def samples_of(run: Run, metric: Metric) -> Samples | None:
    """The metric's values a sample, if the run kept all of them."""
    parts = _NAME.fullmatch(metric.name)
    kept = _KEPT.get(parts["name"]) if parts else None
    if parts is None or kept is None:
        return None
    rows = _rows(run, parts["step"] + kept.table + parts["number"])
    try:
        ids = tuple("\0".join(str(row[name]) for name in kept.ids) for row in rows)
        values = tuple(
            _number(row[kept.column]) - (_number(row[kept.less]) if kept.less else 0.0)
            for row in rows
        )
    except (KeyError, TypeError, ValueError):
        return None
    if not values:
        return None
    found = Samples(ids, values, kept.exponential)
    if found.exponential and found.mean > 700:
        return None
    value = math.exp(found.mean) if found.exponential else found.mean
    # A table that was cut, or another step's, gives another mean: it is not this metric's.
    return found if math.isclose(value, metric.value, rel_tol=1e-6, abs_tol=1e-9) else None


def _rows(run: Run, name: str) -> list[dict[str, Any]]:
    """A table's rows, or all of them from the CSV file that the step wrote under that name."""
    files = {written.name: written.path for written in run.report.files}
    path = run.directory / files.get(name, "")
    if path.suffix == ".csv" and path.is_file():
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    for table in run.report.tables:
        if table.name == name:
            columns = [column.name for column in table.columns]
            return [dict(zip(columns, row, strict=True)) for row in table.rows]
    return []


def _number(cell: Any) -> float:
    return float(cell == "True") if cell in ("True", "False") else float(cell)  # text in a CSV


def signed_sum(terms: Sequence[Term], scale: Scale) -> float:
    """The signed sum of values, or of their logarithms (which must be positive)."""
    return math.fsum(term.sign * _on(scale, term.metric.value) for term in terms)


def interval(terms: Sequence[Term], scale: Scale) -> Interval | None:
    """The interval of `signed_sum`: paired, else unpaired, else None."""
    if scale == "log" and any(term.metric.value <= 0 for term in terms):
        return None
    return _paired(terms, scale) or _unpaired(terms, scale)


def _on(scale: Scale, value: float) -> float:
    return math.log(value) if scale == "log" else value


def _paired(terms: Sequence[Term], scale: Scale) -> Interval | None:
    every = [term.samples for term in terms]
    first = every[0]
    if first is None or any(one is None or one.ids != first.ids for one in every):
        return None
    value = signed_sum(terms, scale)
    binary = all(term.samples and set(term.samples.values) <= {0.0, 1.0} for term in terms)
    if binary and scale == "difference" and len(terms) == 2 and terms[0].sign != terms[1].sign:
        pairs = _of_signs(terms)
        return Interval(*paired_shares(*pairs), CONFIDENCE, "paired", len(first.ids))
    numbers = [value] * len(first.ids)
    for term in terms:
        assert term.samples is not None
        mean, slope = term.samples.mean, float(term.sign)
        # d value / d mean is exp(mean) or 1; d log value / d mean is 1 or 1 / mean
        if scale == "difference" and term.samples.exponential:
            slope *= math.exp(mean)
        elif scale == "log" and not term.samples.exponential:
            slope /= mean
        for i, sample in enumerate(term.samples.values):
            numbers[i] += slope * (sample - mean)
    found = mean_interval(numbers)[1]
    if binary and max(numbers) - min(numbers) < 1e-12:
        return None  # every question alike: t would say that there is no doubt
    return found and Interval(*found, CONFIDENCE, "paired", len(numbers))


def _of_signs(terms: Sequence[Term]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The values of the term that is added and of the one that is subtracted."""
    plus, minus = sorted(terms, key=lambda term: -term.sign)
    assert plus.samples is not None and minus.samples is not None
    return plus.samples.values, minus.samples.values


def _unpaired(terms: Sequence[Term], scale: Scale) -> Interval | None:
    confidence = terms[0].metric.confidence
    below = above = 0.0
    for term in terms:
        ends = term.metric.interval
        if ends is None or term.metric.confidence != confidence:
            return None
        if scale == "log" and ends[0] <= 0:
            return None
        value = _on(scale, term.metric.value)
        down, up = value - _on(scale, ends[0]), _on(scale, ends[1]) - value
        if term.sign < 0:
            down, up = up, down
        below, above = below + down**2, above + up**2
    value = signed_sum(terms, scale)
    assert confidence is not None
    return Interval(value - math.sqrt(below), value + math.sqrt(above), confidence, "unpaired")
