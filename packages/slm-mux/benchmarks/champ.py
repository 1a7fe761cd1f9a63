"""CHAMP replayed: four pools, k = 2..8, SLM-MUX beside every baseline, ablations, search, figures.

`python benchmarks/champ.py [--splits 40]` prints the tables of the README and draws its figures.
270 competition problems of CHAMP (MIT, fetched once), of them those whose answer is one number; the
eight prompts that give nothing of the solution away stand for samples. The models are not small.
Half of the questions of a split give accuracies, ties and subsets, the other half the results.
Equal compute (n x k samples of the best model) only where so many are recorded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import figures
import tables

from slm_mux.extract import extractor
from slm_mux.importers import champ, champ_file
from slm_mux.records import Table, table
from slm_mux.replay import accuracies

POOLS = {
    "all four": ("GPT-3.5", "GPT-4", "GPT-4 Turbo", "PaLM 2 Medium"),
    "GPT-4 + Turbo": ("GPT-4", "GPT-4 Turbo"),
    "GPT-3.5 + PaLM 2": ("GPT-3.5", "PaLM 2 Medium"),
    "GPT-3.5 + GPT-4 + PaLM 2": ("GPT-3.5", "GPT-4", "PaLM 2 Medium"),
}


def main() -> None:
    """Print every table in Markdown and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=40)
    parser.add_argument("--file", type=Path, help="CHAMP's v0.json, instead of fetching it")
    asked = parser.parse_args()
    rows = list(champ(asked.file or champ_file()))
    whole = table(rows, extractor("stated-number"))
    seeds = range(asked.splits)
    print(f"{len(whole.questions)} questions, {asked.splits} splits; {missing(whole)}\n")
    outcomes = tables.methods(whole, POOLS, seeds)
    tables.ablations(whole, {"last number": table(rows, extractor("number"))}, POOLS, seeds)
    tables.reliabilities(whole)
    tables.attributions(whole, POOLS, seeds)
    tables.searches(whole, seeds)
    figures.draw("champ", whole, outcomes, seeds, ("recorded", "CHAMP, four models"), {})


def missing(whole: Table) -> str:
    """Accuracy of a sample, and samples without an answer, per model."""
    right = accuracies(whole, range(len(whole.questions)))
    shown = []
    for model in whole.models:
        keys = [key for of in whole.keys[model] for key in of]
        none = sum(key is None for key in keys) / len(keys)
        shown.append(f"{model} {right[model]:.1%} right, {none:.1%} without an answer")
    return "; ".join(shown)


if __name__ == "__main__":
    main()
