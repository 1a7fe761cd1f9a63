"""What the page's tables hold: numbers with provenance, before beside after, aligned columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crosslayer.contracts.report import Cell, Metric, Provenance, Table
from crosslayer.render.values import (
    aligned,
    exact_value,
    format_number,
    format_ratio,
    format_value,
)

ORIGINAL = "_original"  # `perplexity_original` is `perplexity` of the model before any transform
NOTHING = "–"
SHORT_TEXT = 26  # characters; longer cells may be broken into lines
LONG_TABLE = 40  # rows; a longer one scrolls in a box of its own


@dataclass(frozen=True)
class Number:
    """A metric's value as it is shown, and everything that has to stand beside it."""

    text: str
    exact: str
    interval: str  # "" where there is none
    provenance: Provenance
    source: str
    wall_clock: bool
    samples: str


@dataclass(frozen=True)
class NumberRow:
    """A metric by itself."""

    name: str
    label: str
    number: Number
    note: str


@dataclass(frozen=True)
class Pair:
    """A metric before and after; `ratio` is after over before, `verdict` what that means."""

    name: str
    label: str
    before: Number
    after: Number
    ratio: str
    verdict: str
    sources: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ColumnView:
    """A column's head; `numeric` columns are set to the right, `short` texts are never broken."""

    name: str
    unit: str
    provenance: Provenance | None
    numeric: bool
    short: bool


@dataclass(frozen=True)
class TableView:
    """A table as it is shown: rows of (text, exact value or "")."""

    table: Table
    columns: tuple[ColumnView, ...]
    rows: tuple[tuple[tuple[str, str], ...], ...]
    long: bool


def pairs_and_rest(metrics: Sequence[Metric]) -> tuple[list[Pair], list[Metric]]:
    """Metrics that have an original of the same unit, and all others, in the report's order."""
    named = {metric.name: metric for metric in metrics}
    pairs: list[Pair] = []
    paired: set[str] = set()
    for metric in metrics:
        before = named.get(metric.name + ORIGINAL)
        if before is not None and before.unit == metric.unit and metric.name not in paired:
            pairs.append(_pair(before, metric))
            paired |= {metric.name, before.name}
    return pairs, [metric for metric in metrics if metric.name not in paired]


def number_rows(metrics: Sequence[Metric]) -> list[NumberRow]:
    """Metrics by themselves."""
    return [NumberRow(m.name, label(m.name), _number(m, *_shown(m)[0]), m.note) for m in metrics]


def value_and_interval(metric: Metric) -> tuple[str, str]:
    """("21.68", "20.90 to 22.50 (95 %)") in one prefix; "" where there is no interval."""
    return _shown(metric)[0]


def table_view(table: Table) -> TableView:
    """The table with one unit prefix a column."""
    columns: list[ColumnView] = []
    shown: list[list[tuple[str, str]]] = []
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        numbers = [c for c in cells if isinstance(c, (int, float)) and not isinstance(c, bool)]
        numeric = bool(numbers) and len(numbers) == sum(cell is not None for cell in cells)
        unit = column.unit
        if numeric:
            lined_up = aligned(numbers, unit)
            texts = iter(lined_up.texts)
            unit = lined_up.unit
            shown.append([_numeric_cell(cell, texts, column.unit) for cell in cells])
        else:
            shown.append([_text_cell(cell, column.unit) for cell in cells])
        short = all(len(text) <= SHORT_TEXT for text, _ in shown[-1])
        columns.append(ColumnView(column.name, unit, column.provenance, numeric, short))
    rows = tuple(tuple(column[i] for column in shown) for i in range(len(table.rows)))
    return TableView(table, tuple(columns), rows, len(rows) > LONG_TABLE)


def label(name: str) -> str:
    """A metric's name as a person reads it; the unit at its end stands beside the value already."""
    plain = name.removesuffix("_s").removesuffix("_j")
    return plain.replace("_", " ").strip() or name


def _shown(*metrics: Metric) -> list[tuple[str, str]]:
    """(value with unit, interval) of metrics of one unit, all in one prefix, decimals alike."""
    unit = metrics[0].unit
    if len(metrics) == 1 and metrics[0].interval is None:
        return [(format_value(metrics[0].value, unit), "")]
    numbers = [number for m in metrics for number in (m.value, *(m.interval or ()))]
    lined_up = aligned(numbers, unit)
    texts = iter(lined_up.texts)
    shown = []
    for metric in metrics:
        value, interval = f"{next(texts)} {lined_up.unit}".rstrip(), ""
        if metric.interval is not None:
            interval = f"{next(texts)} to {next(texts)}"
            if metric.confidence is not None:
                interval += f" ({format_number(metric.confidence * 100)} %)"
        shown.append((value, interval))
    return shown


def _number(metric: Metric, text: str, interval: str) -> Number:
    return Number(
        text=text,
        exact=exact_value(metric.value, metric.unit),
        interval=interval,
        provenance=metric.provenance,
        source=metric.source,
        wall_clock=metric.wall_clock,
        samples=f"n = {metric.samples:,}" if metric.samples else "",
    )


def _pair(before: Metric, after: Metric) -> Pair:
    first, second = _shown(before, after)
    ratio = format_ratio(after.value / before.value) if before.value else NOTHING
    sources = tuple(dict.fromkeys((after.source, before.source)))
    notes = tuple(dict.fromkeys(note for note in (after.note, before.note) if note))
    return Pair(
        name=after.name,
        label=label(after.name),
        before=_number(before, *first),
        after=_number(after, *second),
        ratio=ratio,
        verdict=_verdict(before, after),
        sources=sources,
        notes=notes,
    )


def _verdict(before: Metric, after: Metric) -> str:
    """better, worse or unchanged; where two intervals overlap, only that they do.

    Sums of the same terms in another order differ in their last digits: that is no change.
    """
    if math.isclose(after.value, before.value, rel_tol=1e-9):
        return "unchanged"
    if after.interval and before.interval:
        low, high = (
            max(after.interval[0], before.interval[0]),
            min(after.interval[1], before.interval[1]),
        )
        if low <= high:
            return "intervals overlap"
    if after.better is None:
        return ""
    return "better" if (after.value < before.value) == (after.better == "lower") else "worse"


def _numeric_cell(cell: Cell, texts: Iterator[str], unit: str) -> tuple[str, str]:
    if not isinstance(cell, (int, float)):
        return NOTHING, ""
    return next(texts), exact_value(cell, unit)


def _text_cell(cell: Cell, unit: str) -> tuple[str, str]:
    if cell is None:
        return NOTHING, ""
    if isinstance(cell, bool):
        return ("yes" if cell else "no"), ""
    if isinstance(cell, str):
        return cell, ""
    return format_number(cell), exact_value(cell, unit)
