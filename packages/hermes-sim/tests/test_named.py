"""Every stage kind, scheduler, router and queue that a pipeline may name does its own thing."""

from __future__ import annotations

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

from crosslayer.contracts.calls import LLMCall, Request, Stage
from crosslayer.contracts.requests import RequestTrace
from hermes_sim.batching import QUEUES, SCHEDULERS, batching
from hermes_sim.params import HermesParams
from hermes_sim.replay import replay
from hermes_sim.router import ROUTERS, router
from hermes_sim.step_models.protocol import Linear

# A step of nothing but decodes takes 1 ms, a prompt token 10 us more.
STEPS = Linear(fixed_s=1e-3, prompt_token_s=1e-5)


def options(field):
    return HermesParams.model_json_schema()["properties"][field]["enum"]


def test_what_can_be_named_is_what_there_is():
    assert sorted(options("scheduler")) == sorted(SCHEDULERS)
    assert sorted(options("router")) == sorted(ROUTERS)
    assert sorted(options("queue")) == sorted(QUEUES)
    for name in ROUTERS:
        router(name, np.random.default_rng(0))


def firsts_and_lasts(name):
    """One call decodes from 3 ms on; two long prompts arrive at 3.5 ms, in its second step."""
    trace = trace_of([0, 0.0035, 0.0035], [200, 1000, 1000], [8, 2, 2])
    rules = batching(name, 4, {"chunked": 500, "vllm_v1": 500}.get(name))
    found = replay(trace, STEPS, rules, kv_blocks=1000)
    calls = found.calls
    ms = 1e6
    return calls["first_ns"] / ms, calls["last_ns"] / ms, found.tape.iterations


@pytest.mark.parametrize(
    ("name", "firsts", "lasts"),
    [
        # Nobody joins the batch of one: it makes all 8 tokens, then both prompts are computed.
        ("static", [3, 31, 31], [10, 32, 32]),
        # Both prompts fit a step of their own, which the one who decodes waits for.
        ("continuous", [3, 25, 25], [31, 26, 26]),
        # They join the step, which is as long, but in which the first call makes a token.
        ("mixed", [3, 25, 25], [30, 26, 26]),
    ],
)
def test_whole_prompts_wait_stop_others_or_join_them(name, firsts, lasts):
    first, last, _ = firsts_and_lasts(name)
    assert first == pytest.approx(firsts, abs=1e-6)
    assert last == pytest.approx(lasts, abs=1e-6)


@pytest.mark.parametrize("name", ["chunked", "vllm_v1"])
def test_chunks_fill_what_decodes_leave_of_the_budget(name):
    first, last, _ = firsts_and_lasts(name)
    # Steps from 4 ms on: 499, then 499, then 2 of the one and 497 of the other, ... beside a token.
    steps = [499, 499, 2 + 497, 498, 5]
    ends = np.cumsum([1 + tokens / 100 for tokens in steps]) + 4
    assert first == pytest.approx([3, ends[2], ends[4]], abs=1e-6)
    assert last[0] == pytest.approx(ends[4] + 1, abs=1e-6)


def test_only_vllm_v1_keeps_prefixes_unless_told_and_admits_prompts_that_fit_whole():
    trace = prefix_trace(2, 2)
    hits = {name: replay(trace, STEPS, batching(name)).calls["cached_tokens"][1]
            for name in SCHEDULERS}  # fmt: skip
    assert {name for name, tokens in hits.items() if tokens} == {"vllm_v1"}
    told = replay(trace, STEPS, batching("chunked", prefix_caching=True))
    assert told.calls["cached_tokens"][1] == hits["vllm_v1"]
    # 10 blocks of 8: while the first has 6, chunks of the second may begin, but it does not fit.
    trace = trace_of([0, 0.0015], [40, 40], [30, 2])
    started = {}
    for name in ("chunked", "vllm_v1"):
        found = replay(trace, STEPS, batching(name, 4, 20), kv_blocks=10, block_tokens=8)
        started[name] = int(found.calls["started_ns"][1])
    assert started["chunked"] < started["vllm_v1"]


