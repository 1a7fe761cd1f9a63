"""Pipeline stages overlap: closed forms, nothing lost, and many steps at once as single ones."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import (
    STEPS,
    TINY,
    outcome_of,
    poisson_trace,
    tiny_instance,
    tiny_stack,
    trace_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_run_ahead import SIZE, loads, prefix_of

from crosslayer.contracts.calls import LLMCall
from crosslayer.contracts.lowering import StepShape
from crosslayer.contracts.model import Attention, ModelSpec
from crosslayer.errors import InputError
from crosslayer.serve import OneCall
from hermes_sim.batching import SCHEDULERS, Batching, batching
from hermes_sim.build import step_model
from hermes_sim.params import HermesParams
from hermes_sim.replay import replay
from hermes_sim.simulator import Hermes
from hermes_sim.step_models.protocol import Linear
from hermes_sim.step_models.staged import Send, Staged, cut_in_stages

DEEP = TINY | {"num_hidden_layers": 5}


def stages_of(count):
    """Unequal stages whose sums round differently if anything is added up in another order."""
    return Staged(
        [Linear(*(x * (1 + 0.37 * i) for x in (1.1e-3, 3.3e-6, 1e-9, 7.7e-5, 1.3e-8)))
         for i in range(count)], Send(2.1e-5, 1.3e-7),
    )  # fmt: skip


def columns_of(load, rules, model, run_ahead=True):
    arrivals, prompts, outputs, keys, blocks = load
    trace = trace_of(arrivals / 1e9, prompts, outputs, prefix=prefix_of(keys))
    return replay(trace, model, rules, kv_blocks=blocks, block_tokens=SIZE, run_ahead=run_ahead)


def rules_of(name, calls, budget):
    return batching(name, calls, None if name in ("static", "mixed") else budget)


EXAMPLES = int(os.environ.get("HERMES_EXAMPLES", "15"))


@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=EXAMPLES)
@given(load=loads(), calls=st.integers(1, 6), budget=st.integers(6, 64))
def test_a_pipeline_of_one_stage_is_a_client_without_one(name, load, calls, budget):
    rules = rules_of(name, calls, budget)
    one = columns_of(load, rules, Staged([STEPS], Send()))
    plain = columns_of(load, rules, STEPS)
    for column in plain.calls.columns:
        np.testing.assert_array_equal(one.calls[column], plain.calls[column], column)
    assert one.tape.iterations == plain.tape.iterations


@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=EXAMPLES)
@given(load=loads(), calls=st.integers(1, 8), budget=st.integers(8, 64), stages=st.integers(2, 4))
def test_steps_planned_ahead_are_those_of_one_at_a_time(name, load, calls, budget, stages):
    rules = rules_of(name, calls, budget)
    fast = columns_of(load, rules, stages_of(stages))
    slow = columns_of(load, rules, stages_of(stages), run_ahead=False)
    assert fast.preemptions == slow.preemptions
    for column in fast.calls.columns:
        np.testing.assert_array_equal(fast.calls[column], slow.calls[column], column)
    assert fast.tape.iterations == slow.tape.iterations
    assert fast.clients[0].busy_ns == slow.clients[0].busy_ns


@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=EXAMPLES)
@given(load=loads(), calls=st.integers(1, 8), budget=st.integers(8, 64), stages=st.integers(2, 4))
def test_every_call_ends_once_with_all_its_tokens_and_all_its_time(
    name, load, calls, budget, stages
):
    found = columns_of(load, rules_of(name, calls, budget), stages_of(stages))
    done, (client,) = found.calls, found.clients
    assert (done["status"] == 0).all() and done["output_tokens"].tolist() == load[2]
    parts = sum(done.breakdown_ns().values())
    np.testing.assert_array_equal(parts, done["last_ns"] - done["arrival_ns"])
    order = [done[name] for name in ("arrival_ns", "started_ns", "first_ns", "last_ns")]
    assert all((a <= b).all() for a, b in pairwise(order))
    assert client.blocks.free == client.blocks.total
    assert not client.running and not client.waiting and not client.queued_tokens
    assert not any(lane.n or lane.entries or any(lane.phases) for lane in client.lanes)


def plain_loop(load, rules, model):
    """One instant after the other: lanes are lists of calls, memory is no limit."""
    arrivals, prompts, outputs, *_ = load
    calls = [{"row": i, "at": int(arrivals[i]), "left": prompts[i], "done": 0, "made": 0}
             for i in range(len(prompts))]  # fmt: skip
    coming, waiting, partial = list(calls), [], []
    lanes = [{"calls": [], "since": -1, "busy": False} for _ in range(model.stages)]
    free, flight, now, cap = [0] * model.stations, [], 0, -(-rules.max_calls // model.stages)
    running = 0
    while coming or waiting or partial or flight or any(lane["calls"] for lane in lanes):
        for end, lane, step in [one for one in flight if one[0] == now]:
            flight.remove((end, lane, step))
            lane["busy"], lane["since"] = False, now
            for call, new, last in step:
                if last:
                    call["made"] += 1
                    call.setdefault("first", now)
                    if new:
                        lane["calls"].append(call)
                    else:
                        call["done"] += 1
                    if call["made"] >= outputs[call["row"]]:
                        call["last"] = now
                        lane["calls"].remove(call)
                        running -= 1
        while coming and coming[0]["at"] <= now:
            waiting.append(coming.pop(0))
        idle = [lane for lane in lanes if not lane["busy"]]
        ready = sorted((x for x in idle if x["calls"]), key=lambda x: x["since"])
        if free[0] <= now and (ready or (idle and (waiting or partial))):
            lane = ready[0] if ready else idle[0]
            budget, new, room = rules.token_budget, [], cap - len(lane["calls"])
            budget -= 0 if rules.alone else len(lane["calls"])
            while budget > 0 and (partial or (waiting and room > 0 and running < rules.max_calls)):
                call = partial[0] if partial else waiting[0]
                part = min(call["left"], budget) if rules.chunks else call["left"]
                if part > budget and (new or (lane["calls"] and not rules.alone)):
                    break
                if partial:
                    partial.clear()
                else:
                    waiting.pop(0)
                    room, running = room - 1, running + 1
                    call["started"] = now
                new.append((call, part, call["done"]))
                call["left"] -= part
                call["done"] += part
                budget -= part
                if call["left"]:
                    partial.append(call)
                    break
            decoding = [] if rules.alone and new else lane["calls"]
            if new or decoding:
                context = sum(call["done"] + 1 for call in decoding)
                rows = len(decoding) + sum(not call["left"] for call, *_ in new)
                shapes, n = [(part, done) for _, part, done in new], len(decoding)
                if new:
                    times = model.mixed_stations(shapes, rows, n, context, list)[0]
                else:
                    times = model.decode_stations(n, context, 1, list)[0][:, 0]
                at = now
                for i, seconds in enumerate(times):
                    at = free[i] = max(at, free[i]) + max(i % 2 == 0, round(float(seconds) * 1e9))
                step = [(call, part, not call["left"]) for call, part, _ in new]
                flight.append((at, lane, step + [(call, 0, True) for call in decoding]))
                lane["busy"] = True
                continue
        soon = [end for end, *_ in flight] + [call["at"] for call in coming[:1]] + [free[0]]
        now = min((at for at in soon if at > now), default=now)
    return calls


@pytest.mark.parametrize("name", ["chunked", "vllm_v1", "mixed", "continuous"])
@settings(max_examples=EXAMPLES)
@given(load=loads(), calls=st.integers(1, 8), budget=st.integers(8, 64), stages=st.integers(1, 4))
def test_batches_go_through_the_stages_as_in_a_loop_that_looks_at_every_instant(
    name, load, calls, budget, stages
):
    rules = batching(name, calls, None if name == "mixed" else budget, prefix_caching=False)
    load = (*load[:3], None, 10**6)
    wanted = plain_loop(load, rules, stages_of(stages))
    found = columns_of(load, rules, stages_of(stages)).calls
    for column, key in (("started_ns", "started"), ("first_ns", "first"), ("last_ns", "last")):
        assert found[column].tolist() == [call[key] for call in wanted]


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("batches", [1, 4, 16])
def test_the_bubble_is_that_of_the_closed_form(stages, batches):
    """m equal batches through p equal stages take m + p - 1 turns, so (p - 1) / (m + p - 1) of a
    stage's time is idle (GPipe, arXiv 1811.06965, section 2.3)."""
    model = Staged([Linear(prompt_token_s=1e-5)] * stages, Send())
    trace = trace_of([0] * batches, [100] * batches, [1] * batches)
    found = replay(trace, model, batching("chunked", 100, 100))
    span = int(found.calls["last_ns"].max())
    assert span == (batches + stages - 1) * 1_000_000
    idle = 1 - found.clients[0].busy_ns / span
    assert idle == pytest.approx((stages - 1) / (batches + stages - 1), rel=1e-9)


