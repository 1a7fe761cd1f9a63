"""Perplexity of uniform patterns and of FLOW's plans at 50 % on SmolLM2-135M, paired by window.

`python benchmarks/quick.py [--seeds 3] [--tokens 2048]` prints the table of the README. A seed
chooses the calibration articles; the evaluation text is the same for all, and no plan sees it.
Needs the assets smollm2-135m and wikipedia-sample (`crosslayer fetch`).
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import time
from pathlib import Path

import numpy as np

from crosslayer.evaluators import mean_interval, nll_and_argmax
from crosslayer.kinds import RunContext
from crosslayer.models.smollm2 import smollm2
from crosslayer.progress import PlainProgress
from crosslayer.texts import token_windows
from flow_flexcim.linears import decoder_linears
from flow_flexcim.params import FlowParams
from flow_flexcim.prune import calibrate, prune

EIGHT = [f"{n}:8" for n in range(1, 8)]
ROWS = {
    "uniform 2:4": {"plan": "uniform", "pattern": "2:4"},
    "uniform 4:8": {"plan": "uniform", "pattern": "4:8"},
    "uniform 8:16": {"plan": "uniform", "pattern": "8:16"},
    "flow, cost outlier": {"cost": "outlier"},
    "flow, cost recon": {"cost": "recon"},
    "flow, cost outlier, M = 8": {"cost": "outlier", "candidates": EIGHT},
    "flow, cost recon, M = 8": {"cost": "recon", "candidates": EIGHT},
}
# What a row is paired with: the uniform pattern of its largest M.
AGAINST = {name: "uniform 4:8" if "M = 8" in name else "uniform 8:16" for name in ROWS}


def main() -> None:
    """Run every row with every seed and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="calibration seeds")
    parser.add_argument("--tokens", type=int, default=2048, help="evaluation tokens")
    asked = parser.parse_args()
    logging.disable(logging.INFO)

    model = smollm2()
    assert model.live is not None
    blocks = decoder_linears(model.spec)
    text = token_windows(model.live.tokenizer, "wikipedia-sample", "evaluation", asked.tokens, 256)
    dense = nll_and_argmax(model.live, text)[0].mean(axis=1)
    print(f"dense: {math.exp(dense.mean()):.2f}", flush=True)

    nll: dict[str, list[np.ndarray]] = {name: [] for name in ROWS}  # per seed, [windows]
    sparsity: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.seeds):
            context = RunContext(seed=seed, output=Path(folder), progress=PlainProgress())
            squares = calibrate(model.live, blocks, FlowParams(), context)
            for name, values in ROWS.items():
                start = time.perf_counter()
                params = FlowParams.model_validate({"sparsity": 0.5, **values})
                file = Path(folder, "linears.safetensors")
                live, plan, _, _ = prune(model.live, blocks, squares, params, context, file)
                pruned = time.perf_counter() - start
                nll[name].append(nll_and_argmax(live, text)[0].mean(axis=1))
                sparsity[name] = plan.sparsity
                print(
                    f"seed {seed}, {name}: {math.exp(nll[name][-1].mean()):.2f} "
                    f"({pruned:.0f} s to prune) {' '.join(map(str, plan.patterns))}",
                    flush=True,
                )

    print("\n| plan | achieved sparsity | perplexity per seed | NLL above dense | NLL above |")
    print("|---|---|---|---|---|")
    print(f"| dense | 0 | {math.exp(dense.mean()):.1f} | | |")
    for name, seeds in nll.items():
        # Windows are the units: seeds see the same windows, so they are averaged first.
        mean = np.mean(seeds, axis=0)
        against = AGAINST[name]
        paired = "" if against == name else f"{against}: {_shown(mean - np.mean(nll[against], 0))}"
        each = ", ".join(f"{math.exp(one.mean()):.1f}" for one in seeds)
        print(f"| {name} | {sparsity[name]:.4f} | {each} | {_shown(mean - dense)} | {paired} |")


def _shown(differences: np.ndarray) -> str:
    mean, interval = mean_interval(differences)
    return f"{mean:+.3f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")


if __name__ == "__main__":
    main()
