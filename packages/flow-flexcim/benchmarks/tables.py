"""The README's perplexity tables, from the cells that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from cells import PYTHON, SELECTION, UNIFORM, WIKIPEDIA, Cell, Store
from figures import Point

from crosslayer.intervals import mean_interval

HARDWARE_UNIFORM = ("50", "75")  # 4:8 and 2:8 are mapped as they are; 5:8, 3:8 and 5:16 are not
METRICS = ("magnitude", "wanda", "sparsegpt")
Found = dict[Cell, dict[str, Any]]


def tables(store: Store, wanted: Sequence[Cell]) -> str:
    """Markdown: how many cells there are, the comparison of cost modes, the reported texts."""
    done = {cell: found for cell in wanted if (found := store.get(cell)) is not None}
    cpu = sum(f.get("prune_cpu_s", 0) + f.get("evaluate_cpu_s", 0) for f in done.values())
    lines = [f"{len(done)} of {len(wanted)} cells are measured, {cpu / 60:.0f} min of CPU time."]
    for texts in ((SELECTION,), (WIKIPEDIA, PYTHON)):
        here = {cell: found for cell, found in done.items() if cell.text in texts}
        dense = {text: store.get(f"dense {text}") for text in texts}
        known = [text for text in texts if dense[text] is not None]
        if not here or not known:
            continue
        told = ", ".join(f"{t} {math.exp(np.mean(dense[t]['nll'])):.2f}" for t in known)  # type: ignore[index]
        columns = [f"{text} | above uniform" for text in known]
        lines += ["", f"Dense: {told}", ""]
        lines.append(f"| sparsity % | metric | plan | achieved | {' | '.join(columns)} |")
        lines.append("|---" * (4 + 2 * len(known)) + "|")
        rows = dict.fromkeys((c.label, c.metric, c.plan) for c in here)
        order = list(UNIFORM)
        for row in sorted(rows, key=lambda row: (order.index(row[0]), METRICS.index(row[1]))):
            lines.append(_row(here, known, *row))
    return "\n".join(lines)


def _row(here: Found, texts: Sequence[str], label: str, metric: str, plan: str) -> str:
    achieved, cells = "", []
    for text in texts:
        mine = _by_seed(here, label, metric, plan, text)
        each = ", ".join(_shown(math.exp(nll.mean())) for nll in mine.values())
        cells.append(f"{each} | {_difference(here, label, metric, plan, text)}")
    for cell, found in here.items():
        if (cell.label, cell.metric, cell.plan) == (label, metric, plan):
            achieved = f"{found['sparsity']:.4f}"
    return f"| {label} | {metric} | {plan} | {achieved} | {' | '.join(cells)} |"


def _by_seed(here: Found, label: str, metric: str, plan: str, text: str) -> dict[Any, Any]:
    """Seed -> NLL of each window, nats a token."""
    found = {
        cell.seed: np.array(result["nll"])
        for cell, result in here.items()
        if (cell.label, cell.metric, cell.plan, cell.text) == (label, metric, plan, text)
    }
    return {seed: found[seed] for seed in sorted(found, key=str)}


def above_uniform(
    here: Found, label: str, metric: str, plan: str, text: str
) -> tuple[float, tuple[float, float] | None] | None:
    """Nats a token above the uniform plan, seeds paired, and the 95 % interval; None without
    uniform cells, or where the hardware has no such pattern. Windows are the units: seeds see the
    same windows, so they are averaged first.
    """
    if "hardware" in plan and label not in HARDWARE_UNIFORM:
        return None
    mine = _by_seed(here, label, metric, plan, text)
    base = _by_seed(here, label, metric, "uniform", text)
    common = [seed for seed in mine if seed in base]
    if not common:
        return None
    return mean_interval(np.mean([mine[seed] - base[seed] for seed in common], axis=0))


def curves(store: Store, wanted: Sequence[Cell]) -> dict[str, dict[str, list[Point]]]:
    """For the figure: text and metric -> plan -> (sparsity in %, nats above uniform, interval)."""
    done = {cell: found for cell in wanted if (found := store.get(cell)) is not None}
    panels: dict[str, dict[str, list[Point]]] = {}
    for text in (WIKIPEDIA, PYTHON):
        for metric in METRICS[1:]:
            lines: dict[str, list[Point]] = {}
            for plan in ("flow probe", "flow outlier", "owl"):
                for label in UNIFORM:
                    if (found := above_uniform(done, label, metric, plan, text)) is not None:
                        lines.setdefault(plan, []).append((float(label), *found))
            panels[f"nats a token above uniform: {metric}, {text}"] = lines
    return panels


def _difference(here: Found, label: str, metric: str, plan: str, text: str) -> str:
    found = above_uniform(here, label, metric, plan, text) if plan != "uniform" else None
    if found is None:
        return ""
    mean, interval = found
    return f"{mean:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else f"{mean:+.3f}"


def _shown(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"
