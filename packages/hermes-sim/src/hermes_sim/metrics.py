"""Metrics of calls from their columns, as vLLM's benchmark and vidur define them.

TTFT = first token - arrival. TPOT = (last - first) / (output tokens - 1), over calls of at least
two tokens (vLLM). Normalised decode latency = (last - first) / output tokens (vidur). E2E = last -
arrival. All in seconds; calls that did not finish count in none of them and are counted beside.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hermes_sim.calls import FINISHED, PHASES

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
LATENCIES = ("ttft", "tpot", "e2e", "queue")
PERCENTILES = (50, 90, 99)


class Calls:
    """Columns of calls, a row a call (`hermes_sim.calls.COLUMNS`)."""

    def __init__(self, columns: Mapping[str, Ints]) -> None:
        self.columns = columns
        self.finished = columns["status"] == FINISHED

    def __len__(self) -> int:
        return len(self.columns["row"])

    def __getitem__(self, name: str) -> Ints:
        return self.columns[name]

    def seconds(self, later: str, earlier: str) -> Floats:
        """Seconds between two instants of the finished calls."""
        found: Floats = (self.columns[later] - self.columns[earlier])[self.finished] / 1e9
        return found

    @property
    def ttft_s(self) -> Floats:
        """Time to first token."""
        return self.seconds("first_ns", "arrival_ns")

    @property
    def e2e_s(self) -> Floats:
        """Arrival to last token."""
        return self.seconds("last_ns", "arrival_ns")

    @property
    def queue_s(self) -> Floats:
        """Arrival to the first step (vidur's scheduling delay)."""
        return self.seconds("started_ns", "arrival_ns")

    @property
    def tpot_s(self) -> Floats:
        """Time per output token after the first, of calls that have one."""
        gaps = self.columns["output_tokens"][self.finished] - 1
        some = gaps > 0
        found: Floats = self.seconds("last_ns", "first_ns")[some] / gaps[some]
        return found

    @property
    def normalised_decode_s(self) -> Floats:
        """vidur's decode latency by output tokens."""
        tokens = np.maximum(self.columns["output_tokens"][self.finished], 1)
        found: Floats = self.seconds("last_ns", "first_ns") / tokens
        return found

    def latency(self, name: str) -> Floats:
        """One of `LATENCIES`."""
        found: Floats = getattr(self, f"{name}_s")
        return found

    @property
    def span_s(self) -> float:
        """First arrival to last end."""
        if not len(self):
            return 0.0
        return float(self.columns["last_ns"].max() - self.columns["arrival_ns"].min()) / 1e9

    @property
    def output_tokens(self) -> int:
        """Tokens of the finished calls."""
        return int(self.columns["output_tokens"][self.finished].sum())

    def breakdown_ns(self) -> dict[str, Ints]:
        """What each finished call's time went to; the sum is its end-to-end time, exactly."""
        return {phase: self.columns[f"{phase}_ns"][self.finished] for phase in PHASES}

    def mean_in_system(self) -> float:
        """Calls in the system, averaged over the span: the integral, not Little's law."""
        arrivals = np.sort(self.columns["arrival_ns"])
        ends = np.sort(self.columns["last_ns"])
        at = np.concatenate([arrivals, ends])
        change = np.concatenate([np.ones(len(arrivals), np.int64), -np.ones(len(ends), np.int64)])
        order = np.argsort(at, kind="stable")
        inside = np.cumsum(change[order])[:-1]
        width = np.diff(at[order])
        span = int(at.max() - at.min())
        return float((inside * width).sum() / span) if span else 0.0


def percentile(values: Floats, share: float) -> float:
    """The percentile, linear between order statistics; 0 of nothing."""
    return float(np.percentile(values, share)) if len(values) else 0.0


def mean(values: Floats) -> float:
    """The mean; 0 of nothing."""
    return float(values.mean()) if len(values) else 0.0
