"""What uneven contexts cost: attention over them lies between that over their mean and that over
their maximum, seconds = t(mean) + alpha (t(max) - t(mean)), with alpha as LLMServingSim fits it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hermes_sim.step_models.protocol import Floats


class Skew(Protocol):
    """Alpha of a batch. chunk, cached: prompt tokens and what they have behind them; n: decodes;
    rate: (mean - min) / (max - min) of their contexts; longest: the maximum; gap: (t(max) -
    t(mean)) / t(mean).
    """

    def alpha(
        self, chunk: float, cached: float, n: int, rate: float, longest: float, gap: float
    ) -> float: ...

    def alphas(self, n: int, rate: float, longest: int, gaps: Floats) -> Floats:
        """Of decoding steps in a row, each with contexts one longer than the one before."""
        ...


@dataclass(frozen=True)
class BucketSkew:
    """The older fit. alphas_by: by (prefill chunk, upper bound of n, of the skew rate, of the
    longest context, of the cached tokens); elsewhere `default`.
    """

    alphas_by: Mapping[tuple[float, float, float, float, float], float]
    bounds: tuple[tuple[float, ...], ...]  # of n, skew rate, longest context, cached tokens
    chunks: tuple[float, ...]
    default: float

    def alpha(
        self, chunk: float, cached: float, n: int, rate: float, longest: float, gap: float
    ) -> float:
        """See `Skew`."""
        at = min(bisect_left(self.chunks, chunk), len(self.chunks) - 1)
        if at and chunk - self.chunks[at - 1] < self.chunks[at] - chunk:
            at -= 1
        bins = []
        for bounds, value in zip(self.bounds, (n, rate, longest, cached), strict=True):
            bins.append(bounds[min(bisect_left(bounds, value), len(bounds) - 1)])
        found = self.alphas_by.get((self.chunks[at], *bins))  # type: ignore[arg-type]
        return self.default if found is None else found

    def alphas(self, n: int, rate: float, longest: int, gaps: Floats) -> Floats:
        """See `Skew`. The same up to the next bound of the longest context."""
        steps = len(gaps)
        made = np.empty(steps)
        start = 0
        while start < steps:
            at = longest + start
            bounds = self.bounds[2]
            bound = bounds[min(bisect_left(bounds, at), len(bounds) - 1)]
            end = steps if bound < at else min(steps, int(min(bound - longest, steps)) + 1)
            made[start:end] = self.alpha(0, 0, n, rate, at, 0.0)
            start = end
        return made


@dataclass(frozen=True)
class GapSkew:
    """The newer fit ("runtime-skew-calibration-v1"). cells: (n, alpha) in order of n, by the
    position of the chunk among `chunks` and of the gap among `gaps` (upper bounds); of a cell the
    n that is nearest by its logarithm counts. Without a cell, or with n outside `counts`:
    `default`.
    """

    cells: Mapping[tuple[int, int], Sequence[tuple[int, float]]]
    chunks: tuple[float, ...]
    gaps: tuple[float, ...]
    counts: tuple[float, float]
    default: float

    def alpha(
        self, chunk: float, cached: float, n: int, rate: float, longest: float, gap: float
    ) -> float:
        """See `Skew`."""
        return self._alpha(self._chunk(chunk), min(bisect_left(self.gaps, gap), self._last), n)

    def alphas(self, n: int, rate: float, longest: int, gaps: Floats) -> Floats:
        """See `Skew`."""
        chunk = self._chunk(0)
        by_gap = np.array([self._alpha(chunk, at, n) for at in range(len(self.gaps))])
        made: Floats = by_gap[np.minimum(np.searchsorted(self.gaps, gaps), self._last)]
        return made

    @property
    def _last(self) -> int:
        return len(self.gaps) - 1

    def _chunk(self, chunk: float) -> int:
        return min(bisect_left(self.chunks, chunk), len(self.chunks) - 1)

    def _alpha(self, chunk: int, gap: int, n: int) -> float:
        anchors = self.cells.get((chunk, gap))
        if not anchors or not self.counts[0] <= n <= self.counts[1]:
            return self.default
        at = 0
        while at + 1 < len(anchors) and n * n > anchors[at][0] * anchors[at + 1][0]:
            at += 1
        return anchors[at][1]
