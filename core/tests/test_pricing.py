"""Fallbacks, plain parts, the network's share, graph views, the estimate report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from arrays import Array

from crosslayer.accelerators.params import RooflineParams
from crosslayer.accelerators.roofline import Roofline
from crosslayer.contracts import ops
from crosslayer.contracts.cost import Cost, CostTable, cost_table, sequential
from crosslayer.contracts.hardware import HardwareSpec
from crosslayer.contracts.lowering import lower
from crosslayer.contracts.model import Linear, ModelSpec
from crosslayer.contracts.network import Link, Topology
from crosslayer.contracts.ops import OpGraph
from crosslayer.contracts.plain_parts import in_plain_parts
from crosslayer.contracts.report import Report
from crosslayer.contracts.steps import StepShape, StepTable
from crosslayer.errors import InputError, UnsupportedOp
from crosslayer.estimate import estimate_report, instance_cost
from crosslayer.kinds import Instance, ModelArtifact, Stack
from crosslayer.pricing import WithFallback, with_fallback
from crosslayer.stepcost import (
    graph_cost,
    price,
    price_collective,
    price_graph,
    price_many,
    step_costs,
    without,
)

LLAMA = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
SPEC = ModelSpec.from_hf_config(LLAMA)
A100 = Roofline(RooflineParams(preset="a100-80g"))
TX2 = Roofline(RooflineParams(preset="jetson-tx2"))  # has no port
GEMM = ops.Gemm(m=8, k=64, n=64, name="up")
BINDING = ops.CircularConvolution(vectors=4, dim=64, name="bind")
ATTENTION = ops.Attention(
    sequences=2, queries=2, pairs=200, kv_tokens=200, kv_bytes=200 * 512, heads=8, kv_heads=2,
    head_dim=64, value_dim=64, name="attend",
)  # fmt: skip


class GemmOnly:
    """Takes Gemms, one second each."""

    def describe(self) -> HardwareSpec:
        return HardwareSpec(name="gemm only")

    def supports(self, op: Any) -> bool:
        return isinstance(op, ops.Gemm)

    def estimate(self, op: Any) -> Cost:
        if not self.supports(op):
            raise UnsupportedOp(f"it multiplies matrices, {type(op).__name__} is none")
        return Cost(1.0, 2.0, float(ops.flops(op)), float(ops.moved_bytes(op)), "compute")


class Nothing(GemmOnly):
    """Takes nothing."""

    def describe(self) -> HardwareSpec:
        return HardwareSpec(name="nothing")

    def supports(self, op: Any) -> bool:
        return False


class Metered(Array):
    """A picojoule a byte."""

    def estimate(self, op: Any) -> Cost:
        cost = super().estimate(op)
        return replace(cost, joules=cost.bytes * 1e-12)

    def estimate_many(self, table: ops.OpTable) -> CostTable:
        return cost_table([self.estimate(op) for op in table])


class Overlapping(Array):
    """Runs what does not depend on each other at the same time: a graph takes its critical path."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs: list[OpGraph] = []

    def supports(self, op: Any) -> bool:
        return not isinstance(op, ops.Collective)

    def _seconds(self, op: Any) -> tuple[Any, Any]:
        if isinstance(op, ops.Attention):
            return op.pairs * 1e-9, 0
        return super()._seconds(op)

    def estimate_graph(self, graph: OpGraph) -> Cost:
        self.graphs.append(graph)
        path = graph.critical_path([self.estimate(op).seconds for op in graph.nodes])
        return Cost(path, 0.0, graph.total(ops.flops), graph.total(ops.moved_bytes), "compute")


def instance(accelerator: Any = A100, model: ModelSpec = SPEC, **values: Any) -> Instance:
    return Instance("main", ModelArtifact(model), accelerator, **values)


# --- plain parts and fallbacks


