"""The component on a small stack: reports, roles, stages, tiers, policies."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
from conftest import (
    TINY,
    outcome_of,
    poisson_trace,
    prefix_trace,
    tiny_instance,
    tiny_stack,
    trace_of,
)
from pydantic import ValidationError

from crosslayer.contracts.calls import LLMCall, Request, Stage, single
from crosslayer.contracts.network import Link, Topology
from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import DependencyError, InputError
from crosslayer.kinds import Stack
from crosslayer.serve import OneCall
from hermes_sim.batching import SCHEDULERS
from hermes_sim.build import build
from hermes_sim.params import HermesParams
from hermes_sim.simulator import Hermes


def adds_up(outcome):
    parts = sum(outcome.breakdown.values())
    np.testing.assert_array_equal(parts, outcome.last_ns - outcome.arrival_ns)


def test_a_report_holds_latencies_files_and_a_trace_that_chrome_reads(context):
    params = HermesParams.model_validate(
        {"slo": {"default": {"ttft_s": 10.0}}, "dollars_per_device_hour": 2.0}
    )
    report = Hermes(params).simulate(tiny_stack(), poisson_trace(30, 50), context)
    assert report.metric("slo_attainment").value == 1.0
    assert report.metric("ttft_p99_s").value >= report.metric("ttft_p50_s").value > 0
    assert report.metric("output_tokens_per_dollar").value > 0
    with (context.output / "requests.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 30 and float(rows[0]["ttft_s"]) > 0
    for row in rows:
        parts = sum(float(value) for name, value in row.items() if name.startswith("part_"))
        assert parts == pytest.approx(float(row["e2e_s"]), abs=1e-12)
    events = json.loads((context.output / "trace.json").read_text())["traceEvents"]
    assert {"X", "M"} == {event["ph"] for event in events}
    shares = [row[4] for row in report.table("breakdown").rows]
    assert sum(shares) == pytest.approx(1.0, abs=1e-12)


def test_the_file_of_requests_is_the_same_as_parquet(context):
    for kind in ("csv", "parquet"):
        params = HermesParams.model_validate({"requests_file": kind, "chrome_trace": False})
        Hermes(params).simulate(tiny_stack(), poisson_trace(20, 50), context)
    text = pandas.read_csv(context.output / "requests.csv", dtype={"request": str})
    packed = pandas.read_parquet(context.output / "requests.parquet")
    pandas.testing.assert_frame_equal(text, packed)


def test_without_pyarrow_a_file_in_parquet_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr("hermes_sim.simulator.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"needs pandas.*or write 'csv'"):
        Hermes(HermesParams(requests_file="parquet"))


def test_run_ahead_and_single_iterations_agree_on_an_accelerator():
    trace = poisson_trace(40, 400)
    one, _ = outcome_of(tiny_stack(), trace)
    two, _ = outcome_of(tiny_stack(), trace, run_ahead=False)
    np.testing.assert_array_equal(one.last_ns, two.last_ns)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_prefill_clients_hand_over_and_nothing_is_lost(scheduler):
    stack = tiny_stack(
        tiny_instance("p", role="prefill"), tiny_instance("d1", role="decode"),
        tiny_instance("d2", role="decode"),
    )  # fmt: skip
    trace = poisson_trace(40, 400)
    rate = {"hand_off_bytes_per_s": 1e6, "scheduler": scheduler}
    outcome, cluster = outcome_of(stack, trace, **rate)
    assert outcome.finished.all()
    adds_up(outcome)
    assert outcome.breakdown["KV hand-off"][trace.output_tokens > 1].min() > 0
    assert cluster.hand_off.count == int((trace.output_tokens > 1).sum())
    assert all(client.blocks.free == client.blocks.total for client in cluster.clients)
    layered, _ = outcome_of(stack, trace, hand_off="layerwise", **rate)
    assert layered.breakdown["KV hand-off"].sum() < outcome.breakdown["KV hand-off"].sum()


def test_a_hand_off_takes_the_ways_of_the_network_and_shares_them():
    network = Topology(
        nodes=("a", "b"), links=(Link(a="a", b="b", bytes_per_s=1e6, latency_s=0.5),)
    )
    stack = Stack(
        (
            tiny_instance("p", role="prefill", place="a"),
            tiny_instance("d", role="decode", place="b"),
        ),
        network=network,
    )  # fmt: skip
    one, cluster = outcome_of(stack, trace_of([0.0], [100], [5]))
    size = cluster.clients[0].site.kv_bytes(100)
    alone = one.breakdown["KV hand-off"][0]
    assert alone == pytest.approx((0.5 + size / 1e6) * 1e9, rel=1e-6)
    two, _ = outcome_of(stack, trace_of([0.0, 0.0], [100, 100], [5, 5]))
    both = two.breakdown["KV hand-off"]
    assert both.max() == pytest.approx((0.5 + 2 * size / 1e6) * 1e9, rel=1e-2)


def test_local_hand_off_pairs_clients():
    names = [("p0", "prefill"), ("p1", "prefill"), ("d0", "decode"), ("d1", "decode")]
    stack = tiny_stack(*(tiny_instance(name, role=role) for name, role in names))
    hermes = Hermes(HermesParams(hand_off_scope="local", router="round_robin"))
    cluster, _, _ = build(stack, hermes.params, 0)
    hermes.run(stack, poisson_trace(30, 400), cluster)
    columns = cluster.ledger.columns()
    moved = columns["output_tokens"] > 1
    assert (columns["decode_client"] - columns["client"])[moved].tolist() == [2] * int(moved.sum())


STAGES = {
    "embed": {"seconds": 0.01},
    "search": {"servers": 2, "vectors": 10**6, "adds_tokens": 64},
    "guard": {"seconds": 0.005, "token_s": 1e-6},
}


def test_stages_before_and_after_the_call_add_up_and_queue():
    trace = trace_of([0.0] * 6, [100] * 6, [4] * 6)
    outcome, _ = outcome_of(
        tiny_stack(), trace, before=["embed", "search"], after=["guard"], stages=STAGES
    )
    adds_up(outcome)
    assert outcome.finished.all()
    assert (outcome.prompt_tokens == 164).all()
    waits = np.sort(outcome.breakdown["embed queue"]) / 1e7
    np.testing.assert_allclose(waits, range(6))  # one server, 10 ms each
    ttft = outcome.latencies()["ttft"]
    assert (ttft > 0.01).all() and (outcome.after_ns > 0).all()


def test_a_graph_of_dependent_calls_runs_in_its_order():
    request = Request(
        id="agent", arrival_ns=1000,
        nodes=(
            LLMCall(id="plan", prompt_tokens=50, output_tokens=5),
            Stage(id="tool", kind="tool", seconds=0.25),
            LLMCall(id="look", prompt_tokens=80, output_tokens=3),
            LLMCall(id="answer", prompt_tokens=90, output_tokens=7),
        ),
        edges=(("plan", "tool"), ("plan", "look"), ("tool", "answer"), ("look", "answer")),
    )  # fmt: skip
    outcome, _ = outcome_of(tiny_stack(), RequestTrace.from_requests([request]))
    adds_up(outcome)
    assert outcome.breakdown["tool"][0] == 250_000_000
    assert outcome.output_tokens[0] == 7
    assert outcome.first_ns[0] > 250_001_000


def test_a_stage_that_nobody_serves_is_refused_before_anything_runs():
    request = Request(id="r", arrival_ns=0, nodes=(Stage(id="s", kind="search"),))
    with pytest.raises(InputError, match=r"simulate\.stages\.search"):
        outcome_of(tiny_stack(), RequestTrace.from_requests([request]))
    with pytest.raises(ValidationError, match="not described"):
        HermesParams(before=("nowhere",))


def test_a_stage_can_be_the_prefill_of_another_model():
    small = TINY | {"num_hidden_layers": 1}
    stack = tiny_stack(tiny_instance("llm"), tiny_instance("embedder", config=small))
    with pytest.raises(InputError, match="names no model"):
        outcome_of(
            stack, trace_of([0.0], [64], [4]),
            before=["embed"], stages={"embed": {"client": "embedder", "client_tokens": 32}},
        )  # fmt: skip
    request = Request(
        id="r", arrival_ns=0, nodes=(LLMCall(model="llm", prompt_tokens=64, output_tokens=4),)
    )
    outcome, cluster = outcome_of(
        stack, RequestTrace.from_requests([request]),
        before=["embed"], stages={"embed": {"client": "embedder", "client_tokens": 32}},
    )  # fmt: skip
    adds_up(outcome)
    assert outcome.breakdown["embed: prefill"][0] > 0
    assert [client.iterations for client in cluster.clients] == [4, 1]


def test_reasoning_chains_share_their_prompt_and_multiply_the_tokens():
    trace = trace_of([0.0], [64], [10])
    single_path, _ = outcome_of(tiny_stack(), trace, reasoning_scale=3.0)
    assert single_path.output_tokens[0] == 30
    many, cluster = outcome_of(tiny_stack(), trace, reasoning_paths=4)
    adds_up(many)
    columns = cluster.ledger.columns()
    assert len(columns["row"]) == 4
    assert sorted(columns["cached_tokens"].tolist()) == [0, 48, 48, 48]


def test_a_majority_of_chains_ends_a_call_and_cancels_the_others():
    stack = tiny_stack(tiny_instance("a"), tiny_instance("b"))
    outcome, cluster = outcome_of(
        stack, trace_of([0.0], [64], [20]), reasoning_paths=3, reasoning_end="majority",
        router="round_robin", max_calls=1,
    )  # fmt: skip
    assert outcome.finished.all()
    assert sorted(cluster.ledger.columns()["status"].tolist()) == [0, 0, 2]
    assert all(client.blocks.free == client.blocks.total for client in cluster.clients)
    assert not any(client.running or client.waiting for client in cluster.clients)


def test_a_tier_serves_what_the_clients_own_cache_lost():
    tier = {"name": "host", "gigabytes": 10.0, "bytes_per_s": 1e9}
    stack = tiny_stack(tiny_instance("a", kv_blocks=200))
    trace = prefix_trace(4, 5)
    outcome, cluster = outcome_of(
        stack, trace, prefix_caching=False, tiers=[tier], tier_policy="always"
    )
    adds_up(outcome)
    size = cluster.clients[0].site.kv_bytes(5 * 512)
    assert outcome.breakdown["KV fetch"].tolist()[0] == 0
    assert outcome.breakdown["KV fetch"][1] == pytest.approx(size / 1e9 * 1e9, rel=1e-6)
    assert outcome.cached_tokens.tolist() == [0, 2559, 2559, 2559]
    slow = tier | {"bytes_per_s": 1e3}
    again, cluster = outcome_of(stack, trace, prefix_caching=False, tiers=[slow])
    assert again.cached_tokens.sum() == 0 and cluster.tiers.recomputed_tokens > 0


def test_a_small_tier_lets_the_least_recently_used_fall_to_the_next():
    stack = tiny_stack(tiny_instance("a", kv_blocks=200))
    _, cluster = outcome_of(
        stack, prefix_trace(3, 5), prefix_caching=False, tier_policy="always",
        tiers=[
            {"name": "host", "gigabytes": 2.1 * 512 * 256 / 1e9, "bytes_per_s": 1e9},
            {"name": "rack", "gigabytes": 10.0, "bytes_per_s": 1e9},
        ],
    )  # fmt: skip
    assert 0 < cluster.tiers.fetched_tokens["host"] < cluster.tiers.fetched_tokens["rack"]


def test_calls_that_are_open_at_the_end_are_censored_and_counted(context):
    trace = poisson_trace(200, 1e5, output=200)
    report = Hermes(HermesParams(until_s=0.003)).simulate(tiny_stack(), trace, context)
    ended = len(report.table("requests").rows)
    assert report.metric("censored_requests").value == 200 - ended > 0


def test_the_warm_up_counts_in_no_latency(context):
    trace = poisson_trace(60, 100)
    report = Hermes(HermesParams(skip_s=0.3)).simulate(tiny_stack(), trace, context)
    kept = int((trace.arrival_ns >= 300_000_000).sum())
    assert report.metric("ttft_mean_s").samples == kept < 60


def test_what_cannot_work_is_refused_in_one_sentence(context):
    trace = trace_of([0.0], [10], [-1])
    with pytest.raises(InputError, match="no output_tokens"):
        Hermes().simulate(tiny_stack(), trace, context)
    with pytest.raises(InputError, match="role 'prefill'"):
        build(tiny_stack(tiny_instance("d", role="decode")), HermesParams(), 0)
    with pytest.raises(InputError, match="needs requests"):
        Hermes().simulate(tiny_stack(), None, context)
    big = TINY | {"hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 120}
    with pytest.raises(InputError, match=r"GB of\s+weights"):
        build(tiny_stack(tiny_instance("big", config=big)), HermesParams(), 0)


def test_a_session_stays_with_its_client_and_lengths_can_split():
    stack = tiny_stack(*(tiny_instance(name) for name in "abcd"))
    requests = [
        single(str(i), i * 10**6, 100 if i % 2 else 3000, 4).model_copy(
            update={"session": f"s{i % 5}"}
        )
        for i in range(40)
    ]
    trace = RequestTrace.from_requests(requests)
    _, cluster = outcome_of(stack, trace, router="session_affinity")
    columns = cluster.ledger.columns()
    for session in range(5):
        assert len(set(columns["client"][session::5].tolist())) == 1
    _, cluster = outcome_of(stack, trace, router="length_split", split_tokens=1000)
    columns = cluster.ledger.columns()
    assert (columns["client"][columns["prompt_tokens"] > 1000] >= 2).all()
    assert (columns["client"][columns["prompt_tokens"] < 1000] < 2).all()


def test_the_prefix_aware_router_finds_the_client_that_has_the_prompt():
    stack = tiny_stack(tiny_instance("a"), tiny_instance("b"))
    outcome, cluster = outcome_of(stack, prefix_trace(6, 2), router="prefix_aware")
    assert len(set(cluster.ledger.columns()["client"].tolist())) == 1
    assert (outcome.cached_tokens[1:] > 900).all()


@pytest.mark.parametrize(("at_once", "left"), [(256, 20), (1, 0)])
def test_a_majority_counts_what_the_cancelled_chain_has_made(at_once, left):
    stack = tiny_stack(tiny_instance("a"), tiny_instance("b"))
    outcome, cluster = outcome_of(
        stack, trace_of([0.0], [64], [20]), reasoning_paths=3, reasoning_end="majority",
        router="round_robin", max_calls=at_once,
    )  # fmt: skip
    # The third chain is a step's equal of the first on their client, or it waits for that.
    columns = cluster.ledger.columns()
    assert columns["output_tokens"][columns["status"] == 2].tolist() == [left]
    assert outcome.made_tokens[0] == 40 + left and outcome.output_tokens[0] == 20
    assert outcome.calls[0] == 3


def test_the_urgent_class_is_served_first_and_the_other_one_loses_its_blocks(context):
    requests = [
        single(str(i), 0, 64, 40).model_copy(update={"slo_class": "batch" if i < 6 else "chat"})
        for i in range(12)
    ]
    trace = RequestTrace.from_requests(requests)
    slo = {"chat": {"priority": -1}, "batch": {}}
    stack = tiny_stack(tiny_instance("tiny", kv_blocks=22))
    both = []
    for chosen in (stack, replace(stack, policy=OneCall())):
        hermes = Hermes(HermesParams.model_validate({"queue": "priority", "slo": slo}))
        hermes.simulate(chosen, trace, context)
        with (context.output / "requests.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        both.append([{k: v for k, v in row.items() if not k.startswith("part_")} for row in rows])
    assert both[0] == both[1]
    ends = [float(row["e2e_s"]) for row in both[0]]
    assert max(ends[6:]) < min(ends[:6])
    tight, _ = outcome_of(
        tiny_stack(tiny_instance("tiny", kv_blocks=13)), trace, queue="priority", slo=slo,
        scheduler="chunked", max_calls=3,
    )  # fmt: skip
    mixed = tight.preemptions.reshape(2, 6).sum(axis=1)
    assert mixed.sum() > 0
    fcfs, _ = outcome_of(stack, trace)
    assert max(fcfs.last_ns[:6]) < max(fcfs.last_ns[6:])
    with pytest.raises(ValidationError, match=r"add priority to \[simulate\.slo"):
        HermesParams(queue="priority")


def test_the_shortest_call_goes_first_where_the_least_work_is_left():
    trace = trace_of([0.0] * 4, [100, 400, 50, 200], [10, 10, 10, 10])
    for queue, order in (("fcfs", [0, 1, 2, 3]), ("least_work_left", [2, 0, 3, 1])):
        outcome, _ = outcome_of(tiny_stack(), trace, queue=queue, max_calls=1)
        assert np.argsort(outcome.last_ns).tolist() == order
    short, _ = outcome_of(tiny_stack(), poisson_trace(150, 3e4), queue="least_work_left")
    fifo, _ = outcome_of(tiny_stack(), poisson_trace(150, 3e4))
    assert short.latencies()["e2e"].mean() <= fifo.latencies()["e2e"].mean()
