"""Perplexity of SmolLM2-135M pruned by {magnitude, Wanda, SparseGPT} x {uniform, OWL, FLOW}.

`python benchmarks/perplexity.py [--reduced] [--minutes 90] [--threads 2]` measures the cells that
are not yet in the user's cache and prints the README's tables from all that are.
Needs the assets smollm2-135m and wikipedia-sample (`crosslayer fetch`).

Calibration and evaluation read different Wikipedia articles; a seed chooses those of calibration.
The out-of-domain text is Python's language reference, as it ships with this interpreter. Cost modes
are compared on articles of the calibration split that no seed calibrates on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import PYTHON, SEEDS, SELECTION, WIKIPEDIA, Cell, Setting, Store, cells, reduced
from tables import tables

from crosslayer.evaluators import nll_and_argmax
from crosslayer.kinds import RunContext
from crosslayer.models.smollm2 import smollm2
from crosslayer.texts import token_windows
from flow_flexcim.linears import decoder_linears, units
from flow_flexcim.modules import live_linears, weight_of
from flow_flexcim.params import FlowParams
from flow_flexcim.planning import make_plan
from flow_flexcim.prune import calibrate, calibration_windows, masked


class Bench:
    """The model, its weights as they were, a copy that is masked again for every cell."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.model = smollm2()
        assert self.model.live is not None
        self.live = self.model.live
        self.store = Store(setting, self.model.spec.name)
        self.blocks = decoder_linears(self.model.spec)
        self.copy = self.live.copy()
        self.linears = live_linears(self.copy.module, self.blocks)
        self.original = {p: weight_of(m).detach().clone() for p, m in self.linears.items()}
        self.context = RunContext(seed=0, output=Path())
        self._inputs: tuple[Any, ...] = (None, False, None, None)
        self._texts: dict[str, Any] = {}

    def run(self, cell: Cell) -> dict[str, Any]:
        """Measure one cell; the same model is evaluated on one text only."""
        start = time.perf_counter()
        params = self.params(cell)
        context = dataclasses.replace(self.context, seed=cell.seed or 0)
        blocks = units(self.blocks, params.granularity, params.dense_blocks)
        inputs, windows = self.calibrated(cell, params, context)
        patterns = self.plan(cell, blocks, inputs, windows, params, context)
        self.mask(blocks, patterns, inputs, params)
        ready = time.perf_counter()
        nll = nll_and_argmax(self.copy, self.text(cell.text))[0].mean(axis=1)
        weights = sum(block.weights for block in blocks)
        kept = sum(b.weights * p.density for b, p in zip(blocks, patterns, strict=True))
        return {
            "nll": [float(value) for value in nll],
            "sparsity": 1 - kept / weights,
            "patterns": [str(pattern) for pattern in patterns],
            "prune_s": ready - start,
            "evaluate_s": time.perf_counter() - ready,
        }

    def params(self, cell: Cell) -> FlowParams:
        """The cell's parameters with this run's sizes."""
        sizes = {
            "calibration_tokens": self.setting.calibration,
            "window_tokens": self.setting.window,
            "probe_tokens": self.setting.probe,
            "block_columns": 32,
        }
        return FlowParams.model_validate(sizes | cell.parameters)

    def calibrated(self, cell: Cell, params: FlowParams, context: RunContext) -> tuple[Any, Any]:
        """Inputs of the dense model and the windows, kept for the last seed."""
        seed, products, inputs, windows = self._inputs
        need = params.metric == "sparsegpt"
        if seed != context.seed or (need and not products):
            windows = calibration_windows(self.live, params, context)
            inputs = calibrate(self.live, self.blocks, windows, params, context)
            self._inputs = (context.seed, need, inputs, windows)
        return inputs, windows

    def plan(
        self, cell: Cell, blocks: Any, inputs: Any, windows: Any, params: FlowParams,
        context: RunContext,
    ) -> Any:  # fmt: skip
        """The cell's plan; one plan serves Wanda and SparseGPT, whose score it is made with."""
        from crosslayer.contracts.sparsity import NMSparsity

        kept = self.store.get(cell.plan_key)
        if kept is None:
            start = time.perf_counter()
            plan, _ = make_plan(self.live, blocks, inputs, windows, params, context)
            kept = {"patterns": [str(p) for p in plan.patterns]}
            kept["plan_s"] = time.perf_counter() - start  # type: ignore[assignment]
            self.store.put(cell.plan_key, kept)
        return [NMSparsity.parse(text) for text in kept["patterns"]]

    def mask(self, blocks: Any, patterns: Any, inputs: Any, params: FlowParams) -> None:
        """The copy becomes the original in these patterns, rounded to the format it ships in."""
        factors: dict[int, torch.Tensor] = {}
        for block, pattern in zip(blocks, patterns, strict=True):
            for spec in block.linears:
                assert spec.weight_format == "bf16"
                path = str(spec.path)
                new = masked(self.original[path], inputs[path], pattern, params, factors)
                with torch.no_grad():
                    weight_of(self.linears[path]).copy_(new.bfloat16())
            factors.clear()

    def text(self, name: str) -> Any:
        """Token windows of an evaluation text."""
        if name not in self._texts:
            tokenizer, size = self.live.tokenizer, self.setting
            if name == WIKIPEDIA:
                found = token_windows(
                    tokenizer, "wikipedia-sample", "evaluation", size.evaluation, size.window
                )
            elif name == SELECTION:
                found = self._selection()
            else:
                from pydoc_data.topics import topics

                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, "python.txt")
                    file.write_text("\n\n".join(topics[key] for key in sorted(topics)))
                    found = token_windows(tokenizer, file, "evaluation", size.other, size.window)
            self._texts[name] = found
        return self._texts[name]

    def _selection(self) -> Any:
        """Windows of the calibration split that no seed calibrates on."""
        used = set()
        for seed in SEEDS:
            context = dataclasses.replace(self.context, seed=seed)
            params = self.params(Cell("50", "uniform", "wanda", SELECTION, seed))
            used |= {row.tobytes() for row in calibration_windows(self.live, params, context)}
        size = self.setting
        wanted = size.selection // size.window
        rows = token_windows(
            self.live.tokenizer, "wikipedia-sample", "calibration",
            (wanted + len(used)) * size.window, size.window,
        )  # fmt: skip
        return np.array([row for row in rows if row.tobytes() not in used][:wanted])


