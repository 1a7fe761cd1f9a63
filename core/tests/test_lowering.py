"""Lowering against the per-sequence oracle: the proof that architecture section 3 asks for."""

from __future__ import annotations

import resource
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
import pytest
from arrays import Array
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.accelerators.params import RooflineParams
from crosslayer.accelerators.roofline import Roofline
from crosslayer.contracts import ops
from crosslayer.contracts.exact import exact_totals, lower_exact
from crosslayer.contracts.kv import KVCurve
from crosslayer.contracts.lowering import Parallel, expected_experts, lower
from crosslayer.contracts.model import Attention, Linear, ModelSpec
from crosslayer.contracts.model_builders import vision_mamba
from crosslayer.contracts.steps import StepShape, StepTable
from crosslayer.errors import InputError
from crosslayer.kinds import Instance, ModelArtifact
from crosslayer.stepcost import price, price_graph, step_costs

LLAMA = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
GEMMA = {
    "model_type": "gemma2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "sliding_window": 24,
}
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
MAMBA2 = {
    "model_type": "mamba2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "state_size": 16,
    "head_dim": 16,
    "num_heads": 8,
    "expand": 2,
    "n_groups": 1,
    "vocab_size": 256,
}


def evicting() -> ModelSpec:
    curve = KVCurve(
        prompt=((0, 0, 0), (64, 64, 7000), (256, 100, 9000)),
        generated=((0, 0, 0), (128, 37, 2100.5)),
        cap_tokens=150,
        policy="test",
    )

    def every_second(block: object, part: object) -> object:
        evicts = isinstance(part, Attention) and int(block.name.split(".")[-1]) % 2 == 1  # type: ignore[attr-defined]
        return part.replace(kv_curve=curve) if evicts else part  # type: ignore[attr-defined]

    return ModelSpec.from_hf_config(LLAMA).map_parts(every_second)


def pruned() -> ModelSpec:
    patterns = ["4:8", "2:4", None, "8:16", "1:4"]

    def change(block: object, part: object) -> object:
        if not isinstance(part, Linear) or part.rows == "logits":
            return part
        layer = int(block.name.split(".")[-1])  # type: ignore[attr-defined]
        formats = {"weight_format": "nvfp4"} if layer == 2 else {}
        return part.replace(sparsity=patterns[layer % len(patterns)], **formats)

    return ModelSpec.from_hf_config(LLAMA | {"num_hidden_layers": 5}).map_parts(change)


SPECS = {
    "llama": lambda: ModelSpec.from_hf_config(LLAMA),
    "gemma2": lambda: ModelSpec.from_hf_config(GEMMA),
    "mixtral": lambda: ModelSpec.from_hf_config(MIXTRAL),
    "mamba2": lambda: ModelSpec.from_hf_config(MAMBA2),
    "vision-mamba": lambda: vision_mamba(
        hidden=64, layers=3, state=8, image=32, patch=8, classes=10
    ),
    "evicting": evicting,
    "pruned": pruned,
}

# Tolerances on a whole step's seconds. A roofline loses a little where a batch mixes sequences on
# both sides of the ridge (largest seen: 4.7 %, Mixtral's 64-wide toy); an array rounds tiles up
# once a batch, not once a sequence (1.7 %).
ACCELERATORS = {
    "roofline": (Roofline(RooflineParams(preset="a100-80g", launch_overhead_s=0.0)), 0.05),
    "array": (Array(16, 16), 0.03),
    "resident array": (Array(8, 8, resident=True), 0.03),
}


