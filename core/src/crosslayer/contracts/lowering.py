"""A model and a step to ops: the contract that every modelled number goes through.

`fill` puts a step's numbers into a template (`contracts.templates`), giving an op for a `StepShape`
and a table of ops for a `StepTable`. `lower` is the graph of one step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosslayer.contracts import ops
from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.ops import OpGraph, OpTable
from crosslayer.contracts.steps import LOADS, StepShape, StepTable
from crosslayer.contracts.templates import ONE_DEVICE, Parallel, Template, templates

__all__ = ["Parallel", "StepShape", "StepTable", "expected_experts", "fill", "lower"]

FRACTIONS_OF_AN_EXPERT = (
    1024  # expected experts are rounded to these, so that sums of bytes stay exact
)


def expected_experts(experts: int, active: int, tokens: Any) -> Any:
    """Expected distinct experts that `tokens` tokens hit when each picks `active` of `experts`
    evenly.
    """
    hit = experts * (1 - (1 - active / experts) ** tokens)
    return np.round(hit * FRACTIONS_OF_AN_EXPERT) / FRACTIONS_OF_AN_EXPERT


def fill(template: Template, step: StepShape | StepTable) -> Any:
    """The op of one step, or the table of ops of many."""
    columns: dict[str, Any] = dict(template.constants) | {"name": template.name}
    if template.load is not None:
        c, p = template.load
        loads = step.loads[c][p]
        columns |= dict(zip(LOADS, loads, strict=True))
        columns["kv_bytes"] = columns["kv_bytes"] * template.kv_share
    elif template.driver == "scan":
        columns |= {"tokens": step.tokens, "sequences": step.sequences}
    else:
        rows = getattr(step, {"logits": "logits_rows"}.get(template.driver, template.driver))
        columns |= {name: rows * factor for name, factor in template.scale}
        if template.experts is not None:
            columns["groups"] = expected_experts(*template.experts, rows)
    if isinstance(step, StepTable):
        return OpTable(template.op, columns, rows=len(step))
    return template.op(**columns)


def lower(spec: ModelSpec, step: StepShape, parallel: Parallel = ONE_DEVICE) -> OpGraph:
    """The ops of one step on one device, with repeats and edges; equal blocks are one set of nodes.

    Ops without work in this step (decode attention of a pure prefill) are left out.
    """
    nodes: list[Any] = []
    repeats: list[int] = []
    edges: list[tuple[int, int]] = []
    ends: list[int] = []
    for block, count in templates(spec, parallel):
        # where each node of the block is in the graph, or, if it has no work, what came before it
        place: list[tuple[int, ...]] = []
        for node in block:
            before = sorted({i for a in node.after for i in place[a]}) if node.after else ends
            op = fill(node.template, step)
            if _idle(op):
                place.append(tuple(before))
                continue
            edges += [(i, len(nodes)) for i in before]
            place.append((len(nodes),))
            nodes.append(op)
            repeats.append(count)
        used = {i for node in block for a in node.after for i in place[a]}
        ends = sorted({i for where in place for i in where} - used) or list(ends)
    return OpGraph(tuple(nodes), tuple(repeats), tuple(dict.fromkeys(edges)))


def _idle(op: Any) -> bool:
    size = {
        ops.Gemm: "m",
        ops.Attention: "queries",
        ops.SelectiveScan: "tokens",
        ops.Conv2d: "positions",
        ops.Elementwise: "elements",
        ops.Collective: "payload_bytes",
    }[type(op)]
    return bool(getattr(op, size) == 0)
