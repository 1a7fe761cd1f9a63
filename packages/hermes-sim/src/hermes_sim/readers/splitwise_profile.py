"""Measured prompt and token times and power in splitwise-sim's table.

https://github.com/Mutinifni/splitwise-sim (MIT): model, hardware, prompt_size, batch_size,
token_size, peak_power, average_power (fractions of the board's; 0 where it was not recorded),
prompt_time, token_time (ms), tensor_parallel; a row is a whole batch that is prefilled and then
decoded together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosslayer.errors import InputError
from hermes_sim.readers.tables import LONGEST_KERNEL_S, Columns, at_most, number, rows, whole
from hermes_sim.step_models.axes import Line, weights
from hermes_sim.step_models.protocol import Contexts, Floats
from hermes_sim.step_models.surfaces import Surface

BOARD_WATTS = {"a100-80gb": 400.0, "h100-80gb": 700.0, "h100-80gb-pcap": 700.0}


@dataclass
class BatchTimes:
    """A step model of whole batches. prompt: seconds by prompt tokens of a step. token: seconds of
    a decode step by calls and mean context. Decodes beside prompts ride along as so many tokens
    more. power: of all devices by calls, in watts; None: not known.
    """

    name: str
    prompt: Line
    token: Surface
    prompt_limit: float
    power: Line | None
    beyond: int = 0

    def __post_init__(self) -> None:
        self.decode_limit = self.token.axis[-1]
        self.context_limit = self.token.second_limit

    def mixed(
        self,
        prefills: Sequence[tuple[int, int]],
        rows: int,
        n: int,
        context: int,
        contexts: Contexts,
    ) -> tuple[float, Sequence[float] | None]:
        """See `StepModel`. Cached tokens cost nothing: the table does not know them."""
        tokens = sum(new for new, _ in prefills) + n
        far = n > 0 and context > n * self.context_limit
        if far or n > self.decode_limit or tokens > self.prompt_limit:
            self.beyond += 1
        seconds = max(0.0, self.prompt.one(tokens))
        if n:
            seconds = max(seconds, self.token.at(n, context / n))
        return seconds, None if self.power is None else (seconds * self._watts(len(prefills)),)

    def decodes(self, n: int, context: int, steps: int, contexts: Contexts) -> tuple[Floats, Any]:
        """See `StepModel`."""
        at = (context + n * np.arange(steps, dtype=np.float64)) / n
        seconds = np.zeros(steps)
        for i, weight in weights(self.token.axis, n):
            seconds += weight * self.token.lines[i].rising(at)
        np.maximum(seconds, 0.0, out=seconds)
        return seconds, None if self.power is None else seconds * self._watts(n)

    def _watts(self, calls: int) -> float:
        assert self.power is not None
        return self.power.one(min(calls, self.decode_limit))


def read_splitwise_profile(
    file: Path, model: str | None, hardware: str | None, tensor_parallel: int
) -> BatchTimes:
    """The step model of one (model, hardware, tensor_parallel) of the table.

    None: the only one there is. Errors: InputError with what there is.
    """
    milliseconds = at_most(LONGEST_KERNEL_S * 1e3)
    columns: Columns = [
        ("model", str), ("hardware", str), ("tensor_parallel", whole), ("prompt_size", whole),
        ("batch_size", whole), ("token_size", whole), ("prompt_time", milliseconds),
        ("token_time", milliseconds), ("average_power", number),
    ]  # fmt: skip
    table = [values for _, values in rows(file, columns)]
    chosen = [
        row
        for row in table
        if model in (None, row[0]) and hardware in (None, row[1]) and row[2] == tensor_parallel
    ]
    there = sorted({(row[0], row[1], row[2]) for row in table})
    if len({(row[0], row[1]) for row in chosen}) != 1:
        listed = "; ".join(f"{m} on {h}, {t} devices" for m, h, t in there)
        raise InputError(
            f"{file}: {len({(r[0], r[1]) for r in chosen})} tables fit model {model!r}, hardware"
            f" {hardware!r} and {tensor_parallel} devices; there are: {listed}"
        )
    name, board = chosen[0][0], chosen[0][1]
    prompts = Surface((0.0, row[3] * row[4], row[6] * 1e-3) for row in chosen)
    tokens = Surface((row[4], row[3] + row[5] / 2, row[7] * 1e-3) for row in chosen)
    watts = BOARD_WATTS.get(board)
    power = None
    powered = [row for row in chosen if row[8] > 0]  # where none was recorded the table has 0
    if watts is not None and powered:
        by_calls = Surface((0.0, row[4], row[8] * watts * tensor_parallel) for row in powered)
        power = by_calls.lines[0]
    return BatchTimes(
        f"{name} on {tensor_parallel} x {board}, splitwise table", prompts.lines[0], tokens,
        prompts.second_limit, power,
    )  # fmt: skip
