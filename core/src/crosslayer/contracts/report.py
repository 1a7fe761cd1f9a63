"""What a run shows: metrics with provenance, tables, figures as data, files written."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from crosslayer.contracts.base import Value
from crosslayer.contracts.shown import Shown, data_frame

Provenance = Literal["measured", "recorded", "modelled", "published"]
Cell = str | float | int | bool | None


class Metric(Shown, Value):
    """One number. `provenance`: measured (ran here), recorded (somebody's real run or outputs),
    modelled (came out of a model), published (from a paper); `source` names the run, the data, the
    model or the paper.

    `interval`: (low, high) at `confidence`. `better`: which direction is an improvement.
    `wall_clock`: a time of this machine, which no second run repeats; it lives in run.json, not
    report.json.
    """

    name: str = Field(min_length=1)
    value: float
    unit: str
    provenance: Provenance
    source: str = Field(min_length=1)
    better: Literal["lower", "higher"] | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = Field(None, gt=0, lt=1)
    samples: int | None = Field(None, ge=1)
    wall_clock: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _interval_is_ordered_and_says_its_confidence(self) -> Metric:
        if self.interval is not None:
            if self.interval[0] > self.interval[1]:
                raise ValueError(f"interval of {self.name} is not ordered: {self.interval}")
            if self.confidence is None:
                raise ValueError(f"interval of {self.name} needs its confidence")
        return self

    def __repr__(self) -> str:
        interval = ""
        if self.interval is not None and self.confidence is not None:
            low, high = self.interval
            interval = f" ({low:.6g} to {high:.6g} at {100 * self.confidence:g} %)"
        unit = "" if self.unit in ("", "1") else f" {self.unit}"
        clock = ", wall clock" if self.wall_clock else ""
        return f"<Metric {self.name} = {self.value:.6g}{unit}{interval}, {self.provenance}{clock}>"


class Column(Value):
    """A column's name, unit ("" for text) and the provenance of its numbers (None for text and
    counts).
    """

    name: str
    unit: str = ""
    provenance: Provenance | None = None


class Table(Shown, Value):
    """Rows of cells under columns; one provenance a column. `wall_clock`: as of a `Metric`."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    wall_clock: bool = False

    @model_validator(mode="after")
    def _rows_fit_the_columns(self) -> Table:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.name}: row {i} has {len(row)} cells for {len(self.columns)} "
                    "columns"
                )
        return self

    def __repr__(self) -> str:
        names = ", ".join(column.name for column in self.columns)
        return f"<Table {self.name}: {len(self.rows)} rows of {names}>"

    def to_frame(self) -> Any:
        """The table as a pandas DataFrame, numbers in the columns' own units.

        `frame.attrs` has title, note, and the columns' units and provenances. DependencyError
        without pandas.
        """
        frame = data_frame([column.name for column in self.columns], self.rows)
        frame.attrs = {
            "title": self.title,
            "note": self.note,
            "units": {column.name: column.unit for column in self.columns},
            "provenance": {column.name: column.provenance for column in self.columns},
        }
        return frame


class Series(Value):
    """One line, set of points or bars of a figure; `x` may be labels. `low`, `high`: an interval a
    point.
    """

    label: str
    x: tuple[float, ...] | tuple[str, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _lengths_agree(self) -> Series:
        for name, values in (("y", self.y), ("low", self.low), ("high", self.high)):
            if values is not None and len(values) != len(self.x):
                raise ValueError(
                    f"series {self.label}: {len(values)} {name} values for {len(self.x)} x values"
                )
        return self


class Axis(Value):
    """One of the upright scales of parallel coordinates; `labels`: what its values 0, 1, 2 ...
    stand for, where they are no numbers.
    """

    name: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    scale: Literal["linear", "log"] = "linear"


class Panel(Value):
    """One pair of axes; a figure stacks panels that share x.

    Kind "parallel": a series is one line across `axes`, x a name for each of them, y the value on
    each in its own unit; lines take their colour from the last axis.
    """

    series: tuple[Series, ...] = Field(min_length=1)
    y_label: str
    kind: Literal["line", "points", "bars", "steps", "parallel"] = "line"
    y_scale: Literal["linear", "log"] = "linear"
    axes: tuple[Axis, ...] = ()

    @model_validator(mode="after")
    def _parallel_lines_cross_every_axis(self) -> Panel:
        if (self.kind == "parallel") != bool(self.axes):
            raise ValueError("axes belong to a panel of kind 'parallel', which needs them")
        for series in self.series if self.axes else ():
            if len(series.x) != len(self.axes):
                raise ValueError(
                    f"series {series.label}: {len(series.x)} values for {len(self.axes)} axes"
                )
        return self


class Figure(Shown, Value):
    """A figure as data; the renderer draws it."""

    name: str
    title: str
    x_label: str
    panels: tuple[Panel, ...] = Field(min_length=1)
    x_scale: Literal["linear", "log"] = "linear"
    provenance: Provenance
    source: str
    note: str = ""

    def __repr__(self) -> str:
        return f"<Figure {self.name}: {self.title}, {self.provenance}>"


class WrittenFile(Value):
    """A file that a step wrote, relative to the run directory; `name` is what `trace =
    "@step/name"` uses.
    """

    name: str
    path: str
    media_type: str = "application/octet-stream"
    sha256: str


class Report(Shown, Value):
    """What one component, or a whole run, has to show."""

    title: str
    metrics: tuple[Metric, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    files: tuple[WrittenFile, ...] = ()
    notes: tuple[str, ...] = ()

    def metric(self, name: str) -> Metric:
        """The metric of that name; KeyError lists what there is."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"no metric {name!r}; there are: {', '.join(m.name for m in self.metrics)}")

    def table(self, name: str) -> Table:
        """The table of that name; KeyError lists what there is."""
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(f"no table {name!r}; there are: {', '.join(t.name for t in self.tables)}")

    def figure(self, name: str) -> Figure:
        """The figure of that name, as data; KeyError lists what there is."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        names = ", ".join(figure.name for figure in self.figures)
        raise KeyError(f"no figure {name!r}; there are: {names}")

    def to_frame(self) -> Any:
        """The metrics as a pandas DataFrame, a row each by name. DependencyError without pandas."""
        columns = [
            *("name", "value", "unit", "low", "high", "confidence", "provenance", "source"),
            *("better", "samples", "wall_clock", "note"),
        ]
        rows = []
        for metric in self.metrics:
            low, high = metric.interval or (None, None)
            fields = dict(metric) | {"low": low, "high": high}
            rows.append([fields[name] for name in columns])
        return data_frame(columns, rows, index="name")

    def __repr__(self) -> str:
        kinds = (("metrics", self.metrics), ("tables", self.tables), ("figures", self.figures))
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in kinds)
        return f"<Report {self.title!r}: {counts}>"
