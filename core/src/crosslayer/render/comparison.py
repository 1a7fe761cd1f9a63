"""A comparison as tables of text: for the terminal, a notebook and a page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crosslayer.compare_inputs import Changed, shown_value
from crosslayer.compare_interaction import Interaction, InteractionTable
from crosslayer.compare_samples import Interval
from crosslayer.contracts.report import Metric
from crosslayer.render.tables import NOTHING
from crosslayer.render.values import aligned, format_number, format_ratio, plain, shorten

if TYPE_CHECKING:
    from crosslayer.comparison import Comparison, Entry, Row

VALUE_CHARACTERS = 60
PAIRED = (
    "Paired: Student t over the same windows or questions in both runs. Unpaired: the runs'"
    " own intervals in quadrature, as if the runs were independent."
)
SCALES = (
    "Times, sizes, energies and perplexities are judged as factors: gains add up where both is"
    " a × b / neither, that is where their logarithms add up and the ratio of ratios is 1. All"
    " other metrics are judged as differences. Without an interval, less than 1 % of the effects"
    " is called no interaction."
)


@dataclass(frozen=True)
class Section:
    """A table: head and rows of text; `right`: columns of numbers. groups: rows that belong
    together, by their first row.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    folds: tuple[int, ...] = ()  # columns that a page shows under the one before them
    blocks: bool = False  # too wide for a terminal: a paragraph a row there, its last cell first


def sections(comparison: Comparison) -> Iterator[Section]:
    """Metrics, interactions, changed inputs, surroundings; empty ones are left out."""
    yield _metrics(comparison)
    for table in comparison.interactions:
        yield _interactions(table)
    if comparison.inputs:
        yield _changed("Inputs that differ", comparison.runs, comparison.inputs)
    if comparison.surroundings:
        title = "Versions, threads and machines that differ"
        yield _changed(title, comparison.runs, comparison.surroundings)


def text_lines(comparison: Comparison) -> Iterator[str]:
    """The comparison for a terminal."""
    for place, section in enumerate(sections(comparison)):
        if place:
            yield ""
        yield section.title
        lines = _blocks(section) if section.blocks else _aligned_text(section)
        yield from ("  " + line for line in lines)
        for note in section.notes:
            yield from textwrap.wrap(note, 100, initial_indent="  ", subsequent_indent="  ")


def page(comparison: Comparison) -> str:
    """The comparison as one HTML page in the style of a run's report."""
    from crosslayer.render.comparison_figure import comparison_svg
    from crosslayer.render.html import MEANING, drawn, fill

    used = {e.metric.provenance for row in comparison.metrics for e in row.entries if e.metric}
    return fill(
        "comparison.html.j2",
        comparison=comparison,
        title=f"{comparison.baseline} against {', '.join(comparison.runs[1:])}",
        figure=drawn(comparison_svg(comparison)),
        metrics=_for_a_page(_metrics(comparison)),
        others=list(sections(comparison))[1 + len(comparison.interactions) :],
        tables=[(table, _for_a_page(_interactions(table))) for table in comparison.interactions],
        sources=list(_sources(comparison)),
        legend=[(name, MEANING[name]) for name in MEANING if name in used],
    )


def _for_a_page(section: Section) -> Section:
    """Without empty columns, and without the sentences that a page has above its table; intervals,
    and what stands in brackets behind a number, get lines of their own.
    """
    used = [i for i in range(len(section.head)) if any(row[i] for row in section.rows)]
    used = [i for i in used if i not in section.folds]
    if section.blocks:
        used = used[:-1]

    def cell(row: tuple[str, ...], i: int) -> str:
        text = row[i]
        if i + 1 in section.folds and row[i + 1]:
            text += f"\n{row[i + 1]}"
        return text.replace(" (", "\n(").replace(" [", "\n[") if i in section.right else text

    return replace(
        section,
        head=tuple(section.head[i] for i in used),
        rows=tuple(tuple(cell(row, i) for i in used) for row in section.rows),
        right=tuple(place for place, i in enumerate(used) if i in section.right),
    )


def _metrics(comparison: Comparison) -> Section:
    rows: list[tuple[str, ...]] = []
    groups = []
    for row in comparison.metrics:
        groups.append(len(rows))
        rows += _metric_rows(row)
    head = (
        *("metric", "run", "value", "provenance"),
        *("difference", "its interval", "ratio", "its interval", ""),
    )
    kinds = [e.difference_interval for row in comparison.metrics for e in row.entries]
    notes = (PAIRED,) if any(kinds) else ()
    return Section("Metrics", head, tuple(rows), (2, 4, 6), notes, tuple(groups), folds=(5, 7))


def _metric_rows(row: Row) -> Iterator[tuple[str, ...]]:
    values = _in_one_prefix([entry.metric for entry in row.entries])
    for place, (entry, value) in enumerate(zip(row.entries, values, strict=True)):
        difference, ends = _difference(entry)
        metric = entry.metric
        clock = ", wall clock" if metric and metric.wall_clock else ""
        yield (
            plain(row.name) if place == 0 else "",
            plain(entry.run),
            value,
            f"{metric.provenance}{clock}" if metric else "",
            difference,
            ends,
            NOTHING if entry.ratio is None and difference != "" else _ratio(entry.ratio),
            _ratio_ends(entry.ratio_interval),
            "; ".join(part for part in (entry.verdict, entry.remark) if part),
        )


