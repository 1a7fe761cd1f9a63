"""The cells of the perplexity benchmark: what is measured, in what order, and kept where.

A cell is one pruned model on one text: calibration seed, sparsity, metric, plan. Its result is a
JSON file in the user's cache, named by a hash of all that it depends on, so that an interrupted run
goes on where it stopped. Cells that say most come first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosslayer.places import cache_dir

VERSION = 1  # counts up when the numbers of a cell would change
SEEDS = (0, 1, 2)
# Label: the uniform pattern of that sparsity.
UNIFORM = {"37.5": "5:8", "50": "4:8", "62.5": "3:8", "68.75": "5:16", "75": "2:8"}
PROBE = {"cost": "probe", "probe_base": 0.5}
RECOVERY = {"recovery_steps": 64, "recovery_tokens": 16384, "recovery_rate": 1e-4}
WIKIPEDIA, PYTHON, SELECTION = "wikipedia", "python", "selection"


@dataclass(frozen=True)
class Setting:
    """Sizes of a run, in tokens; windows are `window` long."""

    window: int = 256
    calibration: int = 2048
    evaluation: int = 8192
    other: int = 1024  # tokens of the out-of-domain text
    selection: int = 2048  # tokens that cost modes are compared on; no reported number
    probe: int = 512


@dataclass(frozen=True)
class Cell:
    """seed None: no calibration. plan: a key of `parameters`. text: which windows."""

    label: str
    plan: str
    metric: str
    text: str
    seed: int | None

    @property
    def plan_key(self) -> str:
        """What the plan depends on; a plan for Wanda's score serves SparseGPT too."""
        later = ("metric", *RECOVERY)
        given = {key: value for key, value in self.parameters.items() if key not in later}
        score = "magnitude" if self.metric == "magnitude" else self.seed
        return f"plan {json.dumps(given, sort_keys=True)} {score}"

    @property
    def base(self) -> str | None:
        """From which uniform pattern the plan is probed; None for the other costs."""
        if self.parameters.get("cost") != "probe":
            return None
        n, m = map(int, UNIFORM[self.label].split(":"))
        return f"{max(n, m // 2)}:{m}"

    @property
    def parameters(self) -> dict[str, Any]:
        """FlowParams of this cell, calibration sizes left out."""
        pattern = UNIFORM[self.label]
        n, m = map(int, pattern.split(":"))
        every = [f"{k}:{m}" for k in range(1, m)] + ["1:1"]
        mapped = [f"{k}:8" for k in range(1, 8)] + ["1:1"]  # FlexCiM's M is at most 8
        exact = {"sparsity": 1 - n / m, "tolerance": 0.0}
        given: dict[str, dict[str, Any]] = {
            "uniform": {"plan": "uniform", "pattern": pattern, "sparsity": 1 - n / m},
            "owl": {"plan": "owl", "candidates": every, **exact},
            "flow recon": {"cost": "recon", "candidates": every, **exact},
            "flow outlier": {"cost": "outlier", "candidates": every, **exact},
            "flow probe": {**PROBE, "candidates": every, **exact},
            "flow released": {
                "cost": "released", "outlier_multiple": 0.5,
                "candidates": ["4:8", "4:4", "2:8", "2:4", "8:8"], **exact,
            },
            "flow probe, hardware": {
                **PROBE, "candidates": mapped, "hardware": "flexcim", **exact
            },
            "flow outlier, hardware": {
                "cost": "outlier", "candidates": mapped, "hardware": "flexcim", **exact
            },
            "owl, hardware": {
                "plan": "owl", "candidates": mapped, "hardware": "flexcim", **exact
            },
            "flow outlier, ends dense": {
                "cost": "outlier", "candidates": every, "dense_blocks": [0, -1], **exact
            },
            "owl, ends dense": {
                "plan": "owl", "candidates": every, "dense_blocks": [0, -1], **exact
            },
            "uniform, fine-tuned": {
                "plan": "uniform", "pattern": pattern, "sparsity": 1 - n / m, **RECOVERY
            },
            "flow probe, fine-tuned": {**PROBE, "candidates": every, **exact, **RECOVERY},
        }  # fmt: skip
        return {"metric": self.metric, **given[self.plan]}


MAIN = ("uniform", "flow probe", "owl", "flow outlier")


def cells() -> Iterator[Cell]:
    """Every cell of the full run, those that say most first."""

    def both(label: str, plan: str, metric: str, seed: int | None) -> Iterator[Cell]:
        for text in (WIKIPEDIA, PYTHON):
            yield Cell(label, plan, metric, text, seed)

    for label in ("50", "62.5"):
        for plan in ("uniform", "flow outlier", "flow recon", "flow released", "flow probe"):
            yield Cell(label, plan, "wanda", SELECTION, 0)
    for seed in SEEDS:
        for label in ("50", "62.5", "75", "37.5", "68.75"):
            for plan in MAIN:
                yield from both(label, plan, "wanda", seed)
                if plan != "flow outlier" or seed == 0:
                    yield from both(label, plan, "sparsegpt", seed)
            if seed == 0:
                yield from both(label, "uniform", "magnitude", None)
    for label in UNIFORM:
        for plan in ("flow outlier, hardware", "owl, hardware"):
            yield from both(label, plan, "wanda", 0)
    for label in ("50", "62.5", "75"):
        yield from both(label, "flow probe, hardware", "wanda", 0)
    for label in ("50", "62.5"):
        yield from both(label, "flow released", "wanda", 0)
    for plan in ("flow outlier, ends dense", "owl, ends dense"):
        yield from both("50", plan, "wanda", 0)
    for plan in ("uniform, fine-tuned", "flow probe, fine-tuned"):
        yield from both("50", plan, "wanda", 0)


def reduced() -> Iterator[Cell]:
    """A few cells with one seed: does it run, and in which direction do they differ?"""
    for plan in ("uniform", "flow outlier", "owl"):
        yield Cell("50", plan, "wanda", WIKIPEDIA, 0)
    yield Cell("50", "uniform", "sparsegpt", WIKIPEDIA, 0)


class Store:
    """Results by cell, one file each, in the user's cache."""

    def __init__(self, setting: Setting, model: str) -> None:
        self._setting, self._model = setting, model
        self._folder = cache_dir() / "flow-flexcim" / "perplexity"

    def get(self, cell: Cell | str) -> dict[str, Any] | None:
        """What was kept for a cell, or for a plan ("plan ...") or the dense model."""
        file = self._file(cell)
        found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
        return found

    def put(self, cell: Cell | str, result: dict[str, Any]) -> None:
        """Keep a result; a reader never sees half of it."""
        file = self._file(cell)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(result))
        partial.replace(file)

    def _file(self, cell: Cell | str) -> Path:
        key = cell if isinstance(cell, str) else {**asdict(cell), **cell.parameters}
        text = json.dumps([VERSION, self._model, asdict(self._setting), key], sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"