def test_chunks_of_one_prompt_follow_each_other_through_the_stages():
    model = Staged([Linear(prompt_token_s=1e-5)] * 4, Send())
    (first,) = replay(trace_of([0], [800], [1]), model, batching("chunked", 8, 100)).calls.ttft_s
    assert first == pytest.approx((8 + 4 - 1) * 1e-3, rel=1e-9)


@pytest.mark.parametrize("slowest", [0, 1, 2])
def test_throughput_tends_to_that_of_the_slowest_stage(slowest):
    seconds = [1e-3, 1e-3, 1e-3]
    seconds[slowest] = 2.5e-3
    for count in (50, 400):
        model = Staged([Linear(fixed_s=s) for s in seconds], Send())
        trace = trace_of([0] * count, [1] * count, [1] * count)
        span = float(replay(trace, model, Batching("one", max_calls=3)).calls.e2e_s.max())
        assert span == pytest.approx(count * 2.5e-3 + 2e-3, rel=1e-9)
    assert count / span == pytest.approx(1 / 2.5e-3, rel=3e-3)


def test_a_link_that_is_slower_than_the_stages_holds_them_up():
    model = Staged([Linear(fixed_s=1e-3)] * 2, Send(1e-3, 2e-5))
    trace = trace_of([0] * 40, [100] * 40, [1] * 40)
    span = float(replay(trace, model, batching("chunked", 100, 100)).calls.e2e_s.max())
    # 3 ms a batch on the link; before the first there is a stage, after the last another one.
    assert span == pytest.approx(1e-3 + 40 * 3e-3 + 1e-3, rel=1e-9)


