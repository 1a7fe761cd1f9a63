"""Mixture-of-Agents and debate among the family's members, asked live and kept in a file.

What others answered stands before the question in letters that the family was trained to read
(`slm_mux.family.problems.advised`). The aggregator of a split is the member of the highest
validation accuracy; it is asked when the first split needs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tables import Discuss, Pools

from crosslayer.backends.protocol import Sampling, TextBackend
from crosslayer.progress import Progress
from crosslayer.questions import Question
from slm_mux.discussion import Discussed, debate, mixture_of_agents
from slm_mux.extract import number
from slm_mux.family.problems import advised
from slm_mux.records import Table, split
from slm_mux.replay import Outcome, accuracies, best

RUNS = 2  # with seeds of their own; splits take them in turn
MIXTURE, DEBATE = "mixture of agents", "debate"
CALLS = {MIXTURE: lambda n: n + 1, DEBATE: lambda n: 2 * n}


class Discussions:
    """Asks what the file lacks; a discussion of a pool is one of all its questions."""

    def __init__(
        self, pools: Pools, backends: Mapping[str, TextBackend], questions: Sequence[Question],
        sampling: Sampling, folder: Path, progress: Progress,
    ) -> None:  # fmt: skip
        self.pools, self.backends, self.sampling = pools, backends, sampling
        self.questions, self.progress = questions, progress
        self.file = folder / f"discussions-{len(questions)}.json"
        self.ended: dict[str, list[Discussed]] = {}
        if self.file.exists():
            for name, rows in json.loads(self.file.read_text("utf-8")).items():
                self.ended[name] = [Discussed(**row) for row in rows]

    def added_to(self, held: Table) -> Discuss:
        """Both methods, on the splits of an outcome."""
        gold = dict(zip(held.questions, held.gold, strict=True))
        place = {one.id: i for i, one in enumerate(self.questions)}

        def add(pool: str, outcome: Outcome, seeds: range) -> Outcome:
            right, asked = dict(outcome.right), dict(outcome.asked)
            members = held.pool(self.pools[pool])
            for method in CALLS:
                right[method] = np.zeros(len(held.questions), dtype=np.int64)
                asked[method] = np.zeros(len(held.questions), dtype=np.int64)
            for seed in seeds:
                validation, test = split(held.questions, seed)
                aggregator = best(accuracies(members, validation))
                for method in CALLS:
                    said = self.discussed(method, pool, aggregator, seed % RUNS)
                    for q in test:
                        name = held.questions[q]
                        asked[method][q] += 1
                        right[method][q] += said[place[name]].key == gold[name]
            return Outcome(outcome.questions, right, asked)

        return add

    def discussed(self, method: str, pool: str, aggregator: str, run: int) -> list[Discussed]:
        """One discussion, from the file if it is there."""
        name = "/".join([method, pool, str(run), *([aggregator] if method == MIXTURE else [])])
        if name not in self.ended:
            self.progress.say(f"asking: {name}")
            asked = [one.asked() for one in self.questions]
            backends = {member: self.backends[member] for member in self.pools[pool]}
            if method == MIXTURE:
                made = mixture_of_agents(
                    backends, asked, number, self.sampling, aggregator, seed=run, words=in_letters
                )
            else:
                made = debate(backends, asked, number, self.sampling, seed=run, words=in_letters)
            self.ended[name] = made
            rows = {key: [asdict(one) for one in all_of] for key, all_of in self.ended.items()}
            self.file.write_text(json.dumps(rows), encoding="utf-8")
        return self.ended[name]

    def costs(self) -> None:
        """Calls and tokens a question of every discussion."""
        for name, made in sorted(self.ended.items()):
            tokens = sum(one.prompt_tokens + one.output_tokens for one in made) / len(made)
            print(f"- {name}: {made[0].calls} calls, {tokens:.0f} tokens a question")
        print()


def in_letters(question: str, others: Sequence[tuple[str, str]], then: str) -> str:
    """As the family was trained: answers, then the question."""
    return advised(question, [said for _, said in others])
