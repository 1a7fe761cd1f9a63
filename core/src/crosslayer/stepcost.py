"""Cost of many steps at once: the hot path between lowering and an accelerator model.

Ops that follow the token count (or the rows at the LM head) alone are priced once for each
different count; attention is priced on columns. Ops run one after the other unless the accelerator
has `estimate_graph`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts import ops
from crosslayer.contracts.cost import BOUNDS, Cost, CostTable, cost_table, sequential
from crosslayer.contracts.lowering import fill, lower
from crosslayer.contracts.ops import OpGraph, OpTable
from crosslayer.contracts.plain_parts import in_plain_parts
from crosslayer.contracts.steps import StepTable
from crosslayer.contracts.templates import Template, unique_templates
from crosslayer.errors import InputError, UnsupportedOp

if TYPE_CHECKING:
    from crosslayer.contracts.network import Route, Topology
    from crosslayer.kinds import Instance


def step_costs(instance: Instance, steps: StepTable, network: Topology | None = None) -> CostTable:
    """Seconds, joules, FLOPs and bytes of each step on one device group of the instance.

    Errors: InputError if the instance has no accelerator, or several devices and no link to price.
    """
    accelerator = instance.accelerator
    if accelerator is None:
        raise InputError(
            f"instance {instance.name!r} has no accelerator; add an [accelerator] table"
        )
    if hasattr(accelerator, "estimate_graph"):
        return _graph_costs(instance, steps, network)
    total = _Sums(len(steps))
    grouped: dict[str, list[tuple[Template, int]]] = {}
    for template, repeats in unique_templates(instance.model.spec, instance.parallel):
        grouped.setdefault(template.driver, []).append((template, repeats))
    for driver, members in grouped.items():
        rows, back = _different_rows(steps, driver)
        part = _Sums(len(rows))
        for template, repeats in members:
            table = fill(template, rows)
            part.add(_price(accelerator, instance, table, network), repeats, _works(table))
        total.merge(part, back)
    return total.table()


def price_graph(instance: Instance, graph: OpGraph, network: Topology | None = None) -> list[Cost]:
    """Cost of one repeat of each node of a graph, collectives included."""
    accelerator = instance.accelerator
    assert accelerator is not None
    return [
        price_collective(instance, op, network).row(0)
        if isinstance(op, ops.Collective)
        else price(accelerator, op)
        for op in graph.nodes
    ]


def price(accelerator: Any, op: Any) -> Cost:
    """Cost of one op; an op the accelerator refuses is offered once in plain parts."""
    if accelerator.supports(op):
        cost: Cost = accelerator.estimate(op)
        return cost
    parts = in_plain_parts(op)
    if parts and all(accelerator.supports(part) for part in parts):
        return sequential(accelerator.estimate(part) for part in parts)
    return accelerator.estimate(op)  # type: ignore[no-any-return]  # raises UnsupportedOp with its reason


def price_many(accelerator: Any, table: OpTable) -> CostTable:
    """Costs of a table; whether the accelerator takes an op may depend on anything but the numbers
    of a step.
    """
    if not len(table):
        return cost_table([])
    first = table.row(0)
    if not accelerator.supports(first):
        parts = in_plain_parts(table)
        if parts and all(accelerator.supports(part.row(0)) for part in parts):
            return _add([price_many(accelerator, part) for part in parts])
        accelerator.estimate(first)
        raise UnsupportedOp(f"{table.op_type.__name__} {first.name!r} is not supported")
    if hasattr(accelerator, "estimate_many"):
        costs: CostTable = accelerator.estimate_many(table)
        return costs
    return cost_table([accelerator.estimate(op) for op in table])


def _add(tables: list[CostTable]) -> CostTable:
    sums = _Sums(len(tables[0]))
    for table in tables:
        sums.add(table, 1, None)
    return sums.table()


def _works(table: OpTable) -> NDArray[np.bool_] | None:
    """Which rows have anything to do; None: all of them."""
    size = {ops.Attention: "queries", ops.SelectiveScan: "tokens"}.get(
        table.op_type, table.op_type.numeric[0]
    )
    column = getattr(table, size)
    if not isinstance(column, np.ndarray):
        return None
    works = column > 0
    return None if works.all() else works


def _price(
    accelerator: Any, instance: Instance, table: OpTable, network: Topology | None
) -> CostTable:
    if table.op_type is ops.Collective:
        return price_collective(instance, table, network)
    return price_many(accelerator, table)


def price_collective(instance: Instance, op: Any, network: Topology | None) -> CostTable:
    """A collective on the slowest way between the instance's devices: the topology's, else the
    accelerator's port.
    """
    from crosslayer.contracts.network import collective_seconds

    ways = [] if network is None else _ways(instance, op.kind, network)
    if ways:
        rate = min(way.bytes_per_s or np.inf for way in ways)
        latency = max(way.latency_s for way in ways)
    else:
        assert instance.accelerator is not None
        ports = instance.accelerator.describe().ports
        if not ports:
            raise InputError(
                f"instance {instance.name!r} spans {instance.parallel.devices} devices but "
                "nothing says how they are "
                "linked; add a [network] table or an accelerator with ports"
            )
        rate, latency = ports[0].bytes_per_s, ports[0].latency_s
    payload = np.atleast_1d(np.asarray(op.payload_bytes, dtype=np.float64))
    seconds = np.asarray(
        collective_seconds(op.kind, payload, op.devices, rate, latency), dtype=np.float64
    )
    nothing = np.zeros_like(payload)
    bound = np.full(len(payload), BOUNDS.index("network"), dtype=np.int8)
    return CostTable(seconds, None, nothing, payload.copy(), bound)


def _ways(instance: Instance, kind: str, network: Topology) -> list[Route]:
    """Between the neighbours of each tensor-parallel ring, or from stage to stage; none if the
    topology does not show the devices one by one.
    """
    devices = network.devices(instance.place, instance.parallel.devices)
    ways = instance.tensor_parallel
    if kind == "send":
        pairs = list(zip(devices, devices[ways:], strict=False))
    else:
        rings = [devices[i : i + ways] for i in range(0, len(devices), ways)]
        pairs = [pair for ring in rings for pair in zip(ring, ring[1:] + ring[:1], strict=True)]
    return [network.route(a, b) for a, b in pairs]


def _different_rows(steps: StepTable, driver: str) -> tuple[StepTable, NDArray[np.intp] | None]:
    """Steps that differ in what `driver` looks at, and where each step finds its row (None: all as
    they are, as attention and fractional counts always are).
    """
    columns = {
        "attention": [],
        "tokens": [steps.tokens],
        "logits": [steps.logits_rows],
        "sequences": [steps.sequences],
        "scan": [steps.tokens, steps.sequences],
    }[driver]
    if not columns or any((column % 1).any() for column in columns):
        return steps, None
    key = columns[0]
    if len(columns) == 2:
        key = columns[0] * (columns[1].max(initial=0) + 1) + columns[1]
    picked, back = _first_of_each(key)
    rows = StepTable(
        steps.tokens[picked],
        steps.logits_rows[picked],
        steps.sequences[picked],
        steps.loads[..., picked],
    )
    return rows, back


def _first_of_each(key: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(position of one member of each different value, each member's place among them)."""
    top = key.max(initial=0)
    if top < 4_000_000:  # small counts: a look-up table beats sorting a million keys
        whole = key.astype(np.intp)
        position = np.full(int(top) + 1, -1, dtype=np.intp)
        position[whole] = np.arange(len(key))
        values = np.flatnonzero(position >= 0)
        picked = position[values]
        position[values] = np.arange(len(values))
        return picked, position[whole]
    _, picked, back = np.unique(key, return_index=True, return_inverse=True)
    return picked, back


