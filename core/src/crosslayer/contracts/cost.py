"""What an op, a graph or a step costs, and how costs compose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOUNDS = ("compute", "memory", "launch", "network", "mixed")


@dataclass(frozen=True, slots=True)
class Cost:
    """seconds, joules (None: the model has no energy figure), flops, bytes moved, what bounds it.

    `bound_by` is one of `BOUNDS`; `detail` names parts of the total, e.g. (("launch_s", 3e-6),).
    """

    seconds: float
    joules: float | None = None
    flops: float = 0.0
    bytes: float = 0.0
    bound_by: str = "mixed"
    detail: tuple[tuple[str, float], ...] = ()

    def times(self, count: float) -> Cost:
        """The cost of `count` repeats, one after the other."""
        joules = None if self.joules is None else self.joules * count
        detail = tuple((name, value * count) for name, value in self.detail)
        return Cost(
            self.seconds * count,
            joules,
            self.flops * count,
            self.bytes * count,
            self.bound_by,
            detail,
        )


NOTHING = Cost(0.0, 0.0)


def _together(costs: Iterable[Cost], seconds: Any) -> Cost:
    parts = list(costs)
    if not parts:
        return NOTHING
    joules = None if any(c.joules is None for c in parts) else sum(c.joules or 0.0 for c in parts)
    detail: dict[str, float] = {}
    for cost in parts:
        for name, value in cost.detail:
            detail[name] = detail.get(name, 0.0) + value
    bounds: dict[str, float] = {}
    for cost in parts:
        bounds[cost.bound_by] = bounds.get(cost.bound_by, 0.0) + cost.seconds
    return Cost(
        seconds([c.seconds for c in parts]),
        joules,
        sum(c.flops for c in parts),
        sum(c.bytes for c in parts),
        max(bounds, key=lambda name: bounds[name]),
        tuple(sorted(detail.items())),
    )


def sequential(costs: Iterable[Cost]) -> Cost:
    """One after the other: everything adds up; bound by what takes most of the time."""
    return _together(costs, sum)


def parallel(costs: Iterable[Cost]) -> Cost:
    """At the same time on separate resources: the longest time, the sum of the rest."""
    return _together(costs, max)


@dataclass(frozen=True, slots=True)
class CostTable:
    """Costs as columns; `bound_by` holds positions in `BOUNDS`. `table.row(i)` is a `Cost`."""

    seconds: NDArray[np.float64]
    joules: NDArray[np.float64] | None
    flops: NDArray[np.float64]
    bytes: NDArray[np.float64]
    bound_by: NDArray[np.int8] = field(repr=False)

    def __len__(self) -> int:
        return len(self.seconds)

    def row(self, index: int) -> Cost:
        """One row; the table keeps no detail."""
        joules = None if self.joules is None else float(self.joules[index])
        bound = BOUNDS[int(self.bound_by[index])]
        return Cost(
            float(self.seconds[index]),
            joules,
            float(self.flops[index]),
            float(self.bytes[index]),
            bound,
        )


def cost_table(costs: list[Cost]) -> CostTable:
    """A table from single costs; joules only if every cost has them."""
    joules = None
    if all(c.joules is not None for c in costs):
        joules = np.array([c.joules for c in costs], dtype=np.float64)
    return CostTable(
        np.array([c.seconds for c in costs], dtype=np.float64),
        joules,
        np.array([c.flops for c in costs], dtype=np.float64),
        np.array([c.bytes for c in costs], dtype=np.float64),
        np.array([BOUNDS.index(c.bound_by) for c in costs], dtype=np.int8),
    )