def random_step(rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """1 to 8 sequences: whole prompts, chunks of prompts, decodes, decodes of several tokens; some
    long. At times one that feeds nothing stands among them.
    """
    batch = []
    for _ in range(int(rng.integers(1, 9))):
        kind = rng.integers(5)
        cached = int(rng.integers(1, 120 if rng.random() < 0.8 else 6000))
        if kind == 0:
            batch.append((int(rng.integers(1, 60)), 0, 0))
        elif kind == 1:
            batch.append((int(rng.integers(1, 40)), cached, 0))
        elif kind == 2:
            batch.append((1, cached, int(rng.integers(0, 200))))
        elif kind == 3:
            batch.append((int(rng.integers(1, 5)), cached, int(rng.integers(1, 200))))
        else:
            batch.append((int(rng.integers(1, 2000)), cached if rng.random() < 0.5 else 0, 0))
    # Drawn from the batch itself: what feeds something is the same with it as without it.
    fed = sum(new for new, _, _ in batch)
    if fed % 3 == 0:
        batch.insert(fed % (len(batch) + 1), (0, fed % 120 + 1, fed % 2 * 7))
    return batch


@pytest.mark.parametrize("architecture", SPECS)
def test_flops_and_bytes_equal_the_oracle_exactly_on_200_mixed_steps(architecture: str) -> None:
    spec = SPECS[architecture]()
    rng = np.random.default_rng(7)
    for i in range(200):
        batch = random_step(rng)
        logits = ("last", "all", "none")[i % 3]
        graph = lower(spec, StepShape.from_sequences(spec, batch, logits))
        exact = exact_totals(lower_exact(spec, batch, logits))
        assert (graph.total(ops.flops), graph.total(ops.moved_bytes)) == exact, (batch, logits)


EXTENTS = {
    ops.Gemm: ("m",),
    ops.Elementwise: ("elements",),
    ops.Conv2d: ("positions", "inputs"),
    ops.SelectiveScan: ("tokens", "sequences"),
}


@lru_cache(maxsize=2)
def mixed_steps(architecture: str) -> tuple[StepTable, list[tuple[ops.OpGraph, ...]]]:
    """200 mixed steps in columns, and the oracle's ops of each; the accelerators share them."""
    spec, rng = SPECS[architecture](), np.random.default_rng(11)
    batches = [random_step(rng) for _ in range(200)]
    shapes = [StepShape.from_sequences(spec, batch) for batch in batches]
    return StepTable.from_shapes(shapes), [lower_exact(spec, batch) for batch in batches]


def exact_seconds(accelerator: object, graphs: tuple[ops.OpGraph, ...]) -> float:
    """Of the oracle's ops: attention of each sequence alone, the others once for the batch, their
    extents added up over its sequences.
    """

    @cache
    def priced(op: object) -> float:  # equal blocks have equal ops
        return price(accelerator, op).seconds

    seconds = 0.0
    for nodes in zip(*(graph.nodes for graph in graphs), strict=True):
        if isinstance(nodes[0], ops.Attention):
            seconds += sum(map(priced, nodes))
            continue
        extents = {name: sum(getattr(op, name) for op in nodes) for name in EXTENTS[type(nodes[0])]}
        if any(extents.values()):
            seconds += priced(replace(nodes[0], **extents))
    return seconds


@pytest.mark.parametrize("target", ACCELERATORS)
@pytest.mark.parametrize("architecture", SPECS)
def test_seconds_of_a_mixed_step_stay_within_the_stated_tolerance(
    architecture: str, target: str
) -> None:
    accelerator, tolerance = ACCELERATORS[target]
    spec = SPECS[architecture]()
    instance = Instance("i", ModelArtifact(spec), accelerator)
    table, steps = mixed_steps(architecture)
    modelled = step_costs(instance, table).seconds
    exact = np.array([exact_seconds(accelerator, graphs) for graphs in steps])
    error = np.abs(modelled - exact) / exact
    assert error.max() <= tolerance, f"largest {error.max():.3f}, mean {error.mean():.3f}"


@pytest.mark.parametrize("target", ACCELERATORS)
@pytest.mark.parametrize("architecture", SPECS)
def test_columns_agree_with_pricing_each_graph_node_by_node(architecture: str, target: str) -> None:
    accelerator, _ = ACCELERATORS[target]
    spec = SPECS[architecture]()
    instance = Instance("i", ModelArtifact(spec), accelerator)
    rng = np.random.default_rng(3)
    shapes = [StepShape.from_sequences(spec, random_step(rng)) for _ in range(30)]
    costs = step_costs(instance, StepTable.from_shapes(shapes))
    for i, shape in enumerate(shapes):
        graph = lower(spec, shape)
        seconds = sum(
            c.seconds * n for c, n in zip(price_graph(instance, graph), graph.repeats, strict=True)
        )
        assert costs.seconds[i] == pytest.approx(seconds, rel=1e-12)
        assert costs.flops[i] == graph.total(ops.flops)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 9) | st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_a_steps_cost_does_not_depend_on_the_steps_beside_it(
    tokens: list[float], data: st.DataObject
) -> None:
    spec = SPECS[data.draw(st.sampled_from(["mixtral", "mamba2", "vision-mamba"]))]()
    sequences = data.draw(st.lists(st.floats(0, 3), min_size=len(tokens), max_size=len(tokens)))
    load = np.zeros((len(spec.attention_classes), 2, 5, len(tokens)))
    columns = (np.array(tokens, dtype=float), np.array(sequences), np.array(sequences[::-1]), load)
    instance = Instance("i", ModelArtifact(spec), Array(16, 16))
    many = step_costs(instance, StepTable(*columns))
    for i in range(len(tokens)):
        alone = step_costs(instance, StepTable(*(column[..., i : i + 1] for column in columns)))
        assert many.row(i) == alone.row(0)


