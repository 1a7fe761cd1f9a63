"""The live family: the tables of CHAMP, discussions among the members, early stop on and off.

`python benchmarks/live_family.py [--questions 120]` prints the tables of the README and draws its
figures. Small transformers trained here on different mixtures (`slm_mux.family.problems`), so that
they complete each other by construction. Questions are held out of their training. 32 samples a
member and question at temperature 0.8, Mixture-of-Agents and debate are asked live once and kept in
the user's cache under a name that holds a hash of the weights; half of the questions of a split
give accuracies, the other half the results.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from collections import defaultdict
from pathlib import Path

import figures
import tables
from family_discussions import CALLS, Discussions

from crosslayer.backends.protocol import Sampling, TextBackend
from crosslayer.contracts.calls import Message
from crosslayer.places import cache_dir
from crosslayer.progress import PlainProgress
from crosslayer.questions import Question
from slm_mux.callers import Callers
from slm_mux.collect import collect
from slm_mux.early_stop import SCHEDULES
from slm_mux.engine import Answered, Engine, Settings
from slm_mux.extract import extractor
from slm_mux.family import MEMBERS, member_folder
from slm_mux.family.problems import Problem, questions
from slm_mux.pool_file import pool_of
from slm_mux.records import Table, read_rows, split, table
from slm_mux.replay import accuracies

SAMPLES, TEMPERATURE, SEED = 32, 0.8, 7
POOLS = {
    "all four": MEMBERS,
    "sums + digits + remainders": ("sums", "digits", "remainders"),
    "sums + digits": ("sums", "digits"),
    "sums + carryless": ("sums", "carryless"),
}


def main() -> None:
    """Collect what is not there, then every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--splits", type=int, default=40)
    asked = parser.parse_args()
    problems = questions(asked.questions, SEED)
    backends, folder = members(), kept()
    given = [Question(id=p.prompt, prompt=p.prompt, answer=p.answer) for p in problems]
    sampling = Sampling(temperature=TEMPERATURE, max_tokens=8)
    file = folder / f"records-{asked.questions}.jsonl"
    collect(backends, given, file, SAMPLES, sampling, progress=PlainProgress())
    held = table(read_rows(file), extractor("number"))
    seeds = range(asked.splits)
    print(f"{len(problems)} questions, {asked.splits} splits; records in the cache: {file.name}")
    by_kind(held, problems)
    discussions = Discussions(POOLS, backends, given, sampling, folder, PlainProgress())
    outcomes = tables.methods(held, POOLS, seeds, discussions.added_to(held), tuple(CALLS))
    discussions.costs()
    tables.ablations(held, {}, POOLS, seeds)
    tables.reliabilities(held)
    tables.attributions(held, POOLS, seeds)
    tables.searches(held, seeds)
    calls = {name: count(len(MEMBERS)) for name, count in CALLS.items()}
    source = "the live family, four members, temperature 0.8"
    figures.draw("family", held, outcomes, seeds, ("measured", source), calls)
    early_stop(held, problems, backends)


def members() -> dict[str, TextBackend]:
    """The family's backends by name."""
    rows = [{"name": m, "accuracy": 0, "use": "family", "member": m} for m in MEMBERS]
    return dict(pool_of({"member": rows}, "the family", Path()).backends)


def kept() -> Path:
    """Where what these weights said is kept."""
    weights = [(member_folder(name) / "model.safetensors").read_bytes() for name in MEMBERS]
    name = hashlib.sha256(b"".join(weights)).hexdigest()[:12]
    folder = cache_dir("slm-mux", f"family-{name}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
    print()


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
    print("| schedule | early stop | accuracy | same choices | calls | tokens | s a question |")
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
