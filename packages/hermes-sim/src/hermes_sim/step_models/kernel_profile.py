"""Steps priced with a measured profile of an engine's kernels: their sum, interpolated.

A step's kernels are those of a layer, as often as the model has layers, and those around them. What
engines do beside running kernels one by one is optional: collectives of tensor parallelism, experts
by how many of them a batch wakes, the time that CUDA graphs save, uneven contexts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from hermes_sim.step_models.axes import Line, weights
from hermes_sim.step_models.protocol import Contexts, Floats
from hermes_sim.step_models.skew import Skew

TABLED = 1 << 17  # tokens and rows up to which times lie in a table
_ABSENT, _NO_CONTEXT = ((0, 1.0),), ((-1, 1.0),)


@dataclass
class AttentionGrid:
    """seconds[i, j, k, l] of one layer at prefill_chunk, kv_prefill, n_decode and kv_decode (mean
    tokens a call); NaN where nothing was measured. Parts that a batch does not have are at 0.
    keyed: half of a prompt's own chunk counts on the second axis beside its cached tokens.
    """

    axes: tuple[tuple[float, ...], ...]
    seconds: Floats
    keyed: bool = False
    holes: int = 0

    def __post_init__(self) -> None:
        self._table = self.seconds.tolist()
        self._contexts = self.axes[3][1:]

    def at(self, chunk: float, cached: float, n: float, context: float) -> float:
        """Multilinear between the points around it; a hole leaves its weight to the others."""
        total = share = 0.0
        chunks, cacheds, counts, _ = self.axes
        many = weights(counts, n)
        far = weights(self._contexts, context)
        near = weights(cacheds, cached)
        for i, a in weights(chunks, chunk):
            for j, b in near if i else _ABSENT:
                row, ab = self._table[i][j], a * b
                for k, c in many:
                    line, abc = row[k], ab * c
                    for m, d in far if k else _NO_CONTEXT:
                        value = line[m + 1]
                        if value == value:
                            total += abc * d * value
                            share += abc * d
                        else:
                            self.holes += 1
        return total / share if share > 0 else total


class Attention(Protocol):
    """Seconds of one layer's attention over a mixed batch. axes: of (chunk, cached, n, context);
    keyed: see `AttentionGrid`; holes: how often a point was asked for that was not measured.
    """

    axes: tuple[tuple[float, ...], ...]
    keyed: bool
    holes: int

    def at(self, chunk: float, cached: float, n: float, context: float) -> float: ...


@dataclass(frozen=True)
class Savings:
    """Seconds of a step that CUDA graphs save, by the captured size that a batch is padded to.

    full: steps that only decode; piecewise: others; none beyond the largest captured size.
    """

    full: tuple[tuple[float, ...], tuple[float, ...]]
    piecewise: tuple[tuple[float, ...], tuple[float, ...]]

    def of(self, tokens: int, decodes_only: bool) -> float:
        """Seconds saved in a step of so many tokens."""
        sizes, saved = self.full if decodes_only else self.piecewise
        at = bisect_left(sizes, tokens)
        return saved[at] if at < len(sizes) else 0.0


@dataclass
class KernelProfile:
    """A step model of an engine on one kind of device.

    tokens: seconds of a step's kernels by tokens; rows: by sequences at the LM head. layers: of the
    model. token_limit: the most tokens that were measured. overhead_s: of a step beside its
    kernels. watts: mean power while it computes; None: not known.
    """

    name: str
    tokens: Line
    rows: Line
    attention: Attention
    layers: int
    token_limit: float
    overhead_s: float = 0.0
    watts: float | None = None
    skew: Skew | None = None
    savings: Savings | None = None
    beyond: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.context_limit = self.attention.axes[3][-1]
        self.decode_limit = min(self.attention.axes[2][-1], self.token_limit)
        self._tokens = self.tokens.whole(int(min(self.token_limit, TABLED)) + 1).tolist()
        self._rows = self.rows.whole(int(min(self.decode_limit, TABLED)) + 2).tolist()
        self._of = lru_cache(maxsize=4096)(self._decode_line)
        self._ramp = np.arange(4096, dtype=np.float64)

    def mixed(
        self,
        prefills: Sequence[tuple[int, int]],
        rows: int,
        n: int,
        context: int,
        contexts: Contexts,
    ) -> tuple[float, Sequence[float] | None]:
        """See `StepModel`. Prompts count as one chunk whose cache is their mean, by tokens."""
        chunk = work = own = 0
        for new, cached in prefills:
            chunk += new
            work += new * cached
            own += new * new
        mean, cached_mean = (context / n if n else 0.0), work / chunk
        attention, holes = self.attention, self.attention.holes
        seen = cached_mean + own / (2 * chunk) if attention.keyed else cached_mean
        seconds = self.overhead_s + self._fixed(chunk + n, rows)
        if self.savings is not None:
            seconds -= self.savings.of(chunk + n, decodes_only=False)
        per_layer = attention.at(chunk, seen, n, mean)
        if self.skew is not None and n > 1:
            low, high = _ends(contexts)
            if high > low:
                rate = (mean - low) / (high - low)
                more = attention.at(chunk, seen, n, high) - per_layer
                gap = more / per_layer if per_layer > 0 else 0.0
                per_layer += self.skew.alpha(chunk, cached_mean, n, rate, high, gap) * more
        seconds += self.layers * per_layer
        axes = attention.axes
        outside = chunk > axes[0][-1] or seen > axes[1][-1] or n > axes[2][-1]
        outside = outside or chunk + n > self.token_limit
        if outside or mean > axes[3][-1] or attention.holes > holes:
            self.beyond += 1
        return seconds, None if self.watts is None else (seconds * self.watts,)

    def decodes(self, n: int, context: int, steps: int, contexts: Contexts) -> tuple[Floats, Any]:
        """See `StepModel`."""
        fixed, line = self._of(n)
        ramp = self._ramp if steps <= len(self._ramp) else np.arange(steps, dtype=np.float64)
        per_layer = line.rising((context + n * ramp[:steps]) / n)
        if self.skew is not None and n > 1:
            low, high = _ends(contexts)
            if high > low:
                rate = (context / n - low) / (high - low)
                more = line.rising(high + ramp[:steps]) - per_layer
                gaps = np.divide(more, per_layer, out=np.zeros(steps), where=per_layer > 0)
                per_layer = per_layer + self.skew.alphas(n, rate, high, gaps) * more
        seconds = fixed + self.layers * per_layer
        return seconds, None if self.watts is None else seconds * self.watts

    def _fixed(self, tokens: int, rows: int) -> float:
        tabled = tokens < len(self._tokens)
        seconds = self._tokens[tokens] if tabled else self.tokens.one(tokens)
        if rows:
            seconds += self._rows[rows] if rows < len(self._rows) else self.rows.one(rows)
        return float(seconds)

    def _decode_line(self, n: int) -> tuple[float, Line]:
        """(seconds of all but attention, attention of one layer over the mean context)."""
        attention = self.attention
        points = np.array(attention.axes[3][1:])
        values = np.array([attention.at(0, 0, n, point) for point in points])
        fixed = self.overhead_s + self._fixed(n, n)
        if self.savings is not None:
            fixed -= self.savings.of(n, decodes_only=True)
        return fixed, Line(points, values)


def _ends(contexts: Contexts) -> tuple[int, int]:
    """The shortest and the longest context of the decoding calls, the fed token included."""
    lengths = [cached + generated + 1 for cached, generated in contexts()]
    return min(lengths), max(lengths)