def test_decoding_fills_the_stages_with_as_many_batches_as_there_are():
    """Four lanes of equal calls through four stages: each stage always has one of them."""
    model = Staged([Linear(fixed_s=1e-3)] * 4, Send())
    found = replay(trace_of([0] * 8, [1] * 8, [500] * 8), model, batching("chunked", 8, 8))
    (client,) = found.clients
    span = int(found.calls["last_ns"].max())
    assert client.busy_ns / span > 0.99
    assert found.calls.tpot_s == pytest.approx(np.full(8, 4e-3), rel=1e-9)
    assert found.tape.rows < found.tape.iterations / 20


def piped(name="tiny", stages=2, config=DEEP, **fields):
    return tiny_instance(
        name, config=config, devices=stages, pipeline_parallel=stages, **fields
    )  # fmt: skip


def test_stages_of_a_model_add_up_to_the_whole_and_the_last_has_the_head():
    spec = ModelSpec.from_hf_config(DEEP)
    parts = cut_in_stages(spec, 2)
    assert [block for part in parts for block in part.blocks] == list(spec.blocks)
    layers = [sum(1 for _ in part.parts(Attention)) for part in parts]
    assert layers == [3, 2]
    with pytest.raises(InputError, match="has 5 layers"):
        cut_in_stages(spec, 6)
    whole = tiny_stack(tiny_instance(config=DEEP))
    alone = step_model(whole, whole.instances[0], HermesParams())
    stack = tiny_stack(piped(stages=2))
    staged = step_model(stack, stack.instances[0], HermesParams())
    assert isinstance(staged, Staged) and staged.send.latency_s > 0
    for n, context in ((1, 100), (16, 4000)):
        one, heat = alone.decodes(n, context, 5, list)
        two, both = staged.decode_stations(n, context, 5, list)
        np.testing.assert_allclose(two[::2].sum(axis=0), one, rtol=1e-9)
        assert (both is None) == (heat is None)
    # What the stack itself says of a step that goes through all stages, sends included.
    step = StepShape.from_sequences(ModelSpec.from_hf_config(DEEP), [(300, 0, 0)])
    cost = stack.step_cost(stack.instances[0], step)
    seconds, _ = staged.mixed([(300, 0)], 1, 0, 0, list)
    assert seconds == pytest.approx(cost.seconds, rel=1e-6)


