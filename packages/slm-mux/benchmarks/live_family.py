"""The live family: every baseline at k = 2..8, equal compute at every k, early stop on and off.

`python benchmarks/live_family.py [--questions 180] [--records FILE]`. Small transformers trained
here on different mixtures (`slm_mux.family.problems`), so that they complete each other by
construction. Questions are held out of their training. 32 samples a member and question at
temperature 0.8 are collected once; then half of the questions of a split give accuracies, the other
half the results.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import defaultdict
from pathlib import Path

from tables import against, shown

from crosslayer.backends.protocol import Sampling, TextBackend
from crosslayer.contracts.calls import Message
from crosslayer.progress import PlainProgress
from crosslayer.questions import Question
from slm_mux.ablations import attribution, reliability, variants
from slm_mux.callers import Callers
from slm_mux.collect import collect
from slm_mux.early_stop import SCHEDULES
from slm_mux.engine import Answered, Engine, Settings
from slm_mux.extract import extractor
from slm_mux.family import MEMBERS
from slm_mux.family.problems import Problem, questions
from slm_mux.pool_file import pool_of
from slm_mux.records import Table, read_rows, split, table
from slm_mux.replay import MUX, ORACLE, accuracies, replay
from slm_mux.scale import more_models, objective_against_accuracy

SAMPLES, TEMPERATURE, SEED = 32, 0.8, 7
POOLS = {
    "all three": MEMBERS,
    "sums + digits": ("sums", "digits"),
    "digits + remainders": ("digits", "remainders"),
    "sums + remainders": ("sums", "remainders"),
}


def main() -> None:
    """Collect what is not there, then every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=180)
    parser.add_argument("--splits", type=int, default=40)
    parser.add_argument("--records", type=Path, help="kept, and gone on with")
    asked = parser.parse_args()
    problems = questions(asked.questions, SEED)
    backends = members()
    with tempfile.TemporaryDirectory() as folder:
        file = asked.records or Path(folder, "records.jsonl")
        given = [Question(id=p.prompt, prompt=p.prompt, answer=p.answer) for p in problems]
        sampling = Sampling(temperature=TEMPERATURE, max_tokens=8)
        collect(backends, given, file, SAMPLES, sampling, progress=PlainProgress())
        held = table(read_rows(file), extractor("number"))
    seeds = range(asked.splits)
    by_kind(held, problems)
    methods(held, seeds)
    more(held, seeds)
    early_stop(held, problems, backends)


def members() -> dict[str, TextBackend]:
    """The family's backends by name."""
    tables = [{"name": m, "accuracy": 0, "use": "family", "member": m} for m in MEMBERS]
    return dict(pool_of({"member": tables}, "the family", Path()).backends)


def by_kind(held: Table, problems: tuple[Problem, ...]) -> None:
    """Accuracy of a sample by member and type of problem."""
    kinds = {p.prompt: p.kind for p in problems}
    names = list(dict.fromkeys(kinds.values()))
    print(f"\n| member | {' | '.join(names)} | all |")
    print("|---" * (len(names) + 2) + "|")
    for model in held.models:
        right: dict[str, list[bool]] = defaultdict(list)
        for q, name in enumerate(held.questions):
            right[kinds[name]] += [key == held.gold[q] for key in held.keys[model][q]]
        cells = [f"{sum(right[kind]) / len(right[kind]):.0%}" for kind in names]
        every = accuracies(held, range(len(held.questions)))[model]
        print(f"| {model} | {' | '.join(cells)} | {every:.1%} |")


def methods(held: Table, seeds: range) -> None:
    """Pools x k x methods."""
    names = [
        "best single sample",
        "best, SC of k",
        "best, SC of nk",
        "pooled vote",
        "weighted vote",
    ]
    print(f"\n| pool | k | SLM-MUX | {' | '.join(names)} | union |")
    print("|---" * (len(names) + 4) + "|")
    for pool, chosen in POOLS.items():
        for k in range(2, 9):
            outcome = replay(held.pool(chosen), k, seeds)
            rows = [
                "best single sample",
                f"best, self-consistency of k={k}",
                f"best, self-consistency of nk={k * len(chosen)}",
                "pooled vote",
                "accuracy-weighted vote",
            ]
            cells = [against(outcome, name) for name in rows]
            own = f"{outcome.accuracy(MUX):.1%} {shown(outcome.interval(MUX))}"
            union = f"{outcome.accuracy(ORACLE):.1%}"
            print(f"| {pool} | {k} | {own} | {' | '.join(cells)} | {union} |", flush=True)