class _Sums:
    """Running totals over ops, a row a step; remembers how long each bound held."""

    def __init__(self, rows: int) -> None:
        self.seconds = np.zeros(rows)
        self.joules: NDArray[np.float64] | None = np.zeros(rows)
        self.flops = np.zeros(rows)
        self.bytes = np.zeros(rows)
        self.bound_seconds = np.zeros((len(BOUNDS), rows))

    def add(self, costs: CostTable, repeats: int, works: NDArray[np.bool_] | None) -> None:
        """Adds `repeats` runs of an op; rows where it has no work stay as they are."""
        count: Any = repeats if works is None else np.where(works, float(repeats), 0.0)
        seconds = costs.seconds * count
        self.seconds += seconds
        self.flops += costs.flops * count
        self.bytes += costs.bytes * count
        if self.joules is not None:
            self.joules = None if costs.joules is None else self.joules + costs.joules * count
        present = np.bincount(costs.bound_by, minlength=len(BOUNDS))
        for bound in np.flatnonzero(present):
            if present[bound] == len(seconds):
                self.bound_seconds[bound] += seconds
            else:
                self.bound_seconds[bound] += np.where(costs.bound_by == bound, seconds, 0.0)

    def merge(self, part: _Sums, back: NDArray[np.intp] | None) -> None:
        """Adds another's rows, spread by `back`."""
        at: Any = slice(None) if back is None else back
        self.seconds += part.seconds[at]
        self.flops += part.flops[at]
        self.bytes += part.bytes[at]
        self.bound_seconds += part.bound_seconds[:, at]
        if self.joules is not None:
            self.joules = None if part.joules is None else self.joules + part.joules[at]

    def table(self) -> CostTable:
        return CostTable(
            self.seconds,
            self.joules,
            self.flops,
            self.bytes,
            self.bound_seconds.argmax(axis=0).astype(np.int8),
        )


