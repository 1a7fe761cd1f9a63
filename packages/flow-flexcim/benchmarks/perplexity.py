"""Perplexity of SmolLM2-135M pruned by {magnitude, Wanda, SparseGPT} x {uniform, OWL, FLOW}.

`python benchmarks/perplexity.py [--reduced] [--figure] [--minutes 90]` measures the cells that
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
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import SEEDS, SELECTION, WIKIPEDIA, Cell, Setting, Store, cells, reduced
from figures import draw
from tables import curves, tables

from crosslayer.evaluators import nll_and_argmax
from crosslayer.kinds import RunContext
from crosslayer.models.smollm2 import smollm2
from crosslayer.texts import token_windows
from flow_flexcim.linears import decoder_linears, units
from flow_flexcim.modules import live_linears, weight_of
from flow_flexcim.params import FlowParams
from flow_flexcim.planning import make_plan
from flow_flexcim.prune import calibrate, calibration_windows, masked
from flow_flexcim.recovery import recover


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
        self._inputs: tuple[Any, ...] = (None, None, None)
        self._probes: dict[Any, float] = {}  # of the calibration in _inputs
        self._texts: dict[str, Any] = {}

    def run(self, group: Sequence[Cell]) -> list[str]:
        """Measure cells that differ in their text only; what was found, a line each."""
        cell = group[0]
        start = time.process_time()
        params = self.params(cell)
        context = dataclasses.replace(self.context, seed=cell.seed or 0)
        blocks = units(self.blocks, params.granularity, params.dense_blocks)
        inputs, windows = self.calibrated(params, context)
        patterns = self.plan(cell, blocks, inputs, windows, params, context)
        self.mask(blocks, patterns, inputs, params)
        if params.recovery_steps:
            recover(self.copy, blocks, patterns, params, context)
            self.rounded(blocks)
        prune_s = time.process_time() - start
        weights = sum(block.weights for block in blocks)
        kept = sum(b.weights * p.density for b, p in zip(blocks, patterns, strict=True))
        lines = []
        for cell in group:
            start = time.process_time()
            nll = nll_and_argmax(self.copy, self.text(cell.text))[0].mean(axis=1)
            result = {
                "nll": [float(value) for value in nll],
                "sparsity": 1 - kept / weights,
                "patterns": [str(pattern) for pattern in patterns],
                "prune_cpu_s": prune_s,
                "evaluate_cpu_s": time.process_time() - start,
            }
            self.store.put(cell, result)
            prune_s = 0.0
            lines.append(
                f"{cell.label} % {cell.metric} {cell.plan} seed {cell.seed} on {cell.text}: "
                f"perplexity {np.exp(nll.mean()):.2f}, {result['prune_cpu_s']:.0f} + "
                f"{result['evaluate_cpu_s']:.0f} s of CPU"
            )
        return lines

    def params(self, cell: Cell) -> FlowParams:
        """The cell's parameters with this run's sizes."""
        sizes = {
            "calibration_tokens": self.setting.calibration,
            "window_tokens": self.setting.window,
            "probe_tokens": self.setting.probe,
            "block_columns": 32,
        }
        return FlowParams.model_validate(sizes | cell.parameters)

    def calibrated(self, params: FlowParams, context: RunContext) -> tuple[Any, Any]:
        """Inputs of the dense model with their products, and the windows; of the last seed."""
        seed, inputs, windows = self._inputs
        if seed != context.seed:
            params = params.model_copy(update={"metric": "sparsegpt"})
            windows = calibration_windows(self.live, params, context)
            inputs = calibrate(self.live, self.blocks, windows, params, context)
            self._inputs, self._probes = (context.seed, inputs, windows), {}
        return inputs, windows

    def plan(
        self, cell: Cell, blocks: Any, inputs: Any, windows: Any, params: FlowParams,
        context: RunContext,
    ) -> Any:  # fmt: skip
        """The cell's plan; one plan serves Wanda and SparseGPT, whose score it is made with."""
        from crosslayer.contracts.sparsity import NMSparsity

        kept = self.store.get(cell.plan_key)
        if kept is None:
            start = time.process_time()
            plan, _ = make_plan(self.live, blocks, inputs, windows, params, context, self._probes)
            kept = {"patterns": [str(p) for p in plan.patterns]}
            kept["plan_cpu_s"] = time.process_time() - start  # type: ignore[assignment]
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

    def rounded(self, blocks: Any) -> None:
        """The copy's linears, rounded to the format they ship in."""
        with torch.no_grad():
            for path in (str(spec.path) for block in blocks for spec in block.linears):
                weight = weight_of(self.linears[path])
                weight.copy_(weight.bfloat16())

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


