"""Draws a report's figures: stacked panels that share x, in colours most people can tell apart.

Only matplotlib's object interface is used, so nothing of pyplot's global state changes, and the SVG
of a figure is the same bytes every time.
"""

from __future__ import annotations

import hashlib
import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from crosslayer.contracts.report import Figure, Panel, Series
from crosslayer.render.parallel import draw_parallel
from crosslayer.render.svg import embeddable
from crosslayer.render.values import format_number, shorten

if TYPE_CHECKING:
    import matplotlib.figure

# The palette of Okabe and Ito (2008) without its yellow, which is too light on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
INK = "#222222"
QUIET = "#666666"
WIDTH_IN = 9.0
_LABEL_CHARACTERS = 120  # of the small font that fit side by side under a panel
_UPRIGHT_LABELS = 60  # that fit when each stands upright

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "crosslayer",
    "svg.fonttype": "none",  # text stays text: it can be read aloud, selected and searched
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so layouts agree everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": "#999999",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "legend.frameon": False,
    "axes.unicode_minus": True,
}


def draw(figure: Figure, *, caption: bool = True) -> matplotlib.figure.Figure:
    """The figure as matplotlib's, one row a panel; `caption` adds title, provenance and source."""
    from matplotlib.figure import Figure as Drawing

    with style():
        labels = _categories(figure)
        drawing = Drawing(figsize=(WIDTH_IN, _height(figure, labels)), layout="constrained")
        axes = drawing.subplots(len(figure.panels), sharex=True, squeeze=False)[:, 0]
        for panel, axis in zip(figure.panels, axes, strict=True):
            _draw_panel(axis, panel, labels)
        if figure.panels[-1].kind != "parallel":  # which names its own axes
            _label_x(axes[-1], figure, labels)
        drawing.align_ylabels(axes)
        if caption:
            title = _wrapped(figure.title, 90, 2)
            drawing.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
            origin = _wrapped(f"{figure.provenance}: {figure.source}", 130, 2)
            drawing.supxlabel(origin, x=0.01, ha="left", fontsize=7, color=QUIET)
    return drawing


def to_svg(figure: Figure, *, caption: bool = True) -> str:
    """The figure as one `<svg>` element: the same text every time, own ids, nothing external."""
    drawing = draw(figure, caption=caption)
    return as_svg(drawing, identity=figure.to_json(), label=figure.title)


def as_svg(drawing: matplotlib.figure.Figure, *, identity: str, label: str) -> str:
    """A drawing as one `<svg>` element. identity: equal drawings have equal ones, others others;
    its ids come of it. label: what a screen reader says.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    written = io.StringIO()
    with style():
        FigureCanvasSVG(drawing).print_svg(written, metadata={"Date": None})
    prefix = "f" + hashlib.sha256(identity.encode()).hexdigest()[:8]
    return embeddable(written.getvalue(), prefix=prefix, label=shorten(label, 300))


@contextmanager
def style() -> Iterator[None]:
    """Our settings over matplotlib's defaults, whatever a matplotlibrc says; undone at the end."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # The reader's own font shows the character; only its width is not known here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _categories(figure: Figure) -> list[str]:
    """The labels along x in order of appearance; empty where x is numbers."""
    every = [x for panel in figure.panels for series in panel.series for x in series.x]
    if not any(isinstance(x, str) for x in every):
        return []
    return list(dict.fromkeys(str(x) for x in every))


def _positions(series: Series, labels: Sequence[str]) -> list[float]:
    if not labels:
        return [float(x) for x in series.x]
    place = {label: float(i) for i, label in enumerate(labels)}
    return [place[str(x)] for x in series.x]


def _height(figure: Figure, labels: Sequence[str]) -> float:
    """Inches: every panel's plot is as high whatever stands above and below it."""
    plots = len(figure.panels) * (3.1 if len(figure.panels) == 1 else 1.75)
    legends = sum(0.2 * max(0, _legend(panel)[2] - 1) for panel in figure.panels)
    upright = (
        0.0
        if _flat(labels) or figure.panels[-1].kind == "parallel"
        else 0.075 * max(map(len, _short(labels)))
    )
    return 0.9 + plots + legends + upright


def _short(labels: Sequence[str]) -> list[str]:
    return [shorten(label, 28) for label in labels]


def _flat(labels: Sequence[str]) -> bool:
    """Whether the labels fit side by side."""
    return len(labels) * (max(map(len, _short(labels)), default=0) + 1.5) <= _LABEL_CHARACTERS


def _draw_panel(axis: Any, panel: Panel, labels: Sequence[str]) -> None:
    if panel.kind == "parallel":
        draw_parallel(axis, panel)
        return
    values = [y for series in panel.series for y in series.y]
    if panel.y_scale == "log" and any(y > 0 for y in values):
        axis.set_yscale("log")
        _label_decades(axis.yaxis, values)
    else:
        _label_evenly(axis.yaxis, values, 6)
    handles = [
        _draw_series(axis, panel, index, _positions(series, labels))
        for index, series in enumerate(panel.series)
    ]
    names, columns, rows = _legend(panel)
    if rows:
        axis.legend(
            *(handles, names),
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            borderaxespad=0.2,
        )
    # Above the panel rather than along its side: it reads without turning the head.
    axis.set_title(_wrapped(panel.y_label, 100, 2), loc="left", pad=6.0 + 14.0 * rows)


