"""Short, self-contained HTML of results for a notebook: inline styles, no script, text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from crosslayer.comparison import Comparison
from crosslayer.contracts.report import Figure, Metric, Provenance, Report, Table
from crosslayer.render.tables import table_view, value_and_interval
from crosslayer.render.values import plain, shorten
from crosslayer.results import Run

SHOWN_ROWS = 20  # a notebook's cell is no place for more; the page and the data frame have all
SOURCE_CHARACTERS = 90
# The page's colours, in their middle between light and dark: a notebook may be either.
COLOURS: dict[Provenance, str] = {
    "measured": "#1f8a66",
    "recorded": "#3a7fb8",
    "modelled": "#b0741a",
    "published": "#9a5aa6",
}
QUIET = "opacity:0.7"
CELL = "padding:0.2em 1.2em 0.2em 0;vertical-align:baseline"


def html(value: Any) -> str:
    """A report, metric, table or figure as one HTML element."""
    if isinstance(value, Run):
        return report_html(value.report, below=f"report: {value.directory / 'report.html'}")
    if isinstance(value, Report):
        return report_html(value)
    if isinstance(value, Metric):
        return block(metrics_table((value,)))
    if isinstance(value, Table):
        return block(title(value.title), _table(value))
    if isinstance(value, Comparison):
        return _comparison(value)
    if isinstance(value, Figure):
        from crosslayer.render.figures import to_svg

        return block(to_svg(value))
    return block(f"<pre>{text(repr(value))}</pre>")


def report_html(report: Report, *, below: str = "") -> str:
    """Title, metrics, notes, and what else there is to ask for by name. below: one more line."""
    names = [
        f"{kind}: {', '.join(item.name for item in found)}"
        for kind, found in (("tables", report.tables), ("figures", report.figures))
        if found
    ]
    lines = [*report.notes, *names, *([below] if below else [])]
    return block(
        title(report.title),
        metrics_table(report.metrics) if report.metrics else "<p>No metrics.</p>",
        *(f'<div style="{QUIET}">{text(line)}</div>' for line in lines),
    )


def metrics_table(metrics: Sequence[Metric]) -> str:
    """Name, value, interval, provenance and source of each."""
    rows = []
    for metric in metrics:
        value, interval = value_and_interval(metric)
        clock = " wall clock" if metric.wall_clock else ""
        source = text(shorten(metric.source, SOURCE_CHARACTERS))
        rows.append(
            (
                text(metric.name),
                f"<b>{text(value)}</b>",
                text(interval),
                provenance_html(metric.provenance) + clock,
                f'<span style="{QUIET}">{source}</span>',
            )
        )
    return table_html(("metric", "value", "interval", "provenance", "source"), rows, right=(1,))


def table_html(
    head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """A table. head: plain text. rows: HTML. right: columns of numbers. Empty columns are left
    out.
    """
    rows = list(rows)
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]

    def line(tag: str, cells: Sequence[str]) -> str:
        sides = {i: "right" if i in right else "left" for i in used}
        inner = (f'<{tag} style="{CELL};text-align:{sides[i]}">{cells[i]}</{tag}>' for i in used)
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(line("td", row) for row in rows)
    heads = line("th", [text(name) for name in head])
    inner = f"<thead>{heads}</thead><tbody>{body}</tbody>"
    return f'<table style="border-collapse:collapse">{inner}</table>'


def provenance_html(provenance: Provenance) -> str:
    """The word in its colour."""
    return f'<span style="color:{COLOURS[provenance]}">{provenance}</span>'


def title(name: str) -> str:
    """A heading line."""
    return f"<div><b>{text(name)}</b></div>"


def block(*parts: str) -> str:
    """Parts as one element."""
    return f'<div style="overflow-x:auto">{"".join(parts)}</div>'


def text(value: str) -> str:
    """Escaped, without control characters."""
    return escape(plain(value))


def _table(table: Table) -> str:
    view = table_view(table)
    head = [f"{column.name} {column.unit}".rstrip() for column in view.columns]
    right = [i for i, column in enumerate(view.columns) if column.numeric]
    rows = [[text(cell) for cell, _ in row] for row in view.rows[:SHOWN_ROWS]]
    more = len(view.rows) - SHOWN_ROWS
    below = f"{more:,} more rows" if more > 0 else ""
    lines = [line for line in (below, table.note) if line]
    notes = "".join(f'<div style="{QUIET}">{text(line)}</div>' for line in lines)
    kinds = dict.fromkeys(c.provenance for c in view.columns if c.provenance)
    legend = " ".join(provenance_html(kind) for kind in kinds)
    return legend + table_html(head, rows, right) + notes


def _comparison(comparison: Comparison) -> str:
    from crosslayer.render.comparison import sections
    from crosslayer.render.comparison_figure import comparison_svg

    parts = [title(f"{comparison.baseline} against {', '.join(comparison.runs[1:])}")]
    parts.append(comparison_svg(comparison))
    for section in sections(comparison):
        rows = [[text(cell) for cell in row] for row in section.rows[:SHOWN_ROWS]]
        parts.append(f'<div style="margin-top:0.8em"><b>{text(section.title)}</b></div>')
        parts.append(table_html(section.head, rows, section.right))
        more = len(section.rows) - SHOWN_ROWS
        lines = [*section.notes, *([f"{more:,} more rows"] if more > 0 else [])]
        parts += [f'<div style="{QUIET}">{text(line)}</div>' for line in lines]
    return block(*parts)
