"""A run's numbers as a table on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosslayer.contracts.report import Provenance, Report
from crosslayer.render.tables import value_and_interval
from crosslayer.render.values import plain, shorten

if TYPE_CHECKING:
    from rich.console import Console

COLOURS: dict[Provenance, str] = {
    "measured": "green",
    "recorded": "cyan",
    "modelled": "yellow",
    "published": "magenta",
}
SOURCE_CHARACTERS = 44


def print_report(report: Report, console: Console) -> None:
    """Print title, metrics and notes. What looks like markup in a name is printed as it is."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(Text(plain(report.title), style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("interval", justify="right")
    table.add_column("provenance", no_wrap=True)
    table.add_column("source", overflow="fold")
    for metric in report.metrics:
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
    if report.metrics:
        console.print(table)
    else:
        console.print("No metrics.")
    for note in report.notes:
        console.print(Text(plain(note), style="dim"))
