"""What a sweep shows: every point in a table, the Pareto front, parallel coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crosslayer.contracts.report import (
    Axis,
    Cell,
    Column,
    Figure,
    Metric,
    Panel,
    Provenance,
    Report,
    Series,
    Table,
)
from crosslayer.render.tables import ORIGINAL
from crosslayer.sweeps.pareto import Objective
from crosslayer.sweeps.points import value_text
from crosslayer.sweeps.record import PointResult

NAMED_POINTS = 6  # of a front, that a legend can name
MOST_AXES = 12
UNSET = "(as in the file)"
WIDE = 30.0  # a range that wide is shown on a logarithmic scale
# What a number may be shown as where several kinds meet: nothing modelled as measured.
WEAKEST: tuple[Provenance, ...] = ("modelled", "published", "recorded", "measured")


def report_of(
    name: str,
    points: Sequence[PointResult],
    objectives: tuple[Objective, Objective] | None,
    on_front: Sequence[str],
    note: str,
) -> Report:
    """The sweep's report; points in the order of its definition."""
    finished = [point for point in points if point.status == "ok"]
    failed = len(points) - len(finished)
    metrics = [_count("points", len(points))] + ([_count("failed points", failed)] * bool(failed))
    figures = []
    if objectives and on_front:
        metrics += _best(finished, objectives, on_front)
        figures.append(_pareto(finished, objectives, on_front, note))
    if len(finished) > 1:
        figures += _parallel(finished, objectives)
    return Report(
        title=f"{name}: sweep of {len(points)} points",
        metrics=tuple(metrics),
        tables=(points_table(points, on_front),),
        figures=tuple(figures),
        notes=(note, *(["Failed points say why in the table."] * bool(failed))),
    )


def points_table(points: Sequence[PointResult], on_front: Sequence[str] = ()) -> Table:
    """A row for each point: its values, its metrics, whether it is on the front, its error.

    Times of a machine stay out, so that the same sweep gives the same table wherever it runs.
    """
    keys = parameter_names(points)
    names = metric_names(points)
    failed = any(point.error for point in points)
    columns = [Column(name="point"), *(Column(name=key) for key in keys)]
    for name in names:
        metrics = [metric for point in points if (metric := point.metric(name))]
        columns.append(Column(name=name, unit=metrics[0].unit, provenance=_weakest(metrics)))
    columns += [Column(name="on front")] * bool(on_front) + [Column(name="error")] * failed
    rows = []
    for point in points:
        row: list[Cell] = [point.id, *(_cell(point.parameters.get(key)) for key in keys)]
        row += [metric.value if (metric := point.metric(name)) else None for name in names]
        row += [point.id in on_front] * bool(on_front) + [point.error] * failed
        rows.append(tuple(row))
    title = "Points, as the sweep lists them"
    return Table(name="points", title=title, columns=tuple(columns), rows=tuple(rows))


def parameter_names(points: Sequence[PointResult]) -> list[str]:
    """The swept keys in their order."""
    return list(dict.fromkeys(name for point in points for name in point.parameters))