def more(held: Table, seeds: range) -> None:
    """Ablations, sizes, lambda and reliability."""
    outcome = replay(held, 3, seeds, extra=variants())
    print(f"\nablations, all three, k = 3, SLM-MUX {outcome.accuracy(MUX):.1%}:")
    for name in variants():
        print(f"- {name}: {against(outcome, name)}")
    shares = attribution(held, 3, seeds)
    print("whose answer, k = 3: " + ", ".join(f"{n} {s:.0%}" for n, s in shares.items()))
    print("\n| models | SLM-MUX at k=3 | union |\n|---|---|---|")
    for step in more_models(held, 3, seeds):
        print(f"| {step.label} | {step.accuracy:.1%} {shown(step.interval)} | {step.union:.1%} |")
    print("\n| lambda | rank correlation | accuracy of the chosen subset |\n|---|---|---|")
    curve = objective_against_accuracy(held, 3, seeds, (0.0, 0.5, 1.0, 2.0))
    for lam, (rank, reached) in curve.items():
        print(f"| {lam} | {rank:+.2f} | {reached:.1%} |")
    print("\n| member | " + " | ".join(f"{j} of 8" for j in range(1, 9)) + " |")
    print("|---" * 9 + "|")
    for model, counts in reliability(held, 8).items():
        cells = [f"{right}/{n}" if n else "" for _, n, right in counts[1:]]
        print(f"| {model} | {' | '.join(cells)} |")


def early_stop(
    held: Table, problems: tuple[Problem, ...], backends: dict[str, TextBackend]
) -> None:
    """Calls, tokens and seconds of live answers, one after another, k = 5."""
    validation, test = split(held.questions, 0)
    known = accuracies(held, validation)
    gold = {p.prompt: p.answer for p in problems}
    testing = {held.questions[q] for q in test}
    # In the order of the problems, all types in turn; records stand by when their batch ended.
    asked = [p.prompt for p in problems if p.prompt in testing][:30]
    print("\n| schedule | early stop | accuracy | same choices | calls | tokens | s a question |")
    print("|---|---|---|---|---|---|---|")
    first: list[tuple[str | None, str | None]] | None = None
    for schedule in SCHEDULES:
        for early in ("never", "lossless", "unanimous"):
            settings = Settings(
                accuracies=known, k=5, temperature=TEMPERATURE, max_tokens=8, seed=3,
            ).changed(schedule=schedule, early_stop=early)  # fmt: skip
            made = asyncio.run(answers(backends, settings, asked))
            choices = [(one.choice.model, one.choice.answer) for one in made]
            first = first or choices
            same = sum(a == b for a, b in zip(choices, first, strict=True))
            right = sum(one.answer == gold[q] for one, q in zip(made, asked, strict=True))
            calls = sum(one.calls for one in made) / len(made)
            tokens = sum(one.prompt_tokens + one.output_tokens for one in made) / len(made)
            seconds = sum(one.seconds for one in made) / len(made)
            print(
                f"| {schedule} | {early} | {right / len(made):.1%} | {same}/{len(made)} |"
                f" {calls:.1f} | {tokens:.0f} | {seconds:.3f} |",
                flush=True,
            )


async def answers(
    backends: dict[str, TextBackend], settings: Settings, asked: list[str]
) -> list[Answered]:
    """One after another."""
    async with Callers(backends) as callers:
        engine = Engine(callers, settings)
        await engine.answer((Message(role="user", content="12+13="),))  # opens the models
        return [await engine.answer((Message(role="user", content=q),)) for q in asked]


if __name__ == "__main__":
    main()
