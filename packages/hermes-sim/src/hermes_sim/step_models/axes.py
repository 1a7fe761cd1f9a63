"""Linear interpolation along measured points; beyond the ends the last stretch goes on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from hermes_sim.step_models.protocol import Floats

Weights = tuple[tuple[int, float], ...]


def weights(axis: Sequence[float], at: float) -> Weights:
    """(position, weight) of the one or two points of the axis that make up a value."""
    if len(axis) == 1:
        return ((0, 1.0),)
    i = min(max(bisect_right(axis, at) - 1, 0), len(axis) - 2)
    u = (at - axis[i]) / (axis[i + 1] - axis[i])
    return ((i, 1.0),) if u == 0 else ((i, 1.0 - u), (i + 1, u))


class Line:
    """A function of one variable through points; the same arithmetic for one value and for many."""

    def __init__(self, x: Floats, y: Floats) -> None:
        if len(x) == 1:
            x, y = np.array([x[0], x[0] + 1]), np.array([y[0], y[0]])
        slope = np.diff(y) / np.diff(x)
        self._x, self._y, self._slope, self._inner = x, y, slope, x[1:-1]
        self._stretches = list(zip(x.tolist(), y.tolist(), slope.tolist(), strict=False))
        self._inner_list = self._inner.tolist()
        self.points = tuple(x.tolist())

    def at(self, values: Floats) -> Floats:
        """The function at many values."""
        i = np.searchsorted(self._inner, values, side="right")
        made: Floats = self._y[i] + self._slope[i] * (values - self._x[i])
        return made

    def rising(self, values: Floats) -> Floats:
        """The function at values that never fall; quicker where all lie on one stretch."""
        first = bisect_right(self._inner_list, values[0])
        if first != bisect_right(self._inner_list, values[-1]):
            return self.at(values)
        x, y, slope = self._stretches[first]
        made: Floats = y + slope * (values - x)
        return made

    def one(self, value: float) -> float:
        """The function at one value."""
        x, y, slope = self._stretches[bisect_right(self._inner_list, value)]
        made: float = y + slope * (value - x)
        return made

    def whole(self, size: int) -> Floats:
        """The function at 0, 1, ... size - 1."""
        return self.at(np.arange(size, dtype=np.float64))
