"""The README's figures, as SVG in figures/: quality by sparsity, FlexCiM's gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from crosslayer.contracts.report import Figure, Panel, Provenance, Series
from crosslayer.traces.drawing import write_svg

FOLDER = Path(__file__).resolve().parent / "figures"
Point = tuple[float, float, tuple[float, float] | None]  # x, y, interval
Panels = Mapping[str, Mapping[str, Sequence[Point]]]  # what is on y -> label -> points


def draw(
    name: str, title: str, x_label: str, panels: Panels, provenance: Provenance, source: str
) -> Path:
    """One figure of lines; returns where it lies. x is logarithmic where it spans three decades."""
    drawn = [Panel(series=_lines(lines), y_label=label) for label, lines in panels.items()]
    x = [float(at) for panel in drawn for series in panel.series for at in series.x]
    figure = Figure(
        name=name,
        title=title,
        x_label=x_label,
        x_scale="log" if min(x) > 0 and max(x) > 1000 * min(x) else "linear",
        panels=tuple(drawn),
        provenance=provenance,
        source=source,
    )
    FOLDER.mkdir(exist_ok=True)
    write_svg((figure,), FOLDER / f"{name}.svg")
    return FOLDER / f"{name}.svg"


def _lines(lines: Mapping[str, Sequence[Point]]) -> tuple[Series, ...]:
    series = []
    for label, points in lines.items():
        ends = [interval for _, _, interval in points if interval]
        whole = len(ends) == len(points)
        series.append(
            Series(
                label=label,
                x=tuple(x for x, _, _ in points),
                y=tuple(y for _, y, _ in points),
                low=tuple(low for low, _ in ends) if whole else None,
                high=tuple(high for _, high in ends) if whole else None,
            )
        )
    return tuple(series)