@pytest.mark.parametrize("architecture", SPECS)
def test_no_steps_cost_nothing(architecture: str) -> None:
    spec = SPECS[architecture]()
    instance = Instance("i", ModelArtifact(spec), ACCELERATORS["array"][0])
    assert len(step_costs(instance, StepTable.from_sequences(spec, [], [], []))) == 0


def test_a_step_without_work_in_a_phase_leaves_the_phase_out() -> None:
    spec = ModelSpec.from_hf_config(LLAMA)
    graph = lower(spec, StepShape.from_sequences(spec, [(9, 0, 0)]))
    assert [op.phase for op in graph.nodes if isinstance(op, ops.Attention)] == ["prefill"]
    assert all(start < end for start, end in graph.edges)


def test_equal_blocks_are_one_set_of_nodes_that_repeats() -> None:
    spec = ModelSpec.from_hf_config(GEMMA)
    graph = lower(spec, StepShape.from_sequences(spec, [(1, 40, 2)]))
    attention = [
        (op.pairs, n)
        for op, n in zip(graph.nodes, graph.repeats, strict=True)
        if isinstance(op, ops.Attention)
    ]
    assert attention == [(24, 2), (43, 2)]  # a window of 24, and 40 + 2 cached + 1 new


def test_q_k_and_v_run_beside_each_other() -> None:
    spec = ModelSpec.from_hf_config(LLAMA)
    graph = lower(spec, StepShape.from_sequences(spec, [(4, 0, 0)]))
    seconds = [1.0] * len(graph.nodes)
    assert graph.critical_path(seconds) < sum(graph.repeats)
    by_name = {op.name: i for i, op in enumerate(graph.nodes)}
    q, k = by_name["q"], by_name["k"]
    assert (min(q, k), max(q, k)) not in graph.edges


def test_a_decode_of_many_steps_from_columns_equals_its_steps_one_by_one() -> None:
    spec = evicting()
    new, cached = np.ones(300, dtype=int), np.full(300, 77)
    table = StepTable.from_sequences(spec, new, cached, np.arange(300))
    for i in (0, 1, 150, 299):
        assert table.row(i) == StepShape.from_sequences(spec, [(1, 77, i)])


