"""Policies, closed loops and others' calls inside the simulation."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
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

from crosslayer.accelerators.params import RooflineParams
from crosslayer.accelerators.roofline import Roofline
from crosslayer.contracts.calls import LLMCall, Request, Stage
from crosslayer.contracts.requests import RequestTrace
from crosslayer.contracts.serving import Done, ServePlan
from crosslayer.errors import InputError
from crosslayer.serve import OneCall, serve
from crosslayer.traces.closed_loop import ClosedLoop
from hermes_sim.params import HermesParams
from hermes_sim.simulator import Hermes


def test_the_service_runs_calls_as_the_simulator_does():
    trace = poisson_trace(30, 300)
    outcome, _ = outcome_of(tiny_stack(), trace)
    service = Hermes().service(tiny_stack())
    served = serve(trace, OneCall(), Hermes()._pool(tiny_stack(), service.cluster), service)
    assert [one.finished_ns for one in served] == outcome.last_ns.tolist()


def test_a_cancelled_call_is_never_reported_and_frees_its_blocks():
    service = Hermes().service(tiny_stack())
    for i in range(6):
        call = LLMCall(id=str(i), model="tiny", prompt_tokens=100, output_tokens=50)
        service.submit(call, 0)
    service.advance(300_000)
    assert service.cancel("0") and service.cancel("5") and not service.cancel("0")
    seen = []
    while True:
        now, over = service.advance(10**12)
        if not over:
            break
        assert all(one.finished_ns == now for one in over)
        seen += [one.call_id for one in over]
    assert sorted(seen) == ["1", "2", "3", "4"]
    (client,) = service.cluster.clients
    assert client.blocks.free == client.blocks.total and not client.running


def test_users_who_wait_are_served_in_a_closed_loop(context):
    users = ClosedLoop(2, *(np.full(10, n) for n in (10_000_000, 50, 5)))
    report = Hermes().simulate_closed(tiny_stack(), users, context)
    assert report.metric("ttft_mean_s").samples == 10


def test_a_policy_chooses_among_models(context):
    class ToTheSecond:
        def plan(self, request, pool):
            return ServePlan(calls=(request.call.to(pool.names[1]),))

        decide = OneCall.decide

    stack = tiny_stack(tiny_instance("a"), tiny_instance("b", config=TINY | {"hidden_size": 128}))
    stack = replace(stack, policy=ToTheSecond())
    report = Hermes().simulate(stack, poisson_trace(10, 100), context)
    busy = {row[0]: row[1] for row in report.table("clients").rows}
    assert busy["a"] == 0 < busy["b"]


class AskTwice:
    """Two calls of each request, the first answer ends both or leaves the other running."""

    def __init__(self, cancel):
        self.cancel = cancel

    def plan(self, request, pool):
        short = request.call.to(pool.names[0], 0)
        long = request.call.to(pool.names[-1], 1).model_copy(update={"output_tokens": 400})
        return ServePlan(calls=(short, long))

    def decide(self, request, results):
        return Done(cancel=self.cancel)


@pytest.mark.parametrize("cancel", [True, False])
def test_calls_that_a_policy_ends_or_leaves_cost_what_they_made(context, cancel):
    stack = replace(tiny_stack(), policy=AskTwice(cancel))
    trace = trace_of(np.arange(5) * 1e-5, [100] * 5, [10] * 5)
    report = Hermes().simulate(stack, trace, context)
    assert report.metric("calls_per_request").value == 2
    assert report.metric("prompt_tokens_per_request").value == 200
    made = report.metric("output_tokens_per_request").value
    with (context.output / "requests.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["output_tokens"]) for row in rows] == [10] * 5
    if not cancel:
        assert made == 410
        return
    # Both were admitted in one step, so the other one has made as many when the first ends.
    assert [int(row["tokens_of_all_calls"]) for row in rows] == [20] * 5
    span = report.metric("request_throughput").value
    throughput = report.metric("output_token_throughput").value
    assert throughput == pytest.approx(20 * span, rel=1e-9)


def test_a_call_has_made_so_many_tokens_at_every_instant():
    trace = trace_of([0.0, 0.0001, 0.0002], [300, 20, 90], [60, 80, 30])
    for run_ahead in (True, False):
        service = Hermes(HermesParams(run_ahead=run_ahead, max_calls=2)).service(tiny_stack())
        for request in trace:
            call = request.call.model_copy(update={"id": request.id, "model": "tiny"})
            service.submit(call, request.arrival_ns)
        seen = []
        for now in range(0, 12_000_000, 37_000):
            while service.advance(now)[1]:
                pass
            seen.append([service.made_tokens(request.id) for request in trace])
        if run_ahead:
            ahead = seen
    assert seen == ahead
    for column in zip(*ahead, strict=True):
        until = column[: max(i for i, made in enumerate(column) if made) + 1]
        assert list(until) == sorted(until) and len(set(until)) > 10
    assert service.made_tokens("nobody") == 0


def test_one_call_through_a_policy_is_booked_as_without_one(context):
    trace = poisson_trace(40, 5000, prompt=200, output=60)
    prefix = prefix_trace(12, 2, gap_s=1e-4)
    for requests, blocks in ((trace, 60), (prefix, 200)):
        stack = tiny_stack(tiny_instance("tiny", kv_blocks=blocks))
        outcome, _ = outcome_of(stack, requests)
        assert outcome.preemptions.sum() > 0 or outcome.cached_tokens.sum() > 0
        report = Hermes().simulate(replace(stack, policy=OneCall()), requests, context)
        with (context.output / "requests.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        for name in ("cached_tokens", "preemptions", "output_tokens", "prompt_tokens"):
            assert [int(row[name]) for row in rows] == getattr(outcome, name).tolist()
        assert report.metric("calls_per_request").value == 1


def test_a_call_that_is_cancelled_between_iterations_takes_part_in_no_further_one():
    service = Hermes().service(tiny_stack())
    for name, output in (("short", 6), ("long", 60)):
        service.submit(LLMCall(id=name, model="tiny", prompt_tokens=50, output_tokens=output), 0)
    _, (short,) = service.advance(10**12)
    assert short.call_id == "short"
    (client,) = service.cluster.clients
    assert client.iterations == 6 and service.cancel("long")
    assert client.blocks.free == client.blocks.total and not client.running
    assert service.advance(10**12) == (10**12, ()) and client.iterations == 6


@pytest.mark.parametrize("scheduler", ["vllm_v1", "continuous", "static"])
def test_calls_of_one_instant_begin_together_through_a_policy_too(scheduler):
    trace = trace_of([0.0] * 4 + [0.0005] * 3, [90] * 7, [9] * 7)
    outcome, cluster = outcome_of(tiny_stack(), trace, scheduler=scheduler)
    service = Hermes(HermesParams(scheduler=scheduler)).service(tiny_stack())
    served = serve(trace, OneCall(), Hermes()._pool(tiny_stack(), service.cluster), service)
    assert [one.finished_ns for one in served] == outcome.last_ns.tolist()
    assert service.cluster.clients[0].iterations == cluster.clients[0].iterations


def test_a_policy_and_users_who_wait_end_at_until_s_too(context):
    trace, until_s = poisson_trace(60, 5000), 0.006
    outcome, _ = outcome_of(tiny_stack(), trace, until_s=until_s)
    assert 0 < outcome.censored < 60
    hermes = Hermes(HermesParams(until_s=until_s, table_rows=100))
    report = hermes.simulate(replace(tiny_stack(), policy=OneCall()), trace, context)
    assert report.metric("censored_requests").value == outcome.censored
    assert report.metric("e2e_mean_s").samples == len(outcome)
    users = ClosedLoop(3, *(np.full(10, n) for n in (0, 50, 20)))
    whole = Hermes().simulate_closed(tiny_stack(), users, context)
    ends = sorted(row[1] + row[4] for row in whole.table("requests").rows)
    hermes = Hermes(HermesParams(until_s=ends[4] + 1e-9))
    report = hermes.simulate_closed(tiny_stack(), users, context)
    assert report.metric("censored_requests").value == 3
    assert len(report.table("requests").rows) == len([at for at in ends if at <= ends[4]])


def test_users_who_wait_are_routed_over_equal_instances(context):
    users = ClosedLoop(8, *(np.full(40, n) for n in (0, 50, 20)))
    stack = tiny_stack(tiny_instance("a"), tiny_instance("b"))
    report = Hermes().simulate_closed(stack, users, context)
    a, b = (row[1] for row in report.table("clients").rows)
    assert a and b


class Warm(Roofline):
    """A roofline that draws 300 W while it computes."""

    def estimate(self, op):
        cost = super().estimate(op)
        return replace(cost, joules=300 * cost.seconds)

    def estimate_many(self, ops):
        costs = super().estimate_many(ops)
        return replace(costs, joules=300 * costs.seconds)


@pytest.mark.parametrize("stages", [1, 2])
def test_energy_and_cost_are_known_with_a_policy_too_part_by_part(context, stages):
    nodes = (
        Stage(id="s", kind="search", seconds=0.002),
        LLMCall(prompt_tokens=90, output_tokens=9),
    )
    requests = [
        Request(id=str(i), arrival_ns=i * 100_000, nodes=nodes, edges=(("s", "call"),))
        for i in range(20)
    ]
    trace = RequestTrace.from_requests(requests)
    instance = tiny_instance(devices=stages, pipeline_parallel=stages)
    stack = tiny_stack(replace(instance, accelerator=Warm(RooflineParams(preset="a100-80g"))))
    params = HermesParams.model_validate(
        {"stages": {"search": {"watts": 50.0, "servers": 20}}, "idle_watts": 60.0,
         "dollars_per_device_hour": 2.0}
    )  # fmt: skip
    found = []
    for chosen in (stack, replace(stack, policy=OneCall())):
        report = Hermes(params).simulate(chosen, trace, context)
        parts = {row[0]: row[1] for row in report.table("energy").rows}
        assert parts["stage search"] == pytest.approx(20 * 0.002 * 50.0, rel=1e-9)
        assert parts["tiny: steps"] > 0
        whole = report.metric("energy_j").value
        assert sum(parts.values()) == pytest.approx(whole, rel=1e-12)
        per_token = report.metric("energy_per_output_token_j").value
        assert per_token == pytest.approx(whole / (20 * 9), rel=1e-12)
        (busy,) = (row[2] for row in report.table("clients").rows)
        span = 20 / report.metric("request_throughput").value
        idle = 60.0 * stages * (1 - busy) * span
        assert parts["tiny: idle"] == pytest.approx(idle, rel=1e-6)
        if stages == 1:  # links between stages use no energy here
            assert parts["tiny: steps"] == pytest.approx(300 * busy * span, rel=1e-3)
        dollars = report.metric("cost_usd").value
        assert dollars == pytest.approx(2.0 * stages * span / 3600, rel=1e-9)
        found.append((parts, dollars))
    assert found[0] == found[1]


def test_a_stage_that_takes_its_time_from_the_prompt_is_refused_with_a_policy(context):
    request = Request(
        id="r", arrival_ns=0,
        nodes=(Stage(id="s", kind="guard"), LLMCall(prompt_tokens=9, output_tokens=2)),
        edges=(("s", "call"),),
    )  # fmt: skip
    trace = RequestTrace.from_requests([request])
    stack = replace(tiny_stack(), policy=OneCall())
    fixed = HermesParams.model_validate({"stages": {"guard": {"seconds": 0.5}}})
    assert Hermes(fixed).simulate(stack, trace, context).metric("e2e_mean_s").value > 0.5
    for given in ({"token_s": 1e-3}, {"client": "tiny"}):
        params = HermesParams.model_validate({"stages": {"guard": given}})
        with pytest.raises(InputError, match=r"'guard'.*give it `seconds`"):
            Hermes(params).simulate(stack, trace, context)