def _draw_series(axis: Any, panel: Panel, index: int, x: list[float]) -> Any:
    """Draw one series; returns what the legend shows for it."""
    series = panel.series[index]
    colour = COLOURS[index % len(COLOURS)]
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    marker = MARKERS[index % len(MARKERS)]
    y = list(series.y)
    if panel.kind == "bars":
        width = 0.8 * _spacing(panel, x) / len(panel.series)
        x = [at + (index - (len(panel.series) - 1) / 2) * width for at in x]
        handle = axis.bar(x, y, width=width * 0.94, color=colour, linewidth=0)
    elif panel.kind == "points":
        (handle,) = axis.plot(x, y, marker, color=colour)
    elif panel.kind == "steps":
        (handle,) = axis.step(x, y, dash, where="mid", color=colour)
    else:
        (handle,) = axis.plot(x, y, dash, color=colour, marker=marker if len(x) <= 40 else "")
    if series.low is not None or series.high is not None:
        _draw_interval(axis, panel, series, x, colour)
    return handle


def _draw_interval(axis: Any, panel: Panel, series: Series, x: list[float], colour: str) -> None:
    low = list(series.low if series.low is not None else series.y)
    high = list(series.high if series.high is not None else series.y)
    if panel.kind in ("line", "steps") and len(x) > 1:
        step = "mid" if panel.kind == "steps" else None
        axis.fill_between(x, low, high, step=step, color=colour, alpha=0.18, linewidth=0)
        return
    # Drawn as lines, not as distances from y, which must not be negative: y may lie outside.
    ink = INK if panel.kind == "bars" else colour
    axis.vlines(x, low, high, color=ink, linewidth=1.0)
    for ends in (low, high):
        axis.plot(x, ends, "_", color=ink, markersize=5, markeredgewidth=1.0)


def _spacing(panel: Panel, x: Sequence[float]) -> float:
    """The smallest distance between two places on x, 1 where there is none."""
    if any(isinstance(at, str) for series in panel.series for at in series.x):
        return 1.0
    places = sorted({float(at) for series in panel.series for at in series.x})
    return min((b - a for a, b in pairwise(places)), default=1.0)


def _label_x(axis: Any, figure: Figure, labels: Sequence[str]) -> None:
    axis.set_xlabel(shorten(figure.x_label, 100))
    if labels:
        short, flat = _short(labels), _flat(labels)
        every = 1 if flat else math.ceil(len(short) / _UPRIGHT_LABELS)
        places = range(0, len(short), every)
        axis.set_xticks(list(places), [short[i] for i in places], rotation=0 if flat else 90)
        axis.set_xlim(-0.7, len(short) - 0.3)
        return
    x = [float(at) for panel in figure.panels for series in panel.series for at in series.x]
    if figure.x_scale == "log" and any(at > 0 for at in x):
        axis.set_xscale("log")
        _label_decades(axis.xaxis, x)
    else:
        _label_evenly(axis.xaxis, x, 10)


def _label_evenly(axis: Any, values: Sequence[float], most: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    whole = all(value == int(value) for value in values)
    axis.set_major_locator(
        MaxNLocator(
            nbins=most, steps=[1, 2, 2.5, 5, 10], integer=whole, min_n_ticks=1 if whole else 2
        )
    )
    if max((abs(value) for value in values), default=0.0) >= 1000:
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))


def _label_decades(axis: Any, values: Sequence[float]) -> None:
    """A label a decade in plain text; some in between where the values span fewer than two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = [value for value in values if value > 0]
    decades = math.log10(max(positive) / min(positive))
    text = FuncFormatter(lambda value, _: format_number(value))
    axis.set_major_locator(LogLocator(numticks=9))
    axis.set_major_formatter(text)
    axis.set_minor_formatter(text if decades < 2 else NullFormatter())
    if decades < 2:
        axis.set_minor_locator(LogLocator(subs=(2, 3, 4, 6) if decades < 1 else (2, 5)))


def _wrapped(text: str, width: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(shorten(text, width * lines - 10), width))


def _legend(panel: Panel) -> tuple[list[str], int, int]:
    """(names, columns, rows) of a panel's legend; one series needs none, so 0 rows."""
    names = [shorten(series.label, 48) for series in panel.series]
    if len(names) == 1 or panel.kind == "parallel":
        return names, 1, 0
    # Matplotlib leaves out labels that start with an underscore; a space of no width keeps ours.
    names = [f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name for name in names]
    columns = max(1, min(len(names), 110 // (max(map(len, names)) + 6)))
    return names, columns, math.ceil(len(names) / columns)