def test_tensor_parallel_devices_share_flops_and_talk_once_after_each_row_parallel_product() -> (
    None
):
    spec = ModelSpec.from_hf_config(LLAMA)
    shape = StepShape.from_sequences(spec, [(6, 0, 0), (1, 30, 4)])
    one, two = lower(spec, shape), lower(spec, shape, Parallel(tensor=2))
    kinds = (ops.Gemm, ops.Attention)
    whole = sum(
        ops.flops(op) * n
        for op, n in zip(one.nodes, one.repeats, strict=True)
        if isinstance(op, kinds)
    )
    half = sum(
        ops.flops(op) * n
        for op, n in zip(two.nodes, two.repeats, strict=True)
        if isinstance(op, kinds)
    )
    assert half * 2 == whole
    collectives = [
        (op, n)
        for op, n in zip(two.nodes, two.repeats, strict=True)
        if isinstance(op, ops.Collective)
    ]
    reduced = [(op.payload_bytes, n) for op, n in collectives if op.kind == "all_reduce"]
    assert reduced == [
        (7 * 128 * 2, 3),
        (7 * 128 * 2, 3),
    ]  # after o_proj and down_proj: 7 tokens of 128 bf16
    assert [op.kind for op, _ in collectives if op.kind != "all_reduce"] == ["all_gather"]


def test_pipeline_stages_send_the_residual_stream_between_them() -> None:
    spec = ModelSpec.from_hf_config(LLAMA)
    graph = lower(spec, StepShape.from_sequences(spec, [(6, 0, 0)]), Parallel(pipeline=3))
    sends = [
        (op.payload_bytes, n)
        for op, n in zip(graph.nodes, graph.repeats, strict=True)
        if isinstance(op, ops.Collective)
    ]
    assert sends == [(6 * 128 * 2, 2)]


def test_heads_that_do_not_divide_over_the_devices_are_named() -> None:
    spec = ModelSpec.from_hf_config(LLAMA)
    with pytest.raises(InputError, match="tensor_parallel = 3"):
        lower(spec, StepShape.from_sequences(spec, [(6, 0, 0)]), Parallel(tensor=3))


def test_expected_experts_of_one_token_are_the_active_ones_and_of_many_all() -> None:
    assert expected_experts(8, 2, 1) == 2
    assert expected_experts(8, 2, 0) == 0
    assert expected_experts(8, 2, 10_000) == 8
    drawn = np.random.default_rng(0).random((20_000, 5, 8)).argsort(axis=2)[:, :, :2]
    distinct = np.mean([len(np.unique(batch)) for batch in drawn])
    assert expected_experts(8, 2, 5) == pytest.approx(distinct, abs=0.02)


def test_negative_counts_are_refused() -> None:
    spec = ModelSpec.from_hf_config(LLAMA)
    with pytest.raises(ValueError, match="negative"):
        StepTable.from_sequences(spec, [1], [-1], [0])


@pytest.mark.parametrize("target", ACCELERATORS)
def test_a_million_steps_are_priced_in_under_a_second_of_cpu_time(target: str) -> None:
    """The only bound on time in the tests: the contract names it. Best of three, CPU time of this
    process.
    """
    accelerator, _ = ACCELERATORS[target]
    spec = ModelSpec.from_hf_config(LLAMA | {"num_hidden_layers": 32})
    rng = np.random.default_rng(5)
    count = 1_000_000
    prefill = np.where(rng.random(count) < 0.2, rng.integers(1, 2048, count), 0)
    table = StepTable.from_sequences(
        spec,
        np.concatenate([np.ones(count, dtype=np.int64), prefill]),
        np.concatenate([rng.integers(1, 4096, count), np.zeros(count, dtype=np.int64)]),
        np.concatenate([rng.integers(0, 512, count), np.zeros(count, dtype=np.int64)]),
        np.tile(np.arange(count), 2),
    )
    instance = Instance("i", ModelArtifact(spec), accelerator)
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF)
        costs = step_costs(instance, table)
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert len(costs) == count and (costs.seconds > 0).all()
    assert min(seconds) < 1.0, seconds
