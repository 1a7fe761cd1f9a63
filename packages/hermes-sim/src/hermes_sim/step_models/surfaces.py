"""Functions of two variables from measured points that need not fill a grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from hermes_sim.step_models.axes import Line, weights


class Surface:
    """Linear along the second variable, then between values of the first that were measured.

    points: (first, second, value); several values of one point are averaged.
    """

    def __init__(self, points: Iterable[tuple[float, float, float]]) -> None:
        found: dict[float, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for first, second, value in points:
            found[first][second].append(value)
        self.axis = tuple(sorted(found))
        self.lines = []
        for first in self.axis:
            seconds = np.array(sorted(found[first]), dtype=np.float64)
            values = [sum(found[first][s]) / len(found[first][s]) for s in seconds]
            self.lines.append(Line(seconds, np.array(values)))
        self.second_limit = max(max(one) for one in found.values())

    def at(self, first: float, second: float) -> float:
        """The value; never below zero where it is extrapolated."""
        made = sum(weight * self.lines[i].one(second) for i, weight in weights(self.axis, first))
        return max(0.0, made)


class SeparateAttention:
    """Attention of one layer as the sum of what prompts take, by (chunk, cached), and what decodes
    take, by (calls, mean context). `axes` are the limits, as in `AttentionGrid`.
    """

    def __init__(self, prefill: Surface, decode: Surface) -> None:
        self.prefill, self.decode = prefill, decode
        self.axes: tuple[tuple[float, ...], ...] = (
            prefill.axis,
            (0.0, prefill.second_limit),
            decode.axis,
            _points(decode),
        )
        self.keyed, self.holes = False, 0

    def at(self, chunk: float, cached: float, n: float, context: float) -> float:
        """Seconds of a mixed batch."""
        seconds = self.prefill.at(chunk, cached) if chunk else 0.0
        return seconds + (self.decode.at(n, context) if n else 0.0)


def _points(surface: Surface) -> tuple[float, ...]:
    """Zero, for no decodes, and then every second value at which something was measured."""
    return (0.0, *sorted({x for line in surface.lines for x in line.points}))
