"""CHAMP replayed: four pools, k = 2..8, SLM-MUX beside every baseline, ablations, search, theory.

`python benchmarks/champ.py [--splits 40]` prints the tables of the README. 270 competition problems
of CHAMP (MIT, fetched once), of them those whose answer is one number; the eight prompts that give
nothing of the solution away stand for samples. The models are not small. Half of the questions of a
split give accuracies, ties and subsets, the other half the results. Intervals: 95 %, bootstrap over
questions, paired. Equal compute (n x k samples of the best model) only where so many are recorded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from slm_mux.ablations import attribution, raw, reliability, variants
from slm_mux.extract import extractor
from slm_mux.importers import champ, champ_file
from slm_mux.records import Table, table
from slm_mux.replay import MUX, ORACLE, Outcome, accuracies, replay
from slm_mux.scale import more_models, objective_against_accuracy

POOLS = {
    "all four": ("GPT-3.5", "GPT-4", "GPT-4 Turbo", "PaLM 2 Medium"),
    "GPT-4 + Turbo": ("GPT-4", "GPT-4 Turbo"),
    "GPT-3.5 + PaLM 2": ("GPT-3.5", "PaLM 2 Medium"),
    "GPT-3.5 + GPT-4 + PaLM 2": ("GPT-3.5", "GPT-4", "PaLM 2 Medium"),
}


def main() -> None:
    """Print every table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=40)
    parser.add_argument("--file", type=Path, help="CHAMP's v0.json, instead of fetching it")
    asked = parser.parse_args()
    rows = list(champ(asked.file or champ_file()))
    whole = table(rows, extractor("stated-number"))
    seeds = range(asked.splits)
    print(f"{len(whole.questions)} questions, {asked.splits} splits; {missing(whole)}\n")
    methods(whole, seeds)
    ablations(whole, table(rows, extractor("number")), seeds)
    reliabilities(whole)
    for pool, members in POOLS.items():
        shares = attribution(whole.pool(members), 3, seeds)
        print(
            f"whose answer, {pool}, k = 3: " + ", ".join(f"{n} {s:.0%}" for n, s in shares.items())
        )
    print()
    searches(whole, seeds)


def missing(whole: Table) -> str:
    """Accuracy of a sample, and samples without an answer, per model."""
    right = accuracies(whole, range(len(whole.questions)))
    shown = []
    for model in whole.models:
        keys = [key for of in whole.keys[model] for key in of]
        none = sum(key is None for key in keys) / len(keys)
        shown.append(f"{model} {right[model]:.1%} right, {none:.1%} without an answer")
    return "; ".join(shown)


def methods(whole: Table, seeds: range) -> None:
    """Pools x k x methods."""
    names = [
        "best single sample",
        "best, SC of k",
        "best, SC of nk",
        "pooled vote",
        "weighted vote",
    ]
    print(f"| pool | k | SLM-MUX | {' | '.join(names)} | union |")
    print("|---" * (len(names) + 4) + "|")
    for pool, members in POOLS.items():
        for k in range(2, 9):
            outcome = replay(whole.pool(members), k, seeds)
            cells = [against(outcome, name) for name in found(outcome, k)]
            own = f"{outcome.accuracy(MUX):.1%} {shown(outcome.interval(MUX))}"
            union = f"{outcome.accuracy(ORACLE):.1%}"
            print(f"| {pool} | {k} | {own} | {' | '.join(cells)} | {union} |", flush=True)
    print()


def found(outcome: Outcome, k: int) -> list[str | None]:
    """The methods in the order of the table's columns; None where there is none."""
    equal = [name for name in outcome.right if "nk=" in name]
    return [
        "best single sample",
        f"best, self-consistency of k={k}",
        equal[0] if equal else None,
        "pooled vote",
        "accuracy-weighted vote",
    ]


def against(outcome: Outcome, name: str | None) -> str:
    """A method's accuracy, and its difference to SLM-MUX in points with the interval."""
    if name is None:
        return "not recorded"
    low, high = outcome.interval(name, MUX)
    difference = outcome.accuracy(name) - outcome.accuracy(MUX)
    # Bold: the interval of the difference excludes nought.
    mark = "**" if low > 0 or high < 0 else ""
    cell = f"{difference * 100:+.1f} [{low * 100:+.1f}, {high * 100:+.1f}]"
    return f"{outcome.accuracy(name):.1%}, {mark}{cell}{mark}"


def shown(interval: tuple[float, float]) -> str:
    """An interval in percent."""
    return f"[{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]"


def ablations(whole: Table, last_number: Table, seeds: range) -> None:
    """What one change costs, in points against SLM-MUX."""
    names = list(variants())
    print(f"| pool | k | {' | '.join(names)} | answers compared as written | last number |")
    print("|---" * (len(names) + 4) + "|")
    for pool, members in POOLS.items():
        for k in (2, 3, 8):
            outcome = replay(whole.pool(members), k, seeds, extra=variants())
            cells = [against(outcome, name) for name in names]
            for other in (raw(whole), last_number):
                changed = replay(other.pool(members), k, seeds)
                cells.append(against(joined(outcome, changed), "changed"))
            print(f"| {pool} | {k} | {' | '.join(cells)} |", flush=True)
    print()


def joined(outcome: Outcome, changed: Outcome) -> Outcome:
    """SLM-MUX of two ways to read answers, on the same draws, paired."""
    return Outcome(
        outcome.questions,
        {MUX: outcome.right[MUX], "changed": changed.right[MUX]},
        {MUX: outcome.asked[MUX], "changed": changed.asked[MUX]},
    )


def reliabilities(whole: Table) -> None:
    """Right answers by how many of 8 samples agree."""
    print("| model | " + " | ".join(f"{j} of 8" for j in range(1, 9)) + " |")
    print("|---" * 9 + "|")
    for model, counts in reliability(whole, 8).items():
        cells = [f"{right}/{n}" if n else "" for _, n, right in counts[1:]]
        print(f"| {model} | {' | '.join(cells)} |")
    print()


def searches(whole: Table, seeds: range) -> None:
    """Each size's best subset; objective against realised accuracy."""
    print("| models | SLM-MUX at k=3 | union |\n|---|---|---|")
    for step in more_models(whole, 3, seeds):
        print(f"| {step.label} | {step.accuracy:.1%} {shown(step.interval)} | {step.union:.1%} |")
    print("\n| correct | lambda | rank correlation | accuracy of the chosen subset |")
    print("|---|---|---|---|")
    for correct in ("mode", "all", "any"):
        curve = objective_against_accuracy(whole, 3, seeds, (0.0, 0.5, 1.0, 2.0), correct)
        for lam, (rank, reached) in curve.items():
            print(f"| {correct} | {lam} | {rank:+.2f} | {reached:.1%} |", flush=True)


if __name__ == "__main__":
    main()
