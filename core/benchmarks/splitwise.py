"""Llama-2-70B on A100 and H100, tensor parallel, against the roofline with nothing tuned.

Recorded by Splitwise (P. Patel et al., ISCA 2024; github.com/Mutinifni/splitwise-sim, MIT):
perf_model.csv has prompt, token and end-to-end times in ms, five or more repeats of each setting.
Only settings of 128 output tokens are used: with more, the end-to-end times say that the answers
ended early.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from crosslayer.accelerators.params import RooflineParams
from crosslayer.accelerators.roofline import Roofline
from crosslayer.contracts.steps import StepTable
from crosslayer.kinds import Instance, Stack
from crosslayer.models.presets import SpecPreset

MODEL = SpecPreset("llama-2-70b")()
OUTPUT = 128
PRESETS = {"a100-80gb": "a100-80g", "h100-80gb": "h100-80g"}


@dataclass(frozen=True)
class Setting:
    """One row of the data: where, how split, and how much work."""

    hardware: str
    tensor: int
    batch: int
    prompt: int
    output: int


@dataclass(frozen=True)
class Times:
    """Recorded medians and modelled seconds of a prompt phase and of one output token.

    whole: recorded seconds from end to end.
    """

    setting: Setting
    prompt: float
    prompt_modelled: float
    token: float
    token_modelled: float
    whole: float

    @property
    def prompt_error(self) -> float:
        """Signed share of the recorded prompt time."""
        return self.prompt_modelled / self.prompt - 1

    @property
    def token_error(self) -> float:
        """Signed share of the recorded token time."""
        return self.token_modelled / self.token - 1

    @property
    def is_one_batch(self) -> bool:
        """Whether prompt and tokens account for the time from end to end, to a factor of two."""
        return self.whole < 2 * (self.prompt + (self.setting.output - 1) * self.token)


def modelled(setting: Setting) -> tuple[float, float]:
    """(seconds of the prompts' pass, mean seconds of a decode step over the output)."""
    accelerator = Roofline(RooflineParams(preset=PRESETS[setting.hardware]))
    instance = Instance(
        setting.hardware, MODEL, accelerator, devices=setting.tensor, tensor_parallel=setting.tensor
    )
    # step 0 is the prompts' pass, steps 1 .. feed output tokens one by one
    steps, batch = setting.output, setting.batch
    generated = np.repeat(np.arange(steps) - 1, batch)
    new = np.where(generated < 0, setting.prompt, 1)
    cached = np.where(generated < 0, 0, setting.prompt)
    made = np.maximum(generated, 0)
    step = np.repeat(np.arange(steps), batch)
    table = StepTable.from_sequences(MODEL.spec, new, cached, made, step, steps=steps)
    seconds = Stack((instance,)).step_costs(instance, table).seconds
    return float(seconds[0]), float(seconds[1:].mean())


def anchors(data: Path) -> list[Times]:
    """Every setting of Llama-2-70B on the two cards without a power cap."""
    repeats: dict[Setting, list[tuple[float, ...]]] = {}
    with (data / "perf_model.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["model"] != "llama2-70b" or row["hardware"] not in PRESETS:
                continue
            names = ("tensor_parallel", "batch_size", "prompt_size", "token_size")
            setting = Setting(row["hardware"], *(int(row[name]) for name in names))
            times = (float(row[f"{what}_time"]) * 1e-3 for what in ("prompt", "token", "e2e"))
            if setting.output == OUTPUT:
                repeats.setdefault(setting, []).append(tuple(times))
    made = []
    for setting in sorted(repeats, key=lambda s: (s.hardware, s.tensor, s.batch, s.prompt)):
        prompt, token, whole = (median(column) for column in zip(*repeats[setting], strict=True))
        prompt_modelled, token_modelled = modelled(setting)
        made.append(Times(setting, prompt, prompt_modelled, token, token_modelled, whole))
    return made
