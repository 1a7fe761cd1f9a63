"""What `cpu-local` predicts beside what the same steps take here: SmolLM2, and a model of another
shape with random weights.

Several runs, each with a calibration of its own before the models; all of them are shown. One
thread is timed in CPU seconds, which leave out most of what else the machine does. With `--write`
the numbers go into the README beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from readme import markdown_table, write_section

from crosslayer.accelerators.cpu_calibration import write
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

RUNS, REPEATS, OUTPUT = 3, 7, 8
PROMPTS = {32: False, 128: True, 512: True}  # whether decode after it is shown
WIDE = {
    "model_type": "llama", "vocab_size": 8192, "hidden_size": 1536, "intermediate_size": 4096,
    "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}  # fmt: skip


def compared(model: ModelArtifact, cpu: CpuLocal, context: RunContext) -> Iterator[list[str]]:
    """A step and its best, median, predicted time in ms, and error."""
    stack = Stack((Instance(model.spec.name, model, cpu),))
    for prompt, decode in PROMPTS.items():
        timing = StepTime(
            StepTimeParams(prompt_tokens=prompt, output_tokens=OUTPUT, repeats=REPEATS)
        )
        report = timing.compare(timing.evaluate(stack, context), stack)
        table = report.table("step_time")
        for row in table.rows:
            at = dict(zip((column.name for column in table.columns), row, strict=True))
            if at["step"] == "decode" and not decode:
                continue
            what = f"prefill {prompt}" if at["step"] == "prefill" else f"decode at {prompt}"
            times = [f"{1e3 * float(at[name]):.1f}" for name in ("best", "median", "predicted")]  # type: ignore[arg-type]
            yield [what, *times, f"{100 * float(at['error']):+.1f} %"]  # type: ignore[arg-type]


def clock_for(threads: int) -> Callable[[], float]:
    """CPU seconds for one thread, wall-clock seconds for several."""
    return time.process_time if threads == 1 else time.perf_counter


def one_run(models: Sequence[ModelArtifact], threads: int, folder: Path) -> list[list[list[str]]]:
    """A row about the run and its calibration, and the rows of each model."""
    load, progress = os.getloadavg()[0], progress_for()
    cpu = CpuLocal(CpuLocalParams(calibration_file=folder / "calibration.json"))
    clock = clock_for(threads)
    found = measure(threads, clock=clock)
    write(folder / "calibration.json", found)
    context = RunContext(0, folder, progress, clock=clock, threads=threads)
    about = [f"{load:.1f}", f"{found.took_s:.1f} s", f"{found.disagreement:.0%}"]
    found_rows = [[about]]
    for model in models:
        found_rows.append(list(compared(model, cpu, context)))
        for row in (about, *found_rows[-1]):  # a run that is ended leaves what it had
            progress.say(f"{model.spec.name}: {', '.join(row)}")
    return found_rows


def main() -> None:
    """Prints the tables; with --write also into the README."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    parser.add_argument("--threads", type=int, default=allowed_cores(), help="default: all cores")
    arguments = parser.parse_args()
    threads = arguments.threads
    limit_threads(threads)
    models = (smollm2(LiveParams()), random_model(WIDE))
    with tempfile.TemporaryDirectory() as folder:
        runs = [one_run(models, threads, Path(folder)) for _ in range(RUNS)]
    head = ("run", "load before", "calibration took", "its repeats differ by")
    rows = [[str(i), *run[0][0]] for i, run in enumerate(runs, start=1)]
    parts = [markdown_table(head, rows)]
    for place, model in enumerate(models, start=1):
        spec = model.spec
        shape = f"{len(spec.blocks) - 2} layers, hidden {spec.hidden}"
        title = f"{spec.name}: {spec.parameters / 1e6:.0f} M parameters, {shape}"
        rows = [
            [step[0], str(i), *step[1:]]
            for steps in zip(*(run[place] for run in runs), strict=True)
            for i, step in enumerate(steps, start=1)
        ]
        table = markdown_table(("step", "run", "best", "median", "predicted", "error"), rows)
        parts.append(f"### {title}\n\n{table}")
    clock = "CPU times" if threads == 1 else "wall-clock times"
    text = f"""
*measured* and *modelled* on {platform.machine()}, threads: {threads},
Python {platform.python_version()}, torch {version("torch")}: {clock} in ms; the error is
of the prediction against the best of {REPEATS} repeats; one sequence, fp32. Decode: {OUTPUT} single
tokens.

""" + "\n\n".join(parts)
    print(text)
    if arguments.write:
        write_section("cpu-local", text)


if __name__ == "__main__":
    main()
