"""What a sweep's report shows: the table, the front, parallel coordinates."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from sweep_parts import metric

from crosslayer.contracts.report import Axis, Figure, Panel, Series
from crosslayer.render.figures import draw, to_svg
from crosslayer.sweeps.pareto import Objective
from crosslayer.sweeps.record import PointResult
from crosslayer.sweeps.report import report_of

OBJECTIVES = Objective("price", "lower"), Objective("quality", "higher")


def point(use: str, size: int, **values: float) -> PointResult:
    parameters = {"accelerator.use": use, "workload.batch_size": size}
    metrics = tuple(metric(name, value, None) for name, value in values.items())
    id = f"{use}-{size}"
    if not values:
        return PointResult(id, "key", parameters, "failed", error="it broke <b>\nat once")
    return PointResult(id, "key", parameters, "ok", metrics)


POINTS = (
    point("small", 1, price=1.0, quality=0.5, same=3.0),
    point("small", 64, price=10.0, quality=0.5, same=3.0),
    point("large", 1, price=100.0, quality=0.75, same=3.0),
    point("large", 64),
)


def figures() -> dict[str, Figure]:
    report = report_of("toy", POINTS, OBJECTIVES, ("small-1", "large-1"), "a note")
    return {figure.name: figure for figure in report.figures}


def test_the_table_has_a_row_for_every_point_and_the_error_of_a_failed_one() -> None:
    table = report_of("toy", POINTS, OBJECTIVES, ("small-1", "large-1"), "a note").table("points")
    names = [column.name for column in table.columns]
    assert names == [
        "point", "accelerator.use", "workload.batch_size", "price", "quality", "same", "on front",
        "error",
    ]  # fmt: skip
    assert table.rows[0] == ("small-1", "small", 1, 1.0, 0.5, 3.0, True, "")
    assert table.rows[3] == ("large-64", "large", 64, None, None, None, False, POINTS[3].error)


def test_the_front_is_named_point_by_point_beside_the_beaten_ones() -> None:
    panel = figures()["pareto"].panels[0]
    assert {series.label: (series.x, series.y) for series in panel.series} == {
        "use=small, batch_size=1": ((1.0,), (0.5,)),
        "use=large, batch_size=1": ((100.0,), (0.75,)),
        "beaten by another point": ((10.0,), (0.5,)),
    }
    assert figures()["pareto"].x_scale == "log"


def test_parallel_coordinates_show_what_varies_with_the_objectives_last() -> None:
    figure = figures()["parallel"]
    panel = figure.panels[0]
    assert [axis.name for axis in panel.axes] == ["use", "batch_size", "quality", "price"]
    assert panel.axes[0].labels == ("small", "large")
    assert [axis.scale for axis in panel.axes] == ["linear", "log", "linear", "log"]
    assert {series.label: series.y for series in panel.series} == {
        "small-1": (0.0, 1.0, 0.5, 1.0),
        "small-64": (0.0, 64.0, 0.5, 10.0),
        "large-1": (1.0, 1.0, 0.75, 100.0),
    }
    axis = draw(figure).axes[0]
    drawn = [list(line.get_ydata()) for line in axis.lines if len(line.get_xdata()) == 4]
    assert drawn == [pytest.approx(line) for line in ([0, 0, 0, 0], [0, 1, 0, 0.5], [1, 0, 1, 1])]
    svg = to_svg(figure)
    for text in ("small", "large", "batch_size", "64", "quality"):
        assert f">{text}<" in svg


def test_an_axis_on_which_all_points_are_alike_is_drawn_in_the_middle() -> None:
    axes = (Axis(name="a", unit="s"), Axis(name="b", labels=("x",)))
    lines = tuple(Series(label=str(i), x=("a", "b"), y=(2.0, 0.0)) for i in range(2))
    panel = Panel(series=lines, y_label="y", kind="parallel", axes=axes)
    figure = Figure(
        name="f", title="t", x_label="", panels=(panel,), provenance="measured", source="s"
    )
    drawn = [line.get_ydata() for line in draw(figure).axes[0].lines if len(line.get_xdata()) == 2]
    assert [0.5, 0.5] in [list(line) for line in drawn]


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "line"},
        {"axes": ()},
        {"axes": (Axis(name="a"),)},
    ],
)
def test_axes_belong_to_parallel_panels_one_for_each_value(changes: dict[str, Any]) -> None:
    lines = (Series(label="p", x=("a", "b"), y=(1.0, 2.0)),)
    fields = {"kind": "parallel", "axes": (Axis(name="a"), Axis(name="b"))} | changes
    with pytest.raises(ValidationError):
        Panel(series=lines, y_label="y", **fields)  # type: ignore[arg-type]