def test_a_refused_op_is_priced_in_plain_parts() -> None:
    array = Array()
    parts = in_plain_parts(ATTENTION)
    assert [part.name for part in parts] == ["attend.scores", "attend.values"]
    cost = price(array, ATTENTION)
    assert cost == sequential([array.estimate(part) for part in parts])
    # 200 pairs x 8 heads x 128: the parts do the work of the op
    assert cost.flops == ops.flops(ATTENTION) == 2 * 200 * 8 * 128


def test_plain_parts_of_a_table_cost_what_they_cost_one_by_one() -> None:
    columns = {name: getattr(ATTENTION, name) for name in ("heads", "kv_heads", "head_dim")}
    keys = np.array([1.0, 37.0, 200.0])
    table = ops.OpTable(
        ops.Attention,
        columns | {
            "value_dim": 64, "sequences": 2.0, "queries": 2.0, "pairs": keys, "kv_tokens": keys,
            "kv_bytes": keys * 512,
        },
    )  # fmt: skip
    many = price_many(Array(), table)
    for i in range(3):
        assert many.seconds[i] == pytest.approx(price(Array(), table.row(i)).seconds, rel=1e-12)


def test_an_op_without_plain_parts_is_refused_with_the_accelerators_reason() -> None:
    with pytest.raises(UnsupportedOp, match="the test array has no CircularConvolution"):
        price(Array(), BINDING)
    with pytest.raises(UnsupportedOp, match="the test array has no CircularConvolution"):
        price_many(Array(), ops.OpTable(ops.CircularConvolution, {"vectors": 4.0, "dim": 64}))


def test_the_first_accelerator_keeps_what_it_takes() -> None:
    pair = WithFallback((GemmOnly(), A100))
    assert pair.estimate(GEMM) == GemmOnly().estimate(GEMM)
    assert pair.describe().name == "gemm only"


def test_a_fallback_prices_the_rest_and_is_named_in_the_detail() -> None:
    pair = WithFallback((GemmOnly(), A100))
    alone = A100.estimate(BINDING)
    cost = pair.estimate(BINDING)
    assert (cost.seconds, cost.flops, cost.bytes) == (alone.seconds, alone.flops, alone.bytes)
    assert cost.detail == (*alone.detail, ("fallback roofline:a100-80g_s", alone.seconds))


def test_plain_parts_come_before_the_fallback() -> None:
    cost = WithFallback((GemmOnly(), A100)).estimate(ATTENTION)
    assert cost.seconds == 2.0  # two Gemms of a second on the first, nothing on the A100
    assert not any(name.startswith("fallback") for name, _ in cost.detail)


def test_fallbacks_agree_in_columns() -> None:
    pair = WithFallback((GemmOnly(), A100))
    for kind, columns in (
        (ops.Gemm, {"m": np.array([1.0, 9.0]), "k": 64, "n": 64}),
        (ops.CircularConvolution, {"vectors": np.array([1.0, 9.0]), "dim": 64}),
    ):
        table = ops.OpTable(kind, columns)
        many = pair.estimate_many(table)
        for i in range(2):
            assert many.row(i) == replace(pair.estimate(table.row(i)), detail=())


def test_a_refusal_gives_every_accelerators_reason() -> None:
    pair = WithFallback((Nothing(), Array()))
    sentence = (
        r"no accelerator prices CircularConvolution 'bind' \(nothing: it multiplies matrices, "
        r"CircularConvolution is none; test array: the test array has no CircularConvolution\); "
        "add a fallback"
    )
    assert not pair.supports(BINDING)
    with pytest.raises(UnsupportedOp, match=sentence):
        pair.estimate(BINDING)
    with pytest.raises(UnsupportedOp, match="no accelerator prices CircularConvolution"):
        pair.estimate_many(ops.OpTable(ops.CircularConvolution, {"vectors": 4.0, "dim": 64}))


def test_one_accelerator_needs_no_wrapper_and_a_graph_view_ends_where_a_fallback_begins() -> None:
    overlapping = Overlapping()
    assert with_fallback((overlapping,)) is overlapping
    assert not hasattr(with_fallback((overlapping, A100)), "estimate_graph")