def main() -> None:
    """Measure what is missing, until the time is up, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reduced", action="store_true", help="a few cells, under five minutes")
    parser.add_argument("--minutes", type=float, default=90.0, help="start no cell after this")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only-tables", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, help="write all cells that there are to this file")
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(asked.threads)
    small = Setting(evaluation=1024, calibration=1024, other=512)
    setting = small if asked.reduced else Setting()
    wanted = list(dict.fromkeys(reduced() if asked.reduced else cells()))
    store = Store(setting, smollm2().spec.name)
    if not asked.only_tables:
        texts = (WIKIPEDIA,) if asked.reduced else (WIKIPEDIA, PYTHON, SELECTION)
        measure(Bench(setting), texts, wanted, 60 * asked.minutes)
    print(tables(store, wanted))
    if asked.json:
        found = [(dataclasses.asdict(c), store.get(c)) for c in wanted]
        asked.json.write_text(json.dumps([pair for pair in found if pair[1]]))


def measure(bench: Bench, texts: Sequence[str], wanted: Sequence[Cell], seconds: float) -> None:
    """Measure what is not yet kept; start no cell once the time is up."""
    end = time.monotonic() + seconds
    for text in texts:
        if bench.store.get(f"dense {text}") is None:
            nll = nll_and_argmax(bench.live, bench.text(text))[0].mean(axis=1)
            bench.store.put(f"dense {text}", {"nll": [float(value) for value in nll]})
    for number, cell in enumerate(wanted, 1):
        if bench.store.get(cell) is not None:
            continue
        if time.monotonic() > end:
            break
        result = bench.run(cell)
        bench.store.put(cell, result)
        print(
            f"{number}/{len(wanted)} {cell.label} % {cell.metric} {cell.plan} seed {cell.seed} on "
            f"{cell.text}: perplexity {np.exp(np.mean(result['nll'])):.2f}, "
            f"{result['prune_s']:.0f} + {result['evaluate_s']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
