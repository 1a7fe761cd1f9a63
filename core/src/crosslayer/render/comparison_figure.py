"""The relative difference of every metric to the baseline's, with its interval: one row a metric, a
colour a run, a marker a provenance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crosslayer.contracts.report import Provenance
from crosslayer.render.figures import COLOURS, INK, QUIET, WIDTH_IN, as_svg, style
from crosslayer.render.values import format_number, shorten

if TYPE_CHECKING:
    import matplotlib.figure

    from crosslayer.comparison import Comparison, Entry

MARKERS: dict[Provenance, str] = {
    "measured": "o",
    "recorded": "s",
    "modelled": "^",
    "published": "D",
}
MOST_ROWS = 40  # more: those that change most
LINEAR = 1.5  # relative differences up to this have an even scale; beyond it they get decades
EVEN = 0.1  # what such a scale still shows evenly
TICKS = (-10, -1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3, 10, 100, 1000, 1e4, 1e6)


@dataclass(frozen=True)
class _Point:
    """A relative difference, 0.1 for a tenth more, and the ends of its interval."""

    value: float
    ends: tuple[float, float] | None
    run: int
    provenance: Provenance


def draw_comparison(comparison: Comparison) -> matplotlib.figure.Figure | None:
    """The figure; None where no metric of two runs has a ratio other than 1."""
    from matplotlib.figure import Figure

    rows, left_out = _rows(comparison)
    if not rows:
        return None
    with style():
        runs = len(comparison.runs) - 1
        height = 1.3 + len(rows) * (0.16 + 0.12 * runs)
        drawing = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        axis = drawing.subplots()
        for place, (_, points) in enumerate(rows):
            for point in points:
                _draw(axis, point, place + 0.6 * ((point.run - 0.5) / runs - 0.5))
        axis.axvline(0.0, color=INK, linewidth=0.8)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        names = [shorten(name, 48) for name, _ in rows]
        axis.set_yticks(range(len(rows)), names)
        axis.grid(axis="x")
        axis.grid(visible=False, axis="y")
        _scale(axis, [point for _, points in rows for point in points])
        axis.set_xlabel(f"difference to {shorten(comparison.baseline, 60)}, in % of its value")
        _legend(drawing, comparison, {point.provenance for _, points in rows for point in points})
        if left_out:
            drawing.supxlabel(left_out, x=0.01, ha="left", fontsize=7, color=QUIET)
    return drawing


def comparison_svg(comparison: Comparison) -> str:
    """The figure as one `<svg>` element, the same text every time; "" where there is none."""
    drawing = draw_comparison(comparison)
    if drawing is None:
        return ""
    label = f"Relative difference of each metric to {comparison.baseline}"
    return as_svg(drawing, identity=repr(comparison.metrics), label=label)


def _rows(comparison: Comparison) -> tuple[list[tuple[str, list[_Point]]], str]:
    """(name, points) of each metric that changes, and a sentence about those that are left out."""
    rows, still, without = [], 0, 0
    for row in comparison.metrics:
        base = row.entries[0].metric
        points = [
            point
            for run, entry in enumerate(row.entries[1:], start=1)
            if (point := _point(entry, base.value if base else 0.0, run)) is not None
        ]
        if any(point.value for point in points):
            rows.append((row.name, points))
        elif points:
            still += 1
        else:
            without += 1
    more = len(rows) - MOST_ROWS
    if more > 0:
        size = {name: max(abs(point.value) for point in points) for name, points in rows}
        kept = sorted(size, key=lambda name: size[name], reverse=True)[:MOST_ROWS]
        rows = [row for row in rows if row[0] in kept]
    counts = (
        (still, "unchanged"),
        (without, "that cannot be compared or whose baseline is 0"),
        (max(more, 0), "that change less"),
    )
    said = [f"{count} {what}" for count, what in counts if count]
    return rows, f"Not shown: {', '.join(said)}." if said else ""


def _point(entry: Entry, base: float, run: int) -> _Point | None:
    if entry.ratio is None or entry.metric is None or entry.difference is None:
        return None
    if entry.verdict == "unchanged":
        return _Point(0.0, None, run, entry.metric.provenance)
    ends = None
    if entry.ratio_interval is not None and base > 0:
        ends = (entry.ratio_interval.low - 1, entry.ratio_interval.high - 1)
    elif entry.difference_interval is not None:
        between = entry.difference_interval
        ends = (between.low / abs(base), between.high / abs(base))
    return _Point(entry.difference / abs(base), ends, run, entry.metric.provenance)


def _draw(axis: Any, point: _Point, y: float) -> None:
    colour = COLOURS[(point.run - 1) % len(COLOURS)]
    marker = MARKERS[point.provenance]
    axis.plot(point.value, y, marker, color=colour, markersize=5, clip_on=False)
    if point.ends is not None:
        axis.hlines(y, *point.ends, color=colour, linewidth=1.0)
        axis.plot(point.ends, (y, y), "|", color=colour, markersize=5, markeredgewidth=1.0)


def _scale(axis: Any, points: list[_Point]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    ends = [end for point in points for end in (point.value, *(point.ends or ()))]
    if max(map(abs, ends)) > LINEAR:
        axis.set_xscale("symlog", linthresh=EVEN)
        axis.xaxis.set_major_locator(FixedLocator(TICKS))
        axis.xaxis.set_minor_locator(NullLocator())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 2.5, 5, 10]))

    def text(value: float, _: int) -> str:
        number = format_number(round(100 * value, 9)).replace("-", "−")
        return f"+{number} %" if value > 0 else f"{number} %"

    axis.xaxis.set_major_formatter(FuncFormatter(text))


def _legend(drawing: Any, comparison: Comparison, used: set[Provenance]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=3, label=shorten(run, 48))
        for i, run in enumerate(comparison.runs[1:])
    ]
    handles += [
        Line2D([], [], color=QUIET, marker=marker, linestyle="", label=name)
        for name, marker in MARKERS.items()
        if name in used
    ]
    drawing.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 4))