def metric_names(points: Sequence[PointResult]) -> list[str]:
    """Every metric that some point has, wall-clock times left out."""
    return list(
        dict.fromkeys(m.name for point in points for m in point.metrics if not m.wall_clock)
    )


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each key, or all of it where that means two of them."""
    last = {name: name.rpartition(".")[2] for name in names}
    several = {part for part in last.values() if list(last.values()).count(part) > 1}
    return {name: name if part in several else part for name, part in last.items()}


def _cell(value: Any) -> Cell:
    return value if isinstance(value, str | float | int | bool | None) else value_text(value)


def _count(name: str, value: int) -> Metric:
    return Metric(name=name, value=value, unit="1", provenance="measured", source="counted here")


def _weakest(metrics: Sequence[Metric]) -> Provenance:
    return next(kind for kind in WEAKEST if any(metric.provenance == kind for metric in metrics))


def _best(
    points: Sequence[PointResult], objectives: Sequence[Objective], on_front: Sequence[str]
) -> list[Metric]:
    """The best of each objective: the two ends of the front."""
    by_id = {point.id: point for point in points}
    best = []
    for objective, id in zip(objectives, (on_front[0], on_front[-1]), strict=True):
        metric = by_id[id].metric(objective.name)
        assert metric is not None
        label = f"best {objective.name}"
        best.append(metric.replace(name=label, note=f"point {id}: {_said(by_id[id])}"))
    return best


def _said(point: PointResult) -> str:
    short = short_names(list(point.parameters))
    return ", ".join(f"{short[name]}={value_text(v)}" for name, v in point.parameters.items())


def _origin(points: Sequence[PointResult], names: Sequence[str]) -> str:
    """Where the metrics of a figure come from: names that have the same origins together."""
    by_origin: dict[tuple[Provenance, tuple[str, ...]], list[str]] = {}
    for name in names:
        found = [metric for point in points if (metric := point.metric(name))]
        sources = tuple(dict.fromkeys(metric.source for metric in found))
        by_origin.setdefault((_weakest(found), sources), []).append(name)
    said = []
    for (kind, sources), of_origin in by_origin.items():
        more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
        said.append(f"{', '.join(of_origin)} {kind} by {'; '.join(sources[:3])}{more}")
    return ". ".join(said)


def _axis_label(metric: Metric, objective: Objective) -> str:
    unit = f" ({metric.unit})" if metric.unit not in ("", "1") else ""
    return f"{metric.name}{unit}, {objective.better} is better"


def _pareto(
    points: Sequence[PointResult],
    objectives: tuple[Objective, Objective],
    on_front: Sequence[str],
    note: str,
) -> Figure:
    x, y = objectives
    places = {
        point.id: (point, a, b)
        for point in points
        if (a := point.metric(x.name)) and (b := point.metric(y.name))
    }
    best = [places[id] for id in on_front]
    others = [place for id, place in places.items() if id not in on_front]

    def series(label: str, chosen: Sequence[tuple[PointResult, Metric, Metric]]) -> Series:
        return Series(
            label=label,
            x=tuple(a.value for _, a, _ in chosen),
            y=tuple(b.value for _, _, b in chosen),
        )

    named = len(best) <= NAMED_POINTS
    shown = [series(_said(place[0]), [place]) for place in best] if named else []
    shown += [] if named else [series("on the front", best)]
    shown += [series("beaten by another point", others)] if others else []
    all_x = [a for _, a, _ in places.values()]
    all_y = [b for _, _, b in places.values()]
    labels = _axis_label(all_x[0], x), _axis_label(all_y[0], y)
    panel = Panel(
        series=tuple(shown),
        y_label=labels[1],
        kind="points",
        y_scale=_scale([b.value for b in all_y]),
    )
    return Figure(
        name="pareto", title="Points that no other one beats", x_label=labels[0], panels=(panel,),
        x_scale=_scale([a.value for a in all_x]), provenance=_weakest([*all_x, *all_y]),
        source=_origin(points, [x.name, y.name]), note=note,
    )  # fmt: skip


def _scale(values: Sequence[float]) -> Any:
    return "log" if min(values) > 0 and max(values) > WIDE * min(values) else "linear"


def _parallel(
    points: Sequence[PointResult], objectives: tuple[Objective, Objective] | None
) -> list[Figure]:
    """One figure: an axis for each swept key that varies and each metric that does, the objectives
    last; none if no metric varies.
    """
    last = [objective.name for objective in objectives or ()][::-1]
    varying = [
        name
        for name in metric_names(points)
        if not name.endswith(ORIGINAL)
        and name not in last
        and all(point.metric(name) for point in points)
        and len({metric.value for point in points if (metric := point.metric(name))}) > 1
    ]
    keys = [name for name in parameter_names(points) if len(_texts(points, name)) > 1]
    shown = [*varying[: max(0, MOST_AXES - len(keys) - len(last))], *last]
    shown = [name for name in shown if all(point.metric(name) for point in points)]
    if not shown:
        return []
    short = short_names(keys)
    axes, columns = [], []
    for key in keys:
        labels, values = _coded(points, key)
        scale = "linear" if labels else _scale(values)
        axes.append(Axis(name=short[key], labels=labels, scale=scale))
        columns.append(values)
    metrics: Mapping[str, list[Metric]] = {
        name: [metric for point in points if (metric := point.metric(name))] for name in shown
    }
    for name, found in metrics.items():
        values = [metric.value for metric in found]
        axes.append(Axis(name=name, unit=found[0].unit, scale=_scale(values)))
        columns.append(values)
    names = tuple(axis.name for axis in axes)
    lines = tuple(
        Series(label=point.id, x=names, y=tuple(column[i] for column in columns))
        for i, point in enumerate(points)
    )
    left_out = len(varying) + len(last) - len(shown)
    panel = Panel(
        series=lines, kind="parallel", axes=tuple(axes),
        y_label=f"a line for each point, coloured by {axes[-1].name}",
    )  # fmt: skip
    every = [metric for found in metrics.values() for metric in found]
    return [
        Figure(
            name="parallel", title="All points over what was varied and what came out", x_label="",
            panels=(panel,), provenance=_weakest(every),
            source=_origin(points, shown),
            note=f"{left_out} more metrics are in the table." if left_out else "",
        )
    ]  # fmt: skip


def _texts(points: Sequence[PointResult], key: str) -> list[str]:
    texts = (
        value_text(point.parameters[key]) if key in point.parameters else UNSET for point in points
    )
    return list(dict.fromkeys(texts))


def _coded(points: Sequence[PointResult], key: str) -> tuple[tuple[str, ...], list[float]]:
    """(labels, a number each): numbers as they are, anything else as its place among the labels."""
    values = [point.parameters.get(key, UNSET) for point in points]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return (), [float(value) for value in values]
    labels = _texts(points, key)
    return tuple(labels), [
        float(labels.index(value if isinstance(value, str) else value_text(value)))
        for value in values
    ]
