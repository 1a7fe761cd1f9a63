"""The figures that recorded answers and live models share, as SVG beside the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tables import EQUAL, KS, LAMBDAS, Outcomes, named

from crosslayer.contracts.report import Figure, Panel, Series
from crosslayer.intervals import wilson
from crosslayer.traces.drawing import write_svg
from slm_mux.ablations import reliability
from slm_mux.records import Table
from slm_mux.replay import MUX, ORACLE
from slm_mux.scale import subsets

FOLDER = Path(__file__).resolve().parent / "figures"
Origin = tuple[Literal["recorded", "measured"], str]  # provenance and source


def draw(
    name: str, whole: Table, outcomes: Outcomes, seeds: range, origin: Origin,
    calls: Mapping[str, int],
) -> None:  # fmt: skip
    """All four. calls: of further methods, in the first pool."""
    pools = list(dict.fromkeys(pool for pool, _ in outcomes))
    _write(name, "reliability", _reliability(whole, origin))
    _write(name, "accuracy-k", _accuracy(outcomes, pools, list(calls), origin))
    _write(name, "accuracy-calls", _cost(outcomes, pools[0], len(whole.models), calls, origin))
    _write(name, "subsets", _subsets(whole, seeds, origin))


def _write(name: str, what: str, figure: Figure) -> None:
    FOLDER.mkdir(exist_ok=True)
    write_svg((figure,), FOLDER / f"{name}-{what}.svg")


def _reliability(whole: Table, origin: Origin) -> Figure:
    series = []
    for model, counts in reliability(whole, 8).items():
        some = [(j, n, right) for j, n, right in counts[1:] if n]
        limits = [wilson(right, n) for _, n, right in some]
        series.append(
            Series(
                label=model,
                x=tuple(float(j) for j, _, _ in some),
                y=tuple(100 * right / n for _, n, right in some),
                low=tuple(100 * low for low, _ in limits),
                high=tuple(100 * high for _, high in limits),
            )
        )
    return _figure(
        "reliability",
        "How often an answer is right on which so many of 8 samples agree (bands: 95 %)",
        "samples of a model that agree",
        [Panel(series=tuple(series), y_label="right, %")],
        origin,
    )


def _accuracy(
    outcomes: Outcomes, pools: Sequence[str], more: Sequence[str], origin: Origin
) -> Figure:
    panels = []
    for pool in pools:
        lines: dict[str, list[tuple[float, float]]] = {}
        for k in KS:
            outcome = outcomes[pool, k]
            columns = {"SLM-MUX": MUX} | named(outcome, k) | {name: name for name in more}
            for label, method in (columns | {"union (oracle)": ORACLE}).items():
                if method is not None:
                    lines.setdefault(label, []).append((k, 100 * outcome.accuracy(method)))
        panels.append(Panel(series=_lines(lines), y_label=f"{pool}, %"))
    return _figure("accuracy_k", "Accuracy by samples a model", "k", panels, origin)


def _cost(
    outcomes: Outcomes, pool: str, n: int, calls: Mapping[str, int], origin: Origin
) -> Figure:
    lines: dict[str, list[tuple[float, float]]] = {}
    for k in KS:
        outcome = outcomes[pool, k]
        columns = named(outcome, k)
        for label, method in {"SLM-MUX": MUX, **columns}.items():
            if method is None or label == "best single sample":
                continue
            # One curve of the best model alone, by what it took.
            label = "best model, self-consistency" if label.startswith("best") else label
            each = k if label == "best model, self-consistency" and method != columns[EQUAL] else 0
            lines.setdefault(label, []).append((each or n * k, 100 * outcome.accuracy(method)))
    first = outcomes[pool, KS[0]]
    lines["best single sample"] = [(1, 100 * first.accuracy("best single sample"))]
    for name, number in calls.items():
        lines[name] = [(number, 100 * first.accuracy(name))]
    series = _lines({label: sorted(set(points)) for label, points in lines.items()})
    panel = Panel(series=series, y_label="right, %")
    return _figure("accuracy_calls", f"Accuracy by calls a question, {pool}", "calls", [panel],
                   origin)  # fmt: skip


def _subsets(whole: Table, seeds: range, origin: Origin) -> Figure:
    series = []
    known = subsets(whole, 3, seeds, LAMBDAS)
    for lam, objective in known.objective.items():
        points = sorted(zip(objective.mean(0), known.accuracy.mean(0), strict=True))
        series.append(
            Series(
                label=f"lambda = {lam:g}",
                x=tuple(100 * float(x) for x, _ in points),
                y=tuple(100 * float(y) for _, y in points),
            )
        )
    number = known.accuracy.shape[1]
    return _figure(
        "subsets",
        f"Objective on validation questions and accuracy of SLM-MUX (k = 3), all {number} subsets",
        "objective (validation questions), %",
        [Panel(series=tuple(series), y_label="right (test questions), %", kind="points")],
        origin,
    )


def _lines(lines: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[Series, ...]:
    return tuple(
        Series(label=label, x=tuple(float(x) for x, _ in points), y=tuple(y for _, y in points))
        for label, points in lines.items()
    )


def _figure(name: str, title: str, x_label: str, panels: Sequence[Panel], origin: Origin) -> Figure:
    provenance, source = origin
    return Figure(
        name=name, title=title, x_label=x_label, panels=tuple(panels), provenance=provenance,
        source=source,
    )  # fmt: skip