def test_joules_are_unknown_if_one_part_has_none() -> None:
    steps = StepTable.from_shapes([StepShape.from_sequences(SPEC, [(1, 40, 2)])])
    assert step_costs(instance(Array()), steps).joules is not None
    assert step_costs(instance(WithFallback((GemmOnly(), A100))), steps).joules is None


# --- the network's share


def test_several_devices_without_network_or_port_are_refused() -> None:
    step = StepShape.from_sequences(SPEC, [(1, 40, 2)])
    alone = instance(TX2, devices=2, tensor_parallel=2)
    with pytest.raises(InputError, match=r"'main' spans 2 devices but nothing says how they are"):
        Stack((alone,)).step_cost(alone, step)
    with pytest.raises(InputError, match=r"add a \[network\] table or an accelerator with ports"):
        instance_cost(alone, [(1, 40, 2)])


def test_collectives_go_to_the_topology_and_without_one_to_the_port() -> None:
    # Two devices, 9 tokens of 128 bf16 = 2304 B, two all-reduces in each of 3 blocks and one
    # all-gather of the 2 x 512 logits: a ring of two moves 1x and 0.5x in 2 and 1 steps.
    batch = [(8, 0, 0), (1, 40, 2)]
    step = StepShape.from_sequences(SPEC, batch)
    pair = instance(A100, devices=2, tensor_parallel=2)
    graph = lower(SPEC, step, pair.parallel)
    compute = sum(
        A100.estimate(op).seconds * n
        for op, n in zip(graph.nodes, graph.repeats, strict=True)
        if not isinstance(op, ops.Collective)
    )
    port = 6 * (2 * 0.6e-6 + 2304 / 300e9) + (0.6e-6 + 0.5 * 2048 / 300e9)
    assert Stack((pair,)).step_cost(pair, step).seconds == pytest.approx(compute + port, rel=1e-12)
    slow = Topology.ring(2, bytes_per_s=1e9, latency_s=5e-6)
    wire = 6 * (2 * 5e-6 + 2304 / 1e9) + (5e-6 + 0.5 * 2048 / 1e9)
    cost = Stack((pair,), network=slow).step_cost(pair, step)
    assert cost.seconds == pytest.approx(compute + wire, rel=1e-12)
    assert cost.bound_by == "network"
    assert graph_cost(pair, graph, slow).seconds == pytest.approx(compute + wire, rel=1e-12)


def test_only_the_ways_between_the_devices_that_take_part_count() -> None:
    ring = (("a", "b", 4e9, 1e-6), ("b", "c", 2e9, 1e-6), ("c", "d", 8e9, 3e-6),
            ("d", "hub", 1e3, 9e-6), ("hub", "a", 16e9, 9e-6))  # fmt: skip
    links = [Link(a=a, b=b, bytes_per_s=rate, latency_s=late) for a, b, rate, late in ring]
    network = Topology(nodes=("a", "b", "c", "d", "hub"), links=tuple(links))
    reduce = ops.Collective(payload_bytes=1e9, devices=2)

    def seconds(op: ops.Collective, **values: Any) -> float:
        return price_collective(instance(A100, **values), op, network).row(0).seconds

    pair = {"devices": 2, "tensor_parallel": 2}
    assert seconds(reduce, **pair) == pytest.approx(2e-6 + 1e9 / 4e9)
    assert seconds(reduce, place="c", **pair) == pytest.approx(2 * 3e-6 + 1e9 / 8e9)
    # two stages of two: rings a-b and c-d; a to c and b to d go over b-c
    four = {"devices": 4, "tensor_parallel": 2, "pipeline_parallel": 2}
    assert seconds(reduce, **four) == pytest.approx(2 * 3e-6 + 1e9 / 4e9)
    send = ops.Collective(payload_bytes=1e9, devices=2, kind="send")
    assert seconds(send, **four) == pytest.approx(1e-6 + 3e-6 + 1e9 / 2e9)
    # from d on there is no room for four: they are in one node, on the A100's port
    assert seconds(reduce, place="d", **four) == pytest.approx(2 * 0.6e-6 + 1e9 / 300e9)
    with pytest.raises(InputError, match="no node 'e'"):
        seconds(reduce, place="e", **pair)


