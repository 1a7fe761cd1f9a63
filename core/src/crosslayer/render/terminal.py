"""A run's numbers as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crosslayer.comparison import Comparison
from crosslayer.contracts.report import Metric, Provenance, Report, Table
from crosslayer.render.tables import table_view, value_and_interval
from crosslayer.render.values import plain, shorten
from crosslayer.results import Run

if TYPE_CHECKING:
    from rich.console import Console

COLOURS: dict[Provenance, str] = {
    "measured": "green",
    "recorded": "cyan",
    "modelled": "yellow",
    "published": "magenta",
}
SOURCE_CHARACTERS = 44
SHOWN_ROWS = 40


def print_report(report: Report, console: Console) -> None:
    """Print title, metrics and notes. What looks like markup in a name is printed as it is."""
    from rich.text import Text

    console.print(Text(plain(report.title), style="bold"))
    if report.metrics:
        console.print(metrics_table(report.metrics))
    else:
        console.print("No metrics.")
    for note in report.notes:
        console.print(Text(plain(note), style="dim"))


def renderable(value: Any) -> Any:
    """What rich shows of a report, metric, table or figure."""
    from rich.console import Group
    from rich.text import Text

    if isinstance(value, Report):
        title = Text(plain(value.title), style="bold")
        notes = (Text(plain(note), style="dim") for note in value.notes)
        numbers = metrics_table(value.metrics) if value.metrics else "No metrics."
        return Group(title, numbers, *notes)
    if isinstance(value, Run):
        return renderable(value.report)
    if isinstance(value, Comparison):
        from crosslayer.render.comparison import text_lines

        return Text("\n".join(text_lines(value)), no_wrap=True)
    if isinstance(value, Metric):
        return metrics_table((value,))
    if isinstance(value, Table):
        return _table(value)
    return Text(plain(repr(value)))


def _table(table: Table) -> Any:
    from rich.table import Table as Drawn
    from rich.text import Text

    view = table_view(table)
    drawn = Drawn(title=Text(plain(table.title)), title_justify="left", box=_box(), pad_edge=False)
    for column in view.columns:
        head = f"{column.name} {column.unit}".rstrip()
        if column.provenance:
            head += f"\n{column.provenance}"
        drawn.add_column(Text(plain(head)), justify="right" if column.numeric else "left")
    for row in view.rows[:SHOWN_ROWS]:
        drawn.add_row(*(Text(plain(text)) for text, _ in row))
    if len(view.rows) > SHOWN_ROWS:
        drawn.caption = f"{len(view.rows) - SHOWN_ROWS:,} more rows"
    return drawn


def _box() -> Any:
    from rich import box

    return box.SIMPLE_HEAD


def metrics_table(metrics: Sequence[Metric]) -> Any:
    """Name, value, interval, provenance and source of each."""
    from rich.table import Table as Drawn
    from rich.text import Text

    table = Drawn(box=_box(), pad_edge=False)
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("interval", justify="right")
    table.add_column("provenance", no_wrap=True)
    table.add_column("source", overflow="fold")
    for metric in metrics:
        provenance = Text(metric.provenance, style=COLOURS[metric.provenance])
        if metric.wall_clock:
            provenance.append(" (wall clock)", style="dim")
        value, interval = value_and_interval(metric)
        table.add_row(
            Text(plain(metric.name)),
            Text(plain(value)),
            Text(interval),
            provenance,
            Text(shorten(metric.source, SOURCE_CHARACTERS), style="dim"),
        )
    return table
