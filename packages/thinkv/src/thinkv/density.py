"""Modes of a sample: a Gaussian kernel density on a grid, its peaks and the valleys between them.

The paper fits a KDE for each layer and prompt and does not give its bandwidth, grid or what counts
as a peak. Here: Scott's bandwidth unless one is given, a grid with at least four points a bandwidth
that reaches three bandwidths beyond the sample (so that values near 0 or 1 keep their peaks), and a
peak counts if its prominence is at least `prominence` of the highest.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Modes:
    """Peaks of a density in ascending order, and the lowest point between each two neighbours."""

    peaks: tuple[float, ...]
    valleys: tuple[float, ...]


def find_modes(
    values: NDArray[Any], bandwidth: float | None = None, prominence: float = 0.02
) -> Modes:
    """The modes of finite values [n]; bandwidth None: Scott's rule. Constant values: one mode."""
    values = np.asarray(values, dtype=np.float64)
    spread = float(values.std())
    width = bandwidth if bandwidth is not None else spread * len(values) ** -0.2
    if spread == 0 or width <= 0:
        return Modes((float(values[0]),), ())
    low, high = values.min() - 3 * width, values.max() + 3 * width
    points = int(np.clip(np.ceil(4 * (high - low) / width), 512, 1 << 14))
    grid = np.linspace(low, high, points)
    density = _density(values, grid, width)
    peaks = _peaks(density, prominence)
    valleys = [a + int(density[a : b + 1].argmin()) for a, b in itertools.pairwise(peaks)]
    return Modes(tuple(map(float, grid[peaks])), tuple(map(float, grid[valleys])))


def _density(values: NDArray[Any], grid: NDArray[Any], width: float) -> NDArray[Any]:
    density = np.zeros_like(grid)
    for start in range(0, len(values), 1024):
        part = values[start : start + 1024, None]
        density += np.exp(-0.5 * ((grid - part) / width) ** 2).sum(0)
    return density


def _peaks(density: NDArray[Any], prominence: float) -> list[int]:
    """Indices of the local maxima whose prominence is at least that share of the highest value.

    Prominence: how far one must go down from a peak before one can climb higher.
    """
    steps = np.flatnonzero(np.diff(density) != 0)
    level = density[np.append(steps, len(density) - 1)]  # plateaus once
    rising = np.diff(level, prepend=-np.inf) > 0
    falling = np.diff(level, append=-np.inf) < 0
    ends = np.append(steps, len(density) - 1)
    candidates = ends[rising & falling]
    found = []
    for peak in candidates:
        height = density[peak]
        sides = []
        for side in (density[:peak][::-1], density[peak + 1 :]):
            higher = np.flatnonzero(side > height)
            reach = side[: higher[0]] if len(higher) else side
            sides.append(reach.min() if len(reach) else height)
            if not len(higher):
                sides[-1] = min(sides[-1], 0.0)
        if height - max(sides) >= prominence * density.max():
            found.append(int(peak))
    return found
