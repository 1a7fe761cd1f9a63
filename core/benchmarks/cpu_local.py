"""What `cpu-local` predicts beside what the same steps take here: SmolLM2, and a model of another
shape with random weights.

The calibration is measured anew, before the models. With `--write` the numbers go into the README
beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from readme import markdown_table, write_section

from crosslayer.accelerators.cpu_calibration import CpuCalibration
from crosslayer.accelerators.cpu_local import CpuLocal
from crosslayer.accelerators.cpu_measure import measure
from crosslayer.accelerators.cpu_params import CpuLocalParams
from crosslayer.evaluators_params import StepTimeParams
from crosslayer.kinds import Instance, ModelArtifact, RunContext, Stack
from crosslayer.machine import allowed_cores, limit_threads
from crosslayer.models.live_params import LiveParams
from crosslayer.models.random_model import random_model
from crosslayer.models.smollm2 import smollm2
from crosslayer.progress import progress_for
from crosslayer.step_time import StepTime

REPEATS, OUTPUT = 7, 8
PROMPTS = {32: False, 128: True, 512: True}  # whether decode after it is shown
WIDE = {
    "model_type": "llama", "vocab_size": 8192, "hidden_size": 1536, "intermediate_size": 4096,
    "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}  # fmt: skip


def compared(model: ModelArtifact, cpu: CpuLocal, context: RunContext) -> Iterator[list[str]]:
    """Rows of step, measured, best, worst, predicted, error; times in ms."""
    stack = Stack((Instance(model.spec.name, model, cpu),))
    for prompt, decode in PROMPTS.items():
        timing = StepTime(
            StepTimeParams(prompt_tokens=prompt, output_tokens=OUTPUT, repeats=REPEATS)
        )
        report = timing.compare(timing.evaluate(stack, context), stack)
        for row in report.table("step_time").rows:
            if row[0] == "decode" and not decode:
                continue
            what = f"prefill {prompt}" if row[0] == "prefill" else f"decode at {prompt}"
            times = [f"{1e3 * float(cell):.1f}" for cell in row[5:9]]  # type: ignore[arg-type]
            yield [what, *times, f"{100 * float(row[9]):+.1f} %"]  # type: ignore[arg-type]


def drift(first: CpuCalibration, second: CpuCalibration) -> float:
    """How much longer fp32 products took in the second, by the geometric mean of the cells."""
    grids = [np.asarray(found.products[0].seconds) for found in (first, second)]
    rows = min(len(grid) for grid in grids)
    return float(np.exp(np.log(grids[1][:rows] / grids[0][:rows]).mean()) - 1)


def main() -> None:
    """Prints the tables; with --write also into the README."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    arguments = parser.parse_args()
    load, threads, progress = os.getloadavg()[0], allowed_cores(), progress_for()
    limit_threads(threads)
    cpu = CpuLocal(CpuLocalParams(calibrate="always"))
    cpu.identity(progress)
    head = ("step", "measured", "best", "worst", "predicted", "error")
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        context = RunContext(0, Path(folder), progress, threads=threads)
        for model in (smollm2(LiveParams()), random_model(WIDE)):
            spec = model.spec
            shape = f"{len(spec.blocks) - 2} layers, hidden {spec.hidden}"
            title = f"{spec.name}: {spec.parameters / 1e6:.0f} M parameters, {shape}"
            table = markdown_table(head, list(compared(model, cpu, context)))
            parts.append(f"### {title}\n\n{table}")
    found, again = cpu.calibration, measure(threads)
    text = f"""
*measured* and *modelled* on {platform.machine()}, {threads} cores,
Python {platform.python_version()}, torch {version("torch")}: times in ms, medians of
{REPEATS} repeats, the best and the worst; one sequence, fp32. Decode: {OUTPUT} single tokens.
Calibration: {found.took_s:.1f} s, repeats differ by {found.disagreement:.0%}; in a second one,
after the models, products took {drift(found, again):+.0%}.
Load average of the machine before: {load:.1f}.

{parts[0]}

{parts[1]}"""
    print(text)
    if arguments.write:
        write_section("cpu-local", text)


if __name__ == "__main__":
    main()