def test_an_instance_without_an_accelerator_is_named() -> None:
    steps = StepTable.from_shapes([StepShape.from_sequences(SPEC, [(1, 40, 2)])])
    with pytest.raises(InputError, match=r"instance 'main' has no accelerator"):
        step_costs(instance(None), steps)


# --- accelerators that see the whole graph


def test_a_graph_view_prices_the_step_and_equal_steps_once() -> None:
    accelerator = Overlapping()
    one, two = (StepShape.from_sequences(SPEC, batch) for batch in ([(1, 40, 2)], [(9, 0, 0)]))
    costs = step_costs(instance(accelerator), StepTable.from_shapes([one, two, one, one]))
    assert len(accelerator.graphs) == 2
    assert costs.seconds[0] == costs.seconds[2] == costs.seconds[3] != costs.seconds[1]
    graph = lower(SPEC, one)
    nodes = [accelerator.estimate(op).seconds for op in graph.nodes]
    assert costs.seconds[0] == graph.critical_path(nodes)
    in_turn = sum(s * n for s, n in zip(nodes, graph.repeats, strict=True))
    assert costs.seconds[0] < in_turn  # q, k and v beside each other


def test_a_graph_view_never_sees_collectives_and_the_network_comes_on_top() -> None:
    accelerator = Overlapping()
    pair = instance(accelerator, devices=2, tensor_parallel=2)
    wire = Topology.ring(2, bytes_per_s=1e9, latency_s=5e-6)
    step = StepShape.from_sequences(SPEC, [(1, 40, 2)])
    cost = Stack((pair,), network=wire).step_cost(pair, step)
    (seen,) = accelerator.graphs
    assert not any(isinstance(op, ops.Collective) for op in seen.nodes)
    # one token: 6 all-reduces of 256 B, an all-gather of 512 logits of 2 B
    waits = 6 * (2 * 5e-6 + 256 / 1e9) + (5e-6 + 0.5 * 1024 / 1e9)
    assert cost.seconds == pytest.approx(
        accelerator.estimate_graph(seen).seconds + waits, rel=1e-12
    )


def test_order_survives_when_a_node_is_left_out() -> None:
    graph = OpGraph((GEMM, BINDING, GEMM), (1, 1, 1), ((0, 1), (1, 2)))
    assert without(graph, {1}).edges == ((0, 1),)
    assert without(graph, set()) is graph


# --- the estimate report


def _values(report: Report) -> dict[str, float]:
    return {metric.name: metric.value for metric in report.metrics}


def _seconds(spec: ModelSpec, batch: list[tuple[int, int, int]]) -> float:
    graph = lower(spec, StepShape.from_sequences(spec, batch))
    costs = price_graph(instance(A100, spec), graph)
    return sum(cost.seconds * n for cost, n in zip(costs, graph.repeats, strict=True))


