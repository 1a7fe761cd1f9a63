"""What a trace is like: its rate and burstiness, its lengths, what its prompts share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.calls import NANOSECONDS
from crosslayer.contracts.report import Figure, Panel, Provenance, Series
from crosslayer.contracts.requests import RequestTrace

BINS = 200
POINTS = 400  # of a cumulative curve


@dataclass(frozen=True, slots=True)
class LengthStatistics:
    """Of lengths in tokens; percentiles are observed values, at or above that share of all."""

    count: int
    mean: float
    cv: float
    minimum: int
    p50: int
    p90: int
    p99: int
    maximum: int


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """Of a trace. None where there is too little to say it.

    span_s: from the first arrival to the last; rate_per_s: gaps over span. gap_cv: standard
    deviation over mean of the gaps. burstiness: (cv - 1) / (cv + 1): -1 regular, 0 Poisson, towards
    1 bursts (Goh and Barabasi, Europhysics Letters 81, 2008). sessions: distinct ones; None without
    any. prefix_reuse: share of prompt blocks that an earlier block of the trace equals: what a
    prefix cache without bounds would save; None without hashes.
    """

    requests: int
    calls: int
    span_s: float
    rate_per_s: float | None
    gap_cv: float | None
    burstiness: float | None
    prompt_tokens: LengthStatistics | None
    output_tokens: LengthStatistics | None
    unknown_outputs: int
    sessions: int | None
    requests_per_session: float | None
    prefix_blocks: int
    prefix_block_tokens: int | None
    prefix_reuse: float | None


def describe(trace: RequestTrace) -> TraceStatistics:
    """The statistics of a trace."""
    gaps = np.diff(trace.arrival_ns).astype(np.float64) / NANOSECONDS
    span = float(trace.arrival_ns[-1] - trace.arrival_ns[0]) / NANOSECONDS if len(trace) else 0.0
    cv = float(gaps.std(ddof=1) / gaps.mean()) if len(gaps) > 1 and span > 0 else None
    outputs = trace.output_tokens[trace.output_tokens >= 0]
    sessions = per_session = None
    if trace.session is not None:
        codes = trace.session.codes[trace.session.codes >= 0]
        sessions = len(np.unique(codes))
        per_session = len(codes) / sessions if sessions else None
    prefix = trace.prefix
    blocks = 0 if prefix is None else len(prefix.hashes)
    return TraceStatistics(
        requests=len(trace),
        calls=len(trace.prompt_tokens),
        span_s=span,
        rate_per_s=len(gaps) / span if span > 0 else None,
        gap_cv=cv,
        burstiness=None if cv is None else (cv - 1) / (cv + 1),
        prompt_tokens=_lengths(trace.prompt_tokens),
        output_tokens=_lengths(outputs),
        unknown_outputs=len(trace.output_tokens) - len(outputs),
        sessions=sessions,
        requests_per_session=per_session,
        prefix_blocks=blocks,
        prefix_block_tokens=None if prefix is None else prefix.block_tokens,
        prefix_reuse=1 - len(np.unique(prefix.hashes)) / blocks if prefix and blocks else None,
    )


def _lengths(values: NDArray[np.int64]) -> LengthStatistics | None:
    if not len(values):
        return None
    mean = float(values.mean())
    cv = float(values.std()) / mean if mean else 0.0
    p50, p90, p99 = (int(np.percentile(values, one, method="higher")) for one in (50, 90, 99))
    low, high = int(values.min()), int(values.max())
    return LengthStatistics(len(values), mean, cv, low, p50, p90, p99, high)


def figures(trace: RequestTrace, source: str) -> tuple[Figure, ...]:
    """Arrivals a time bin and cumulative lengths (none where no request calls a model) of a trace
    that `source` names.
    """
    provenance: Provenance = "recorded" if trace.recorded else "modelled"
    span = float(trace.arrival_ns[-1] - trace.arrival_ns[0]) / NANOSECONDS
    width = _bin_seconds(span)
    start = int(trace.arrival_ns[0])
    at = (trace.arrival_ns - start) // max(1, round(width * NANOSECONDS))
    counts = np.bincount(at)
    times = tuple(((np.arange(len(counts)) + 0.5) * width).tolist())  # the middle of each bin
    arrivals = Series(label="requests", x=times, y=tuple(counts.astype(float).tolist()))
    outputs = trace.output_tokens[trace.output_tokens >= 0]
    curves = [("prompt", trace.prompt_tokens), ("output", outputs)]
    drawn = tuple(_cumulative(name, one) for name, one in curves if len(one))
    over_time = Figure(
        name="arrivals",
        title=f"Arrivals of {len(trace):,} requests",
        x_label="time (s)",
        panels=(Panel(series=(arrivals,), y_label=f"requests in {width:g} s", kind="steps"),),
        provenance=provenance,
        source=source,
    )
    if not drawn:
        return (over_time,)
    lengths = Figure(
        name="lengths",
        title="Lengths",
        x_label="tokens",
        x_scale="log",
        panels=(Panel(series=drawn, y_label="share of calls", kind="steps"),),
        provenance=provenance,
        source=source,
    )
    return (over_time, lengths)


def _bin_seconds(span_s: float) -> float:
    """A bin of 1, 2 or 5 times a power of ten seconds, so that there are at most BINS."""
    if span_s <= 0:
        return 1.0
    least = span_s / BINS
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(one * power for one in (1, 2, 5, 10) if one * power >= least))


def _cumulative(name: str, values: NDArray[np.int64]) -> Series:
    """The share of calls that are at most so long; lengths below 1 are drawn at 1."""
    shares = np.arange(1, min(len(values), POINTS) + 1) / min(len(values), POINTS)
    lengths = np.percentile(values, shares * 100, method="higher").clip(1)
    return Series(label=name, x=tuple(lengths.astype(float).tolist()), y=tuple(shares.tolist()))