def routed(name, trace, count=4, **more):
    """The client of each call, over instances that are otherwise idle."""
    stack = tiny_stack(*(tiny_instance(f"i{i}") for i in range(count)))
    _, cluster = outcome_of(stack, trace, router=name, **more)
    return cluster.ledger.columns()["client"].tolist()


def test_round_robin_goes_round_and_random_follows_its_seed():
    trace = poisson_trace(40, 50)
    assert routed("round_robin", trace) == [i % 4 for i in range(40)]
    chance = routed("random", trace)
    assert chance == routed("random", trace) != routed("round_robin", trace)
    assert set(chance) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("name", "wanted"),
    # 0: one call with a long prompt. 1: two short ones. The next call comes while all decode.
    [("least_requests", 0), ("least_tokens", 1), ("least_kv", 1)],
)
def test_the_least_loaded_client_is_the_one_with_the_least_of_what_is_named(name, wanted):
    stack = tiny_stack(tiny_instance("a"), tiny_instance("b"))
    trace = trace_of([0, 1e-6, 2e-6, 1e-3], [1500, 40, 40, 60], [900, 900, 900, 5])
    order = iter([0, 1, 1])

    _, cluster = outcome_of(stack, trace_of([0], [1], [1]))
    pick = router(name, np.random.default_rng(0))
    seen = []

    def choose(clients, call, now):
        index = next(order, None)
        if index is None:
            seen.append(pick(clients, call, now).index)
            return clients[seen[-1]]
        return clients[index]

    from hermes_sim.build import build
    from hermes_sim.simulator import Hermes

    hermes = Hermes(HermesParams())
    cluster, _, _ = build(stack, hermes.params, 0)
    cluster.choose = choose
    hermes.run(stack, trace, cluster)
    assert seen == [wanted]


def test_every_kind_of_stage_of_a_pipeline_takes_its_own_time():
    """Pre-processing, embedding, search, rerank, routing by a classifier, a tool, a guard."""
    small = TINY | {"num_hidden_layers": 1}
    stack = tiny_stack(tiny_instance("llm"), tiny_instance("small", config=small))
    stages = {
        "tokenise": {"seconds": 0.001, "token_s": 1e-6},
        "embed": {"client": "small", "client_tokens": 32},
        "search": {"vectors": 10**6, "lists": 1024, "probes": 16, "dimensions": 64},
        "rerank": {"client": "small", "adds_tokens": 64},
        "route": {"client": "small", "client_tokens": 16},
        "guard": {"client": "small"},
    }
    call = LLMCall(model="llm", prompt_tokens=100, output_tokens=5)
    tool = Stage(id="t", kind="tool", seconds=0.25)
    request = Request(id="r", arrival_ns=0, nodes=(tool, call), edges=(("t", "call"),))
    before = ("tokenise", "embed", "search", "rerank", "route")
    outcome, _ = outcome_of(
        stack, RequestTrace.from_requests([request]),
        stages=stages, before=before, after=("guard",),
    )  # fmt: skip
    spent = {name: int(values[0]) for name, values in outcome.breakdown.items()}
    assert sum(spent.values()) == outcome.last_ns[0]
    assert spent["tokenise"] == 1_100_000 and spent["tool"] == 250_000_000
    scanned = 10**6 * 16 / 1024 * 64 + 1024 * 64 * 4
    assert spent["search"] == round(scanned / 5e10 * 1e9)
    kinds = ("embed", "rerank", "route", "guard")
    assert all(spent[f"{kind}: prefill"] > 0 for kind in kinds)
    # A guard reads what the prompt was; passages that a rerank adds are in the call's own.
    assert outcome.prompt_tokens[0] == 164