def test_the_report_agrees_with_hand_arithmetic() -> None:
    main = instance(Metered())
    report = estimate_report(main, main.model, prompt_tokens=20, output_tokens=4, batch_size=2)
    prefill = instance_cost(main, [(20, 0, 0)] * 2)
    # the first token comes out of the prefill; tokens 2, 3, 4 have 0, 1, 2 generated before them
    decode = [instance_cost(main, [(1, 20, n)] * 2) for n in range(3)]
    seconds, joules = (sum(getattr(c, name) for c in decode) for name in ("seconds", "joules"))
    values = _values(report)
    assert values["prefill_latency_s"] == pytest.approx(prefill.seconds, rel=1e-12)
    assert values["decode_latency_per_token_s"] == pytest.approx(seconds / 3, rel=1e-12)
    assert values["request_latency_s"] == pytest.approx(prefill.seconds + seconds, rel=1e-12)
    # two requests of four tokens
    assert values["batch_throughput"] == pytest.approx(8 / (prefill.seconds + seconds))
    assert values["prefill_energy_j"] == pytest.approx(prefill.bytes * 1e-12, rel=1e-12)
    assert values["decode_energy_per_token_j"] == pytest.approx(joules / 6, rel=1e-12)
    # embedding and head 512 x 128 each; a block: q and o 128 x 128, k and v 128 x 32, three of
    # 128 x 352, two norms; a last norm; 2 B each
    block = 2 * 128 * 128 + 2 * 128 * 32 + 3 * 128 * 352 + 2 * 128
    assert values["weight_bytes"] == 2 * (2 * 512 * 128 + 3 * block + 128)
    # 24 tokens, 3 layers, K and V of 2 heads of 16, 2 B
    assert values["kv_bytes_per_sequence"] == 24 * 3 * 2 * 2 * 16 * 2
    assert not any(name.endswith("_original") for name in values)
    assert {metric.provenance for metric in report.metrics} == {"modelled"}
    of_the_spec = {
        m.name for m in report.metrics if m.source == f"shapes and formats of {SPEC.name}"
    }
    assert of_the_spec == {"weight_bytes", "kv_bytes_per_sequence"}
    assert all("test array" in m.source for m in report.metrics if m.name not in of_the_spec)


def test_an_untouched_model_and_an_accelerator_without_energy_leave_their_metrics_out() -> None:
    main = instance()
    values = _values(estimate_report(main, main.model, prompt_tokens=8, output_tokens=1))
    assert set(values) == {
        "prefill_latency_s", "decode_latency_per_token_s", "request_latency_s",
        "batch_throughput", "weight_bytes", "kv_bytes_per_sequence",
    }  # fmt: skip
    assert values["request_latency_s"] == values["prefill_latency_s"]  # one token: no decode step


def test_a_changed_model_stands_beside_the_original() -> None:
    def prune(block: object, part: Any) -> Any:
        return part.replace(sparsity="2:4") if isinstance(part, Linear) else part

    pruned = SPEC.map_parts(prune)
    main = instance(A100, pruned)
    report = estimate_report(main, ModelArtifact(SPEC), prompt_tokens=20, output_tokens=2)
    values = _values(report)
    assert values["prefill_latency_s"] == pytest.approx(_seconds(pruned, [(20, 0, 0)]), rel=1e-12)
    assert values["prefill_latency_s_original"] == pytest.approx(
        _seconds(SPEC, [(20, 0, 0)]), rel=1e-12
    )
    assert values["decode_latency_per_token_s_original"] == pytest.approx(
        _seconds(SPEC, [(1, 20, 0)]), rel=1e-12
    )
    assert values["weight_bytes"] < values["weight_bytes_original"] == SPEC.weight_bytes
    assert values["kv_bytes_per_sequence"] == values["kv_bytes_per_sequence_original"]


def test_the_op_tables_add_up_to_the_step() -> None:
    main = instance()
    report = estimate_report(main, main.model, prompt_tokens=20, output_tokens=9, batch_size=3)
    for table, batch in zip(
        report.tables, ([(20, 0, 0)] * 3, [(1, 20, 4)] * 3), strict=True
    ):  # the decode table is the step in the middle of the output
        names = [column.name for column in table.columns]
        rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in table.rows]
        assert sum(row["time"] for row in rows) == pytest.approx(_seconds(SPEC, batch), rel=1e-12)
        assert sum(row["share"] for row in rows) == pytest.approx(1.0, rel=1e-12)
        assert [row["time"] for row in rows] == sorted((row["time"] for row in rows), reverse=True)
        graph = lower(SPEC, StepShape.from_sequences(SPEC, batch))
        assert sum(row["work"] for row in rows) == graph.total(ops.flops)
