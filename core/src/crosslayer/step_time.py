"""How long a live model's prefill and decode steps take on this machine, beside what the
accelerator of the instance predicts, if that is this machine.

The best of the repeats counts, as in the calibration: what else a machine does only ever adds time.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crosslayer.contracts.report import Cell, Column, Metric, Report, Table
from crosslayer.errors import InputError
from crosslayer.evaluators import Forward
from crosslayer.evaluators_params import StepTimeParams

if TYPE_CHECKING:
    from crosslayer.contracts.steps import StepTable
    from crosslayer.kinds import Instance, LiveModel, RunContext, Stack

NAMES = {"prefill": "prefill_time", "decode": "decode_time_per_token"}
UNITS = {"prefill": "s", "decode": "s/token"}
TABLE = "step_time"
COLUMNS = (
    "step",
    "tokens",
    "tokens a pass",
    "cached before",
    "logits",
    "best",
    "median",
    "worst",
)


@dataclass(frozen=True)
class _Timed:
    """Repeats of one kind of step: `tokens` in passes of `piece`, after `cached` others."""

    step: str
    tokens: int
    piece: int
    cached: int
    logits: str  # "last" or "all": the rows of a pass that reach the LM head
    seconds: tuple[float, ...]

    @property
    def row(self) -> tuple[Cell, ...]:
        shape = (self.step, self.tokens, self.piece, self.cached, self.logits)
        times = (min(self.seconds), statistics.median(self.seconds), max(self.seconds))
        return (*shape, *times)


class StepTime:
    """Wall-clock seconds of one sequence's prefill, and of a decode step after it."""

    def __init__(self, params: StepTimeParams | None = None) -> None:
        self.params = params or StepTimeParams()

    def evaluate(self, stack: Stack, context: RunContext) -> Report:
        """Metrics prefill_time_s and decode_time_per_token_s, the best of the repeats, and the
        table `step_time`; all of it wall clock.
        """
        instance = stack.instance(self.params.instance)
        if instance.model.live is None:
            raise InputError(f"{instance.model.spec.name} has no weights, so nothing can be timed")
        timed = _time(instance.model.live, instance.model.spec.vocabulary, self.params, context)
        name = instance.model.spec.name
        repeats = f"best of {self.params.repeats} repeats"
        source = f"{name} on this machine, {context.threads} threads, {repeats}"
        metrics = tuple(
            Metric(
                name=f"{NAMES[one.step]}_s", value=min(one.seconds),
                unit=UNITS[one.step], provenance="measured", source=source, better="lower",
                samples=len(one.seconds), wall_clock=True,
                note=f"{_what(one)}; median {statistics.median(one.seconds):.3g} s, worst "
                f"{max(one.seconds):.3g} s.",
            )
            for one in timed
        )  # fmt: skip
        table = _table([one.row for one in timed], f"{self.params.repeats} repeats.")
        return Report(title="Time of a step", metrics=metrics, tables=(table,))

    def compare(self, report: Report, stack: Stack) -> Report:
        """The report with the accelerator's predictions of the same steps and their errors; as it
        is where the instance's accelerator is not this machine.
        """
        from crosslayer.pricing import first_of

        instance = stack.instance(self.params.instance)
        machine = first_of(instance.accelerator)
        if not getattr(machine, "this_machine", False):
            return report
        described = machine.describe()
        source = f"{described.name}, lowering of {instance.model.spec.name}"
        metrics, rows = list(report.metrics), []
        for row in report.table(TABLE).rows:
            step, measured = str(row[0]), float(row[5])  # type: ignore[arg-type]
            costs = stack.step_costs(instance, _steps(instance, row))
            whole = float(costs.seconds.sum())
            predicted = whole if step == "prefill" else whole / len(costs)
            error = predicted / measured - 1
            rows.append((*row, predicted, error))
            metrics += [
                Metric(
                    name=f"{NAMES[step]}_predicted_s", value=predicted, unit=UNITS[step],
                    provenance="modelled", source=source, better="lower",
                ),
                Metric(
                    name=f"{NAMES[step]}_error", value=error, unit="fraction",
                    provenance="modelled", source=f"{source}, against the measured time",
                    wall_clock=True, note="Predicted over the best of the repeats, less one.",
                ),
            ]  # fmt: skip
        note = f"{report.table(TABLE).note} {source}; the error is predicted over the best, less 1."
        tables = tuple(
            _table(rows, note) if table.name == TABLE else table for table in report.tables
        )
        return report.replace(metrics=tuple(metrics), tables=tables)


def _what(one: _Timed) -> str:
    if one.step == "decode":
        return f"{one.tokens} single tokens after {one.cached}"
    pieces = "" if one.piece == one.tokens else f" in passes of {one.piece}"
    return f"{one.tokens} tokens{pieces}"


def _table(rows: list[tuple[Cell, ...]], note: str) -> Table:
    units = dict.fromkeys(("best", "median", "worst"), "s")
    columns = [
        Column(
            name=name, unit=units.get(name, ""), provenance="measured" if name in units else None
        )
        for name in COLUMNS
    ]
    if rows and len(rows[0]) > len(columns):
        columns.append(Column(name="predicted", unit="s", provenance="modelled"))
        columns.append(Column(name="error", unit="fraction", provenance="modelled"))
    title = "Seconds of a prefill, and of a decode step"
    return Table(
        name=TABLE, title=title, columns=tuple(columns), rows=tuple(rows), note=note,
        wall_clock=True,
    )  # fmt: skip


def _steps(instance: Instance, row: tuple[Cell, ...]) -> StepTable:
    """The passes that a row of the table is about."""
    import numpy as np

    from crosslayer.contracts.steps import StepTable

    step, logits = str(row[0]), str(row[4])
    tokens, piece, cached = (int(cell) for cell in row[1:4])  # type: ignore[arg-type]
    starts = np.arange(0, tokens, piece)
    new = np.minimum(piece, tokens - starts)
    before = np.full(len(starts), cached) if step == "decode" else starts
    generated = starts if step == "decode" else np.zeros_like(starts)
    return StepTable.from_sequences(
        instance.model.spec, new, before, generated, logits="all" if logits == "all" else "last"
    )


def _time(
    live: LiveModel, vocabulary: int | None, params: StepTimeParams, context: RunContext
) -> list[_Timed]:
    """Repeats through `new_cache()`, one more first that nobody counts. Which tokens does not
    matter, so they are random.
    """
    import torch

    prompt, output, clock = params.prompt_tokens, params.output_tokens, context.clock
    forward = Forward(live.module, last=True)
    piece = prompt if live.chunk_tokens is None else min(prompt, forward.piece(live.chunk_tokens))
    drawn = context.rng("step-time").integers(0, vocabulary or 2, prompt + output)
    ids: Any = torch.from_numpy(drawn)
    prefills, decodes = [], []
    repeats = range(params.repeats + 1)
    with torch.inference_mode():
        for repeat in context.progress.track(repeats, "timing", total=len(repeats)):
            cache = live.new_cache()
            start = clock()
            for at in range(0, prompt, piece):
                forward(ids[at : min(at + piece, prompt)], at, cache)
            middle = clock()
            for at in range(prompt, prompt + output):
                forward(ids[at : at + 1], at, cache)
            end = clock()
            if repeat:
                prefills.append(middle - start)
                decodes.append((end - middle) / output)
    logits = "last" if forward.keeps_last else "all"
    return [
        _Timed("prefill", prompt, piece, 0, logits, tuple(prefills)),
        _Timed("decode", output, 1, prompt, logits, tuple(decodes)),
    ]