def _in_one_prefix(metrics: Sequence[Metric | None]) -> list[str]:
    """Values in one prefix where their unit is the same."""
    found = [metric for metric in metrics if metric is not None]
    texts: dict[int, str] = {}
    for unit in {metric.unit for metric in found}:
        same = [metric for metric in found if metric.unit == unit]
        shown = aligned([metric.value for metric in same], unit)
        for metric, text in zip(same, shown.texts, strict=True):
            texts[id(metric)] = f"{text} {shown.unit}".rstrip()
    return [NOTHING if metric is None else texts[id(metric)] for metric in metrics]


def _difference(entry: Entry) -> tuple[str, str]:
    if entry.difference is None or entry.metric is None:
        return "", ""
    ends = entry.difference_interval
    # What rounding leaves of sums in another order is no difference that anybody should read.
    difference_of = 0.0 if entry.verdict == "unchanged" else entry.difference
    numbers = [difference_of, *((ends.low, ends.high) if ends else ())]
    shown = aligned(numbers, entry.metric.unit)
    difference = f"{_signed(shown.texts[0])} {_unit(shown.unit)}".rstrip()
    if ends is None:
        return difference, ""
    return difference, f"{_signed(shown.texts[1])} to {_signed(shown.texts[2])} ({_how(ends)})"


def _how(ends: Interval) -> str:
    count = f", n = {ends.samples:,}" if ends.samples else ""
    return f"{format_number(ends.confidence * 100)} %, {ends.how}{count}"


def _signed(text: str) -> str:
    """A plus where there is no minus; 0 has neither."""
    return text if text.startswith("−") or not text.strip("0.,") else f"+{text}"


def _unit(unit: str) -> str:
    """The unit of a difference: that of two shares is in points, not in per cent of anything."""
    return "points" if unit == "%" else unit


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else format_ratio(ratio)


def _interactions(table: InteractionTable) -> Section:
    shown = [row for row in table.rows if row.verdict != "unchanged"]
    still = [plain(row.metric) for row in table.rows if row.verdict == "unchanged"]
    head = (
        *("metric", "neither", "a", "b", "both", "a alone", "b alone", "together"),
        *("interaction", "ratio of ratios", "do they survive each other?"),
    )
    rows = tuple(_interaction_row(row) for row in shown)
    notes = [f"a is {table.a}; b is {table.b}."]
    notes.append("Runs: " + _listed(("neither", "a", "b", "both"), table.runs) + ".")
    if still:
        notes.append(f"Neither changes {', '.join(still)}.")
    notes.append(SCALES)
    title = f"Two by two: {table.a.name} and {table.b.name}"
    places = tuple(range(1, 10))
    said = tuple(plain(note) for note in notes)
    return Section(title, head, rows, places, said, blocks=True)


def _listed(names: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))


def _interaction_row(row: Interaction) -> tuple[str, ...]:
    shown = aligned(row.values, row.unit)
    values = [f"{text} {shown.unit}".rstrip() for text in shown.texts]
    if row.interaction is None:
        return (plain(row.metric), *values, "", "", "", "", "", row.sentence)
    # Each effect in its own prefix: one far below the others would be left without digits.
    effects = [_change(_rounded(value, row.values), row.unit) for value in row.effects]
    if row.ratios is not None:
        pairs = zip(effects, row.ratios, strict=True)
        effects = [f"{text} ({format_ratio(ratio)})" for text, ratio in pairs]
    return (
        plain(row.metric),
        *values,
        *effects,
        _change(_rounded(row.interaction, row.values), row.unit, row.interaction_interval),
        _ratio(row.ratio_of_ratios) + _ratio_interval(row.ratio_interval),
        row.sentence,
    )


def _rounded(value: float, of: Sequence[float]) -> float:
    """0 for what rounding leaves of these values."""
    return 0.0 if abs(value) <= 1e-9 * max(map(abs, of)) else value


def _change(value: float, unit: str, ends: Interval | None = None) -> str:
    shown = aligned([value, *((ends.low, ends.high) if ends else ())], unit)
    text = f"{_signed(shown.texts[0])} {_unit(shown.unit)}".rstrip()
    if ends is None:
        return text
    return f"{text} [{_signed(shown.texts[1])} to {_signed(shown.texts[2])}, {_how(ends)}]"


def _ratio_interval(ends: Interval | None) -> str:
    return "" if ends is None else f" [{_ratio_ends(ends)}]"


def _ratio_ends(ends: Interval | None) -> str:
    return "" if ends is None else f"{format_ratio(ends.low)} to {format_ratio(ends.high)}"


def _changed(title: str, runs: Sequence[str], rows: Sequence[Changed]) -> Section:
    cells = tuple(
        (plain(row.key), *(shorten(shown_value(v), VALUE_CHARACTERS) for v in row.values))
        for row in rows
    )
    return Section(title, ("key", *map(plain, runs)), cells)


def _sources(comparison: Comparison) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The sources of each metric that has more than one, by run."""
    for row in comparison.metrics:
        found = [(e.run, e.metric.source) for e in row.entries if e.metric]
        if len({source for _, source in found}) > 1:
            yield row.name, found


def _blocks(section: Section) -> Iterator[str]:
    for name, *cells, sentence in section.rows:
        yield f"{name}: {sentence}"
        named = [
            f"{head} {cell}" for head, cell in zip(section.head[1:], cells, strict=False) if cell
        ]
        for line in (named[:4], named[4:7], named[7:]):
            if line:
                yield "    " + ", ".join(line)


def _aligned_text(section: Section) -> Iterator[str]:
    """Lines of a table; empty columns are left out, numbers stand to the right."""
    head, rows = section.head, section.rows
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    widths = {i: max(len(row[i]) for row in (head, *rows)) for i in used}
    for row in (head, *rows):
        cells = (
            row[i].rjust(widths[i]) if i in section.right else row[i].ljust(widths[i]) for i in used
        )
        yield "  ".join(cells).rstrip()
