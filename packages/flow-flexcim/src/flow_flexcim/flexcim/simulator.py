"""The simulator `flexcim-layers`: what each linear of a stack costs on its FlexCiM accelerator.

It serves no requests. It shows what a total hides: passes of the real masks, utilisation, and where
the energy goes, layer by layer and beside the other presets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosslayer.contracts.report import Metric, Report, Table
from crosslayer.errors import InputError, UnsupportedOp
from crosslayer.pricing import first_of
from flow_flexcim.flexcim.accelerator import FlexCiM
from flow_flexcim.flexcim.layers import layer_table, linears, preset_table
from flow_flexcim.flexcim.params import LayersParams

if TYPE_CHECKING:
    from crosslayer.contracts.requests import RequestTrace
    from crosslayer.kinds import Instance, RunContext, Stack


class FlexCiMLayers:
    """What the linears of every instance take; of one on `flexcim` also a layer and a preset table.

    The trace is not looked at. Whole models: how an instance splits its model over devices is not
    counted.
    """

    def __init__(self, params: LayersParams | None = None) -> None:
        self.params = params or LayersParams()

    def simulate(self, stack: Stack, trace: RequestTrace | None, context: RunContext) -> Report:
        """Metrics and tables, one set an instance; notes say why one has none."""
        metrics: list[Metric] = []
        tables: list[Table] = []
        notes: list[str] = []
        for instance in stack.instances:
            end = "" if len(stack.instances) == 1 else f"_{instance.name}"
            try:
                metrics += self._metrics(instance, end)
                tables += self._tables(instance, end)
            except (InputError, UnsupportedOp) as error:  # the rest of the run goes on without it
                notes.append(f"{instance.name}: {error}.")
        return Report(
            title="Linears on FlexCiM",
            metrics=tuple(metrics),
            tables=tuple(tables),
            notes=tuple(notes),
        )

    def _metrics(self, instance: Instance, end: str) -> list[Metric]:
        """Time, and energy where the accelerator tells it, of all linears; fallbacks included."""
        machine, spec, tokens = instance.accelerator, instance.model.spec, self.params.tokens
        if machine is None:
            raise InputError("it is on no accelerator, so its linears have no cost")
        costs = [(machine.estimate(op), count) for op, count in linears(spec, tokens)]
        sums = {("time", "s"): sum(cost.seconds * count for cost, count in costs)}
        if all(cost.joules is not None for cost, _ in costs):
            sums["energy", "J"] = sum((cost.joules or 0.0) * count for cost, count in costs)
        return [
            Metric(
                name=f"linears_{what}_{unit.lower()}{end}", value=value, unit=unit,
                provenance="modelled", source=machine.describe().name, better="lower",
                note=f"All linears of {spec.name}, {tokens} tokens at once.",
            )
            for (what, unit), value in sums.items()
        ]  # fmt: skip

    def _tables(self, instance: Instance, end: str) -> list[Table]:
        accelerator = first_of(instance.accelerator)
        if not isinstance(accelerator, FlexCiM):
            raise InputError("it is not on flexcim, so it has no layer table")
        made = [
            table(instance.model.spec, accelerator.params, self.params.tokens)
            for table in (layer_table, preset_table)
        ]
        return [table.replace(name=f"{table.name}{end}") for table in made]