def test_five_stages_serve_more_than_twice_what_one_batch_at_a_time_would():
    trace = poisson_trace(200, 1e5, output=100)
    overlapping, cluster = outcome_of(tiny_stack(piped(stages=5)), trace, max_calls=40)
    adds_up = sum(overlapping.breakdown.values())
    np.testing.assert_array_equal(adds_up, overlapping.last_ns - overlapping.arrival_ns)
    (client,) = cluster.clients
    one_batch = client.staged.mixed([], 8, 8, 8 * 300, list)[0]
    tokens = overlapping.output_tokens.sum()
    assert tokens / overlapping.span_s > 2 * 8 / one_batch
    assert len(cluster.ledger) == 200


def test_pipelined_clients_hand_over_take_policies_and_lose_nothing(context):
    stack = tiny_stack(piped("p", role="prefill"), piped("d", role="decode", stages=4))
    trace = poisson_trace(60, 2000)
    found = {}
    for ahead in (True, False):
        found[ahead], cluster = outcome_of(
            stack, trace, hand_off_bytes_per_s=1e8, hand_off="layerwise", run_ahead=ahead
        )
        assert found[ahead].finished.all()
        assert all(client.blocks.free == client.blocks.total for client in cluster.clients)
    np.testing.assert_array_equal(found[True].last_ns, found[False].last_ns)
    stack = replace(tiny_stack(piped(stages=3)), policy=OneCall())
    report = Hermes().simulate(stack, trace, context)
    outcome, _ = outcome_of(tiny_stack(piped(stages=3)), trace)
    wanted = outcome.latencies()["e2e"].mean()
    assert report.metric("e2e_mean_s").value == pytest.approx(wanted, rel=1e-12)


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(SCHEDULERS))
def test_cancelled_calls_leave_a_pipeline_with_their_blocks(seed, name):
    """At random instants; the others end with all their tokens, and both ways of stepping agree."""
    rng = np.random.default_rng(seed)
    prompts, outputs = rng.integers(1, 400, 12), rng.integers(1, 60, 12)
    arrive = np.sort(rng.integers(0, 2_000_000, 12))
    cancels = sorted(zip(rng.integers(1, 8_000_000, 5).tolist(), range(0, 10, 2), strict=True))
    seen = []
    for ahead in (True, False):
        service = Hermes(
            HermesParams(
                scheduler=name, run_ahead=ahead, max_calls=6,
                token_budget=None if name in ("static", "mixed") else 64,
            )
        ).service(tiny_stack(piped(stages=3, kv_blocks=40)))  # fmt: skip
        for i in range(12):
            call = LLMCall(id=str(i), model="tiny", prompt_tokens=int(prompts[i]),
                           output_tokens=int(outputs[i]))  # fmt: skip
            service.submit(call, int(arrive[i]))
        over, gone = {}, []
        for until, which in [*cancels, (10**12, None)]:
            while (found := service.advance(until))[1]:
                over |= {one.call_id: (one.finished_ns, one.output_tokens) for one in found[1]}
            if which is not None:
                gone.append((service.made_tokens(str(which)), service.cancel(str(which))))
        seen.append((over, gone))
        (client,) = service.cluster.clients
        assert client.blocks.free == client.blocks.total and not client.running
        assert not client.waiting and not client.queued_tokens
        assert len(over) + sum(was_open for _, was_open in gone) == 12
        assert all(made == outputs[int(name)] for name, (_, made) in over.items())
    assert seen[0] == seen[1]
