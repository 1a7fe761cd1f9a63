"""What a finished sweep gives back, and the files that show it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslayer.contracts.report import Report, Table
from crosslayer.errors import InputError, nearest
from crosslayer.machine import machine_facts
from crosslayer.rundir import slug
from crosslayer.sweeps.pareto import Objective, choose, front
from crosslayer.sweeps.record import PointResult, write_whole
from crosslayer.sweeps.report import report_of

if TYPE_CHECKING:
    import matplotlib.figure

    from crosslayer.results import Run


@dataclass(frozen=True, repr=False)
class SweepResult:
    """A finished sweep. points: in the order of its definition, failed ones too. directory:
    report.html, table.csv, points.jsonl, sweep.json, and a run directory for each point.

    ran: how many points ran now; the others were finished before. front: ids of the points that no
    other one beats in the two `objectives`, from the best in the first on. In a notebook, its
    numbers.
    """

    name: str
    directory: Path
    points: tuple[PointResult, ...]
    report: Report
    ran: int = 0
    objectives: tuple[Objective, Objective] | None = None
    front: tuple[str, ...] = ()

    @property
    def table(self) -> Table:
        """A row for each point: its values, its metrics, whether it is on the front."""
        return self.report.table("points")

    @property
    def failed(self) -> tuple[PointResult, ...]:
        """The points that failed, each with its error."""
        return tuple(point for point in self.points if point.status == "failed")

    @property
    def exit_code(self) -> int:
        """4 if a point failed, else 0."""
        return 4 if self.failed else 0

    def point(self, id: str) -> PointResult:
        """The point of that id. InputError with the nearest one."""
        for point in self.points:
            if point.id == id:
                return point
        raise InputError(
            f"the sweep has no point {id!r}; {nearest(id, (point.id for point in self.points))}"
        )

    def run(self, id: str) -> Run:
        """The run of a finished point, read from its directory. InputError for a failed one, whose
        directory may hold an older run.
        """
        from crosslayer.load_run import load

        point = self.point(id)
        if point.status == "failed":
            raise InputError(f"point {id} failed: {point.error.splitlines()[0]}")
        return load(self.directory / "points" / point.id)

    def to_frame(self) -> Any:
        """The table as a pandas DataFrame, a row each by point. DependencyError without pandas."""
        frame = self.table.to_frame()
        attrs = dict(frame.attrs)
        frame = frame.set_index("point")
        frame.attrs = attrs
        return frame

    def figure(self, name: str) -> matplotlib.figure.Figure:
        """The figure "pareto" or "parallel", drawn by matplotlib; KeyError lists what there is."""
        from crosslayer.render.figures import draw

        return draw(self.report.figure(name))

    def __repr__(self) -> str:
        counts = f"{len(self.points)} points, {len(self.failed)} failed, {self.ran} ran now"
        return f"<SweepResult {self.name!r}: {counts}, {self.directory}>"

    def __rich__(self) -> Any:
        from crosslayer.render.terminal import renderable

        return renderable(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def result_of_sweep(
    name: str,
    directory: Path,
    points: tuple[PointResult, ...],
    wanted: tuple[str, str] | None,
    ran: int,
) -> SweepResult:
    """The points with their front and their report."""
    finished = [point for point in points if point.status == "ok"]
    objectives, note = choose(finished, wanted)
    best = front(finished, *objectives) if objectives else ()
    report = report_of(name, points, objectives, best, note)
    return SweepResult(name, directory, points, report, ran, objectives, best)


def write(
    result: SweepResult, pipeline_text: str, started: datetime, facts: Mapping[str, Any]
) -> str:
    """table.csv, table.parquet, report.html and figures; a sentence if one could not be made."""
    from crosslayer.render.figures import to_svg
    from crosslayer.render.html import render

    info = {
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "points_run_now": result.ran,
        **facts,
        "machine": machine_facts(),
    }
    page = render(result.report, run_info=info, pipeline_text=pipeline_text)
    write_whole(result.directory / "report.html", page.encode())
    (result.directory / "figures").mkdir(exist_ok=True)
    for figure in result.report.figures:
        write_whole(
            result.directory / "figures" / f"{slug(figure.name)}.svg", to_svg(figure).encode()
        )
    write_whole(result.directory / "table.csv", _csv(result.table).encode())
    return _write_parquet(result.table, result.directory / "table.parquet")


def _csv(table: Table) -> str:
    written = io.StringIO()
    lines = csv.writer(written, lineterminator="\n")
    lines.writerow(column.name for column in table.columns)
    lines.writerows(table.rows)
    return written.getvalue()


def _write_parquet(table: Table, path: Path) -> str:
    """The table with units and provenances as metadata of its columns; why not, if it cannot be."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        path.unlink(missing_ok=True)  # of an earlier sweep, and not this one's
        return "no table.parquet: pyarrow is not installed (the core's extra 'data'); see table.csv"
    arrays, fields = [], []
    for i, column in enumerate(table.columns):
        array = pyarrow.array(_of_one_type([row[i] for row in table.rows]))
        about = {"unit": column.unit, "provenance": column.provenance or ""}
        arrays.append(array)
        fields.append(pyarrow.field(column.name, array.type, metadata=about))
    written = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(arrays, schema=pyarrow.schema(fields)), written)
    write_whole(path, written.getvalue().to_pybytes())
    return ""


def _of_one_type(cells: Sequence[Any]) -> list[Any]:
    """Cells as they are if they are all alike; numbers as floats; else all as text."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if len(kinds) <= 1:
        return list(cells)
    if kinds == {int, float}:
        return [cell if cell is None else float(cell) for cell in cells]
    return [cell if cell is None else str(cell) for cell in cells]
