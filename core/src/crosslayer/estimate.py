"""What a workload costs on an instance: prefill, decode, bytes, and where the time goes; all of it
modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from crosslayer.contracts import ops
from crosslayer.contracts.lowering import lower
from crosslayer.contracts.network import Topology
from crosslayer.contracts.report import Column, Metric, Report, Table
from crosslayer.contracts.steps import StepShape, StepTable
from crosslayer.kinds import Instance, ModelArtifact
from crosslayer.stepcost import graph_cost, price_graph, step_costs


def estimate_report(
    instance: Instance,
    original: ModelArtifact,
    *,
    prompt_tokens: int,
    output_tokens: int,
    batch_size: int = 1,
    network: Topology | None = None,
) -> Report:
    """Latency, energy and bytes of `batch_size` equal requests on one instance, beside the
    untransformed model.

    Prefill is one pass over the prompts; the first token comes out of it. Decode is the mean over
    the other output tokens, each at its own context length. Throughput counts the output tokens of
    the whole batch over its request latency. Metrics of the original model end in `_original`.
    """
    assert instance.accelerator is not None
    source = f"{instance.accelerator.describe().name}, lowering of {instance.model.spec.name}"
    shape = (prompt_tokens, output_tokens, batch_size)
    metrics = _metrics(instance, shape, network, source, "")
    untouched = original.spec == instance.model.spec
    if not untouched:
        before = Instance(**{**vars(instance), "model": original})
        metrics += _metrics(before, shape, network, source, "_original")
    tables = (
        _op_table(instance, "prefill", [(prompt_tokens, 0, 0)] * batch_size, network, source),
        _op_table(
            instance,
            "decode",
            [(1, prompt_tokens, output_tokens // 2)] * batch_size,
            network,
            source,
        ),
    )
    notes = (
        f"Workload: {batch_size} x ({prompt_tokens} prompt + {output_tokens} output tokens).",
        *instance.accelerator.describe().notes,
    )
    return Report(
        title=f"{instance.name}: modelled cost", metrics=tuple(metrics), tables=tables, notes=notes
    )


def _metrics(
    instance: Instance,
    shape: tuple[int, int, int],
    network: Topology | None,
    source: str,
    suffix: str,
) -> list[Metric]:
    prompt, output, batch = shape
    spec = instance.model.spec
    prefill = instance_cost(instance, [(prompt, 0, 0)] * batch, network)
    steps = max(output - 1, 1)
    generated = np.arange(steps)
    table = StepTable.from_sequences(
        spec,
        np.ones(steps * batch, dtype=np.int64),
        np.full(steps * batch, prompt),
        np.repeat(generated, batch),
        np.repeat(generated, batch),
    )
    decode = step_costs(instance, table, network)

    def metric(
        name: str,
        value: float,
        unit: str,
        source: str = source,
        better: Literal["lower", "higher"] = "lower",
    ) -> Metric:
        return Metric(
            name=name + suffix,
            value=value,
            unit=unit,
            better=better,
            provenance="modelled",
            source=source,
        )

    latency = prefill.seconds + float(decode.seconds.sum()) * (output > 1)
    made = [
        metric("prefill_latency_s", prefill.seconds, "s"),
        metric("decode_latency_per_token_s", float(decode.seconds.mean()), "s/token"),
        metric("request_latency_s", latency, "s"),
    ]
    if latency > 0:
        made.append(
            metric("batch_throughput", batch * output / latency, "token/s", better="higher")
        )
    if prefill.joules is not None and decode.joules is not None:
        made.append(metric("prefill_energy_j", prefill.joules, "J"))
        made.append(
            metric("decode_energy_per_token_j", float(decode.joules.mean()) / batch, "J/token")
        )
    kv_bytes = spec.kv_bytes(prompt, output) + spec.state_bytes
    for name, value in (("weight_bytes", spec.weight_bytes), ("kv_bytes_per_sequence", kv_bytes)):
        made.append(metric(name, value, "B", f"shapes and formats of {spec.name}"))
    return made


def instance_cost(
    instance: Instance, sequences: Sequence[Any], network: Topology | None = None
) -> Any:
    """Cost of one step of the given sequences (see `contracts.steps`)."""
    step = StepShape.from_sequences(instance.model.spec, sequences)
    return graph_cost(instance, lower(instance.model.spec, step, instance.parallel), network)


def _op_table(
    instance: Instance, phase: str, sequences: Sequence[Any], network: Topology | None, source: str
) -> Table:
    """Where the time of one step goes: a row for each part that blocks share, repeats summed."""
    spec = instance.model.spec
    graph = lower(spec, StepShape.from_sequences(spec, sequences), instance.parallel)
    rows: dict[str, list[Any]] = {}
    costs = price_graph(instance, graph, network)
    for op, repeats, cost in zip(graph.nodes, graph.repeats, costs, strict=True):
        row = rows.setdefault(
            op.name or type(op).__name__, [type(op).__name__, 0, 0.0, 0.0, 0.0, {}]
        )
        row[1] += repeats
        for i, value in ((2, cost.seconds), (3, ops.flops(op)), (4, cost.bytes)):
            row[i] += value * repeats
        row[5][cost.bound_by] = row[5].get(cost.bound_by, 0.0) + cost.seconds * repeats
    total = sum(row[2] for row in rows.values())
    cells = [
        (
            name,
            kind,
            count,
            seconds,
            seconds / total if total else 0.0,
            work,
            moved,
            max(bounds, key=bounds.__getitem__),
        )
        for name, (kind, count, seconds, work, moved, bounds) in rows.items()
    ]
    cells.sort(key=lambda row: (-row[3], row[0]))
    columns = (
        Column(name="part"),
        Column(name="op"),
        Column(name="runs"),
        Column(name="time", unit="s", provenance="modelled"),
        Column(name="share", unit="fraction", provenance="modelled"),
        Column(name="work", unit="FLOP", provenance="modelled"),
        Column(name="moved", unit="B", provenance="modelled"),
        Column(name="bound by"),
    )
    return Table(
        name=f"{phase}_ops",
        title=f"Where one {phase} step spends its time",
        columns=columns,
        rows=tuple(cells),
        note=f"One step, ops one after the other; modelled by {source}.",
    )
