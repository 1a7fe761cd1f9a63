"""Which points no other one beats, in two metrics at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crosslayer.errors import InputError, nearest
from crosslayer.render.tables import ORIGINAL
from crosslayer.sweeps.record import PointResult


@dataclass(frozen=True)
class Objective:
    """A metric and which direction is an improvement."""

    name: str
    better: Literal["lower", "higher"]

    def __str__(self) -> str:
        return f"{self.name} ({self.better} is better)"


def read_pareto(wanted: str | Sequence[str] | None) -> tuple[str, str] | None:
    """Two different metrics by name. Errors: InputError."""
    if wanted is None:
        return None
    names = [name.strip() for name in (wanted.split(",") if isinstance(wanted, str) else wanted)]
    if len(names) != 2 or names[0] == names[1] or not all(names):
        raise InputError(f"pareto takes two different metrics, x,y, not {','.join(names)!r}")
    return names[0], names[1]


def choose(
    points: Sequence[PointResult], wanted: tuple[str, str] | None
) -> tuple[tuple[Objective, Objective] | None, str]:
    """The two objectives of finished points, and a sentence that says why these."""
    known: dict[str, Literal["lower", "higher"] | None] = {}
    values: dict[str, set[float]] = {}
    for point in points:
        for metric in point.metrics:
            if not metric.wall_clock:
                known.setdefault(metric.name, metric.better)
                values.setdefault(metric.name, set()).add(metric.value)
    problem = ""
    for name in wanted or ():
        if name not in known and points:
            problem = f"No point has a metric {name!r}; {nearest(name, known)} "
    if wanted and points and not problem:
        first, second = (Objective(name, known[name] or "lower") for name in wanted)
        undirected = [name for name in wanted if known[name] is None]
        more = f" {', '.join(undirected)} does not say; lower is taken." if undirected else ""
        return (first, second), f"Pareto front of {first} and {second}, as asked.{more}"
    directed = [
        Objective(name, better)
        for name, better in known.items()
        if better and not name.endswith(ORIGINAL)
    ]
    varied = [one for one in directed if len(values[one.name]) > 1]
    if len(varied) >= 2:
        why = "the first two metrics that differ between points and say which way is better"
    else:
        varied, why = directed, "the first two metrics that say which way is better"
    if len(varied) < 2:
        return None, f"{problem}No Pareto front: fewer than two metrics say which way is better."
    return (varied[0], varied[1]), f"{problem}Pareto front of {varied[0]} and {varied[1]}: {why}."


def front(points: Sequence[PointResult], x: Objective, y: Objective) -> tuple[str, ...]:
    """Ids of the points that no other one beats, from the best in x on: none is at least as good in
    both and better in one. Points without one of the metrics do not count.
    """

    def cost(point: PointResult, objective: Objective) -> float | None:
        metric = point.metric(objective.name)
        if metric is None:
            return None
        return metric.value if objective.better == "lower" else -metric.value

    costs = [(cost(point, x), cost(point, y), point.id) for point in points]
    ranked = sorted((a, b, id) for a, b, id in costs if a is not None and b is not None)
    kept: list[tuple[float, float, str]] = []
    for a, b, id in ranked:
        if not kept or b < kept[-1][1] or (a, b) == kept[-1][:2]:
            kept.append((a, b, id))
    return tuple(id for _, _, id in kept)