def _graph_costs(instance: Instance, steps: StepTable, network: Topology | None) -> CostTable:
    """Step by step through the accelerator's own view of a whole graph; equal steps once."""
    flat = np.concatenate(
        [
            steps.tokens[None],
            steps.logits_rows[None],
            steps.sequences[None],
            steps.loads.reshape(-1, len(steps)),
        ]
    )
    _, picked, back = np.unique(flat, axis=1, return_index=True, return_inverse=True)
    costs = [
        graph_cost(
            instance, lower(instance.model.spec, steps.row(int(i)), instance.parallel), network
        )
        for i in picked
    ]
    table = cost_table(costs)
    back = back.ravel()
    joules = None if table.joules is None else table.joules[back]
    return CostTable(
        table.seconds[back], joules, table.flops[back], table.bytes[back], table.bound_by[back]
    )


def graph_cost(instance: Instance, graph: OpGraph, network: Topology | None = None) -> Cost:
    """Cost of a whole graph: the accelerator's `estimate_graph` if it has one, else nodes in order.

    Collectives go to the network, after the compute.
    """
    accelerator: Any = instance.accelerator
    if not hasattr(accelerator, "estimate_graph"):
        costs = price_graph(instance, graph, network)
        return sequential(cost.times(n) for cost, n in zip(costs, graph.repeats, strict=True))
    network_nodes = [i for i, op in enumerate(graph.nodes) if isinstance(op, ops.Collective)]
    waits = [
        price_collective(instance, graph.nodes[i], network).row(0).times(graph.repeats[i])
        for i in network_nodes
    ]
    return sequential([accelerator.estimate_graph(without(graph, set(network_nodes))), *waits])


def without(graph: OpGraph, dropped: set[int]) -> OpGraph:
    """The graph without some nodes; what came before a dropped one comes before its followers."""
    if not dropped:
        return graph
    before: dict[int, set[int]] = {i: set() for i in range(len(graph.nodes))}
    for a, b in graph.edges:
        before[b] |= before[a] if a in dropped else {a}
    kept = [i for i in range(len(graph.nodes)) if i not in dropped]
    place = {old: new for new, old in enumerate(kept)}
    edges = tuple((place[a], place[b]) for b in kept for a in sorted(before[b]))
    return OpGraph(
        tuple(graph.nodes[i] for i in kept), tuple(graph.repeats[i] for i in kept), edges
    )
