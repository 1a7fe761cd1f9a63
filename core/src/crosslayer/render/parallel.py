"""Parallel coordinates: an upright scale for each quantity, a line for each point across all."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from crosslayer.contracts.report import Axis, Panel
from crosslayer.render.values import aligned, shorten

# From dark blue over grey to orange, all readable on white and told apart by most people.
COLOURS = ("#0b3c6f", "#0072b2", "#7a8b99", "#e69f00", "#c44e00")
TICKS = 5
MOST_LABELS = 12
NAME_CHARACTERS = 115  # that fit side by side under the panel
INK = "#222222"


def draw_parallel(axis: Any, panel: Panel) -> None:
    """Draw the panel; what stands along x is not drawn here."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("points", COLOURS)
    values = [[series.y[at] for series in panel.series] for at in range(len(panel.axes))]
    columns = [
        _heights(column, column, scale) for column, scale in zip(values, panel.axes, strict=True)
    ]
    places = range(len(panel.axes))
    faint = 0.9 if len(panel.series) <= 40 else 0.4
    for heights in zip(*columns, strict=True):
        axis.plot(places, heights, "-", color=colours(heights[-1]), alpha=faint, linewidth=1.3)
    for at, scale in zip(places, panel.axes, strict=True):
        axis.axvline(at, ymin=0.05, ymax=0.95, color="#777777", linewidth=0.9, zorder=3)
        for height, text in _ticks(values[at], scale):
            axis.annotate(
                text, (at, height), xytext=(4, 0), textcoords="offset points", fontsize=7,
                color=INK, va="center", zorder=4,
                bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
            )  # fmt: skip
    axis.set_ylim(-1 / 18, 1 + 1 / 18)  # of which ymin and ymax above are the tenths
    width = max(8, NAME_CHARACTERS // len(panel.axes))
    axis.set_xticks(list(places), [_in_lines(scale.name, width) for scale in panel.axes])
    axis.set_xlim(-0.25, len(panel.axes) - 0.45)
    axis.set_yticks([])
    axis.grid(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="x", length=0)
    axis.set_title(shorten(panel.y_label, 100), loc="left", pad=6.0)


def _heights(chosen: Sequence[float], values: Sequence[float], scale: Axis) -> list[float]:
    """Where numbers stand between the least (0) and the greatest (1) of the values; in the middle
    if all are equal.
    """
    low, high = _ends(values, scale)
    if low == high:
        return [0.5] * len(chosen)
    return [(_transformed(value, scale) - low) / (high - low) for value in chosen]


def _ends(values: Sequence[float], scale: Axis) -> tuple[float, float]:
    if scale.labels:
        return 0.0, float(len(scale.labels) - 1)
    return _transformed(min(values), scale), _transformed(max(values), scale)


def _transformed(value: float, scale: Axis) -> float:
    return math.log10(value) if scale.scale == "log" and value > 0 else float(value)


def _ticks(values: Sequence[float], scale: Axis) -> list[tuple[float, str]]:
    """(height, text): every label, or every value where there are few, or even steps."""
    if scale.labels:
        every = math.ceil(len(scale.labels) / MOST_LABELS)
        chosen: list[float] = [float(i) for i in range(0, len(scale.labels), every)]
        texts = [shorten(scale.labels[int(at)], 24) for at in chosen]
    else:
        chosen = sorted(set(values))
        if len(chosen) > TICKS:
            low, high = _ends(values, scale)
            steps = [low + (high - low) * i / (TICKS - 1) for i in range(TICKS)]
            chosen = [10**step for step in steps] if scale.scale == "log" else steps
        written = aligned(chosen, scale.unit)
        texts = [f"{text} {written.unit}".rstrip() for text in written.texts]
    return list(zip(_heights(chosen, values, scale), texts, strict=True))


def _in_lines(name: str, width: int) -> str:
    """A name in lines of that width, broken after its dots and underscores."""
    lines = [""]
    for piece in re.findall(r"[^._\s]*[._\s]*", shorten(name, 4 * width)):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)
