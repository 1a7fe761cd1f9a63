"""The README's perplexity tables, from the cells that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from cells import PYTHON, SELECTION, UNIFORM, WIKIPEDIA, Cell, Store

from crosslayer.intervals import mean_interval


def tables(store: Store, wanted: Sequence[Cell]) -> str:
    """Markdown: the comparison of cost modes, then a table for each text."""
    done = {cell: found for cell in wanted if (found := store.get(cell)) is not None}
    lines = [f"{len(done)} of {len(wanted)} cells are measured."]
    for text in (SELECTION, WIKIPEDIA, PYTHON):
        dense = store.get(f"dense {text}")
        here = {cell: found for cell, found in done.items() if cell.text == text}
        if dense is None or not here:
            continue
        lines += ["", f"Text {text}; dense: {math.exp(np.mean(dense['nll'])):.2f}", ""]
        lines += [
            "| sparsity % | metric | plan | achieved | perplexity by seed | NLL above uniform |"
        ]
        lines += ["|---|---|---|---|---|---|"]
        rows = dict.fromkeys((c.label, c.metric, c.plan) for c in here)
        order = {name: i for i, name in enumerate(UNIFORM)}
        metrics = ("magnitude", "wanda", "sparsegpt")
        for label, metric, plan in sorted(
            rows, key=lambda row: (order[row[0]], metrics.index(row[1]))
        ):
            lines.append(_row(here, label, metric, plan))
    return "\n".join(lines)


def _row(here: dict[Cell, dict[str, object]], label: str, metric: str, plan: str) -> str:
    mine = {
        c.seed: (c, found)
        for c, found in here.items()
        if (c.label, c.metric, c.plan) == (label, metric, plan)
    }
    nll = {seed: np.array(found["nll"]) for seed, (_, found) in mine.items()}
    base_plan = "uniform"
    base = {
        c.seed: np.array(found["nll"])
        for c, found in here.items()
        if (c.label, c.metric, c.plan) == (label, metric, base_plan)
    }
    common = [seed for seed in nll if seed in base]
    paired = ""
    if plan != base_plan and common:
        # Windows are the units: seeds see the same windows, so they are averaged first.
        mean, interval = mean_interval(np.mean([nll[s] - base[s] for s in common], axis=0))
        paired = f"{mean:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else ""
        paired += "" if len(common) == 3 or metric == "magnitude" else f" ({len(common)} seed)"
    each = ", ".join(_shown(math.exp(nll[s].mean())) for s in sorted(nll, key=str))
    achieved = next(iter(mine.values()))[1]["sparsity"]
    return f"| {label} | {metric} | {plan} | {achieved:.4f} | {each} | {paired} |"


def _shown(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"
