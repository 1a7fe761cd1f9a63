"""SmolLM2-135M under three prompts: accuracies of the embedded pool, and what SLM-MUX makes of it.

`python benchmarks/smollm2_prompts.py [--questions 24] [--records FILE]`. Sums and differences of
numbers below 20 and which of two numbers is larger, drawn from a seed. One model under several
prompts: its samples are correlated, so little is to be gained. Prints the accuracies that
src/slm_mux/smollm2.toml holds, and the table of baselines. Needs the asset smollm2-135m.
"""

from __future__ import annotations

import argparse
import tempfile
import tomllib
from importlib import resources
from pathlib import Path

import numpy as np

from crosslayer.backends.protocol import Sampling
from crosslayer.intervals import wilson
from crosslayer.progress import PlainProgress
from crosslayer.questions import Question
from slm_mux.cli_records import method_rows, print_rows
from slm_mux.collect import collect
from slm_mux.discussion import debate, mixture_of_agents
from slm_mux.extract import extractor
from slm_mux.pool_file import PoolFile, pool_of
from slm_mux.records import read_rows, table
from slm_mux.replay import accuracies

SAMPLES = 3


def main() -> None:
    """Collect what is not there yet, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--records", type=Path, help="kept, and gone on with")
    asked = parser.parse_args()
    text = resources.files("slm_mux").joinpath("smollm2.toml").read_text("utf-8")
    pool = pool_of(tomllib.loads(text), "smollm2.toml", Path())
    sampling = Sampling(temperature=pool.settings.temperature, max_tokens=pool.settings.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        file = asked.records or Path(folder, "records.jsonl")
        progress = PlainProgress()
        collect(
            pool.backends, questions(asked.questions), file, SAMPLES, sampling, progress=progress
        )
        held = table(read_rows(file), extractor(pool.settings.extractor))
    every = range(len(held.questions))
    for model, value in accuracies(held, every).items():
        print(f"{model}: {value:.3f} of {len(every) * SAMPLES} samples")
    print_rows(method_rows(held, 3, 40), as_json=False)
    discussions(pool, questions(asked.questions), sampling)


def discussions(pool: PoolFile, asked: list[Question], sampling: Sampling) -> None:
    """Mixture-of-Agents and debate on the same members, live, with what they take."""
    extract = extractor(pool.settings.extractor)
    conversations = [one.asked() for one in asked]
    first = next(iter(pool.backends))
    made = {
        f"mixture of agents, {first} aggregates": mixture_of_agents(
            pool.backends, conversations, extract, sampling, first
        ),
        "debate, 2 rounds": debate(pool.backends, conversations, extract, sampling),
    }
    for name, ended in made.items():
        right = sum(one.key == q.answer for one, q in zip(ended, asked, strict=True))
        calls = sum(one.calls for one in ended) / len(ended)
        tokens = sum(one.prompt_tokens + one.output_tokens for one in ended) / len(ended)
        low, high = wilson(right, len(ended))
        print(
            f"{name}: {right / len(ended):.1%} [{low:.1%}, {high:.1%}], all {len(ended)} questions,"
            f" {calls:.0f} calls, {tokens:.0f} tokens a question"
        )


def questions(number: int) -> list[Question]:
    """Three types in turn."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(number):
        small, large = sorted(map(int, rng.choice(np.arange(2, 20), 2, replace=False)))
        asked, answer = (
            (f"What is {small} + {large}?", small + large),
            (f"What is {large} - {small}?", large - small),
            (f"Which number is larger, {small} or {large}?", large),
        )[i % 3]
        made.append(Question(id=str(i), prompt=asked, answer=str(answer)))
    return made


if __name__ == "__main__":
    main()
