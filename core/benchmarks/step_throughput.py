"""CPU seconds that the core takes to price a million mixed steps of Llama-3.1-8B.

    python core/benchmarks/step_throughput.py [--write]

Each step decodes one sequence and, in a fifth of the steps, also prefills a prompt. Building the
table and pricing it are timed apart; CPU time of this process, best of three. --write puts the
result into the README beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from readme import markdown_table, write_section

from crosslayer.accelerators.params import RooflineParams
from crosslayer.accelerators.roofline import Roofline
from crosslayer.contracts.steps import StepTable
from crosslayer.kinds import Instance, Stack
from crosslayer.models.presets import SpecPreset

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from arrays import Array  # the tests' two small accelerators

STEPS = 1_000_000
MODEL = SpecPreset("llama-3.1-8b")()
ACCELERATORS: dict[str, Any] = {
    "roofline:a100-80g": Roofline(RooflineParams(preset="a100-80g")),
    "16 x 16 weight-stationary array": Array(16, 16),
    "8 x 8 array with resident weights": Array(8, 8, resident=True),
}
T = TypeVar("T")


def mixed_steps(seed: int = 5) -> StepTable:
    """A million steps: a decode each, a prompt beside it in one of five."""
    rng = np.random.default_rng(seed)
    prompts = np.where(rng.random(STEPS) < 0.2, rng.integers(1, 2048, STEPS), 0)
    none = np.zeros(STEPS, dtype=np.int64)
    return StepTable.from_sequences(
        MODEL.spec,
        np.concatenate([np.ones(STEPS, dtype=np.int64), prompts]),
        np.concatenate([rng.integers(1, 4096, STEPS), none]),
        np.concatenate([rng.integers(0, 512, STEPS), none]),
        np.tile(np.arange(STEPS), 2),
    )


def best_of_three(work: Callable[[], T]) -> tuple[float, T]:
    """(CPU seconds of the fastest of three runs, the result)."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def main() -> None:
    """Prints the table; with --write also into the README."""
    parser = argparse.ArgumentParser(description="CPU seconds of a million steps.")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    build, table = best_of_three(mixed_steps)
    rows = [["building the StepTable", f"{build:.2f}", ""]]
    for name, accelerator in ACCELERATORS.items():
        instance = Instance("main", MODEL, accelerator)
        stack = Stack((instance,))
        seconds, costs = best_of_three(partial(stack.step_costs, instance, table))
        rows.append([name, f"{seconds:.2f}", f"{costs.seconds.mean() * 1e3:.2f}"])
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    text = f"""
*measured* on {machine}, NumPy {np.__version__}: {STEPS:,} mixed steps of
Llama-3.1-8B, CPU seconds, best of three. The last column is *modelled*.

{markdown_table(("accelerator", "CPU s", "mean step (ms)"), rows)}"""
    print(text)
    if arguments.write:
        write_section("step-throughput", text)


if __name__ == "__main__":
    main()