_bench: Bench  # of a worker process
_end: float  # time.monotonic() at which a worker starts no more


def _open(setting: Setting, end: float) -> None:
    """Start a worker process."""
    global _bench, _end
    os.nice(10)
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    _bench, _end = Bench(setting), end


def _run(groups: Sequence[Sequence[Cell]]) -> list[str]:
    """Groups of one plan, one after the other: Wanda and SparseGPT share it."""
    return [line for group in groups if time.monotonic() < _end for line in _bench.run(group)]


def _dense(setting: Setting, texts: Sequence[str]) -> None:
    """The model as it is."""
    bench = Bench(setting)
    for text in texts:
        if bench.store.get(f"dense {text}") is None:
            nll = nll_and_argmax(bench.live, bench.text(text))[0].mean(axis=1)
            bench.store.put(f"dense {text}", {"nll": [float(value) for value in nll]})


def _grouped(missing: Sequence[Cell]) -> Iterator[list[list[Cell]]]:
    """Cells by plan, in the order of their first, and within a plan by what is masked alike. Probed
    plans of one seed and base come together: they share what is measured.
    """
    plans: dict[object, dict[tuple[str, str, int | None, str], list[Cell]]] = {}
    for cell in missing:
        together = (cell.seed, cell.base) if cell.base else cell.plan_key
        alike = (cell.plan, cell.metric, cell.seed, cell.label)
        plans.setdefault(together, {}).setdefault(alike, []).append(cell)
    for groups in plans.values():
        yield list(groups.values())


def main() -> None:
    """Measure what is missing, until the time is up, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reduced", action="store_true", help="a few cells, under five minutes")
    parser.add_argument("--minutes", type=float, default=90.0, help="start no cell after this")
    parser.add_argument("--processes", type=int, default=2, help="at once, one thread each")
    parser.add_argument("--only-tables", action="store_true", help="measure nothing")
    parser.add_argument("--figure", action="store_true", help="draw figures/perplexity.svg too")
    parser.add_argument("--json", type=Path, help="write all cells that there are to this file")
    asked = parser.parse_args()
    small = Setting(evaluation=1024, calibration=1024, other=512)
    setting = small if asked.reduced else Setting()
    wanted = list(dict.fromkeys(reduced() if asked.reduced else cells()))
    store = Store(setting, smollm2().spec.name)
    if not asked.only_tables:
        measure(setting, store, wanted, asked.processes, 60 * asked.minutes)
    print(tables(store, wanted))
    if asked.figure:
        draw(
            "perplexity",
            "What a plan of its own pattern for each block costs or gains (bands: 95 %)",
            "weights removed, %",
            curves(store, wanted),
            "measured",
            "SmolLM2-135M, perplexity.py; seeds averaged, intervals over windows of 256 tokens",
        )
    if asked.json:
        found = [(dataclasses.asdict(c), store.get(c)) for c in wanted]
        asked.json.write_text(json.dumps([pair for pair in found if pair[1]]))


def measure(
    setting: Setting, store: Store, wanted: Sequence[Cell], processes: int, seconds: float
) -> None:
    """Measure what is not yet kept; start no cell once the time is up."""
    missing = [cell for cell in wanted if store.get(cell) is None]
    tasks = list(_grouped(missing))
    texts = list(dict.fromkeys(cell.text for cell in wanted))
    done = 0
    start = (setting, time.monotonic() + seconds)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _open, start) as pool:
        pool.submit(_dense, setting, texts).result()
        for task in as_completed([pool.submit(_run, groups) for groups in tasks]):
            for line in task.result():
                done += 1
                print(f"{done}/{len(missing)}: {line}", flush=True)


if __name__ == "__main__":
    main()
