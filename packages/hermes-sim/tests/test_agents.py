"""Agents as a workload: graphs of calls that depend on each other, from a seed or from a file."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import outcome_of, poisson_trace, tiny_instance, tiny_stack, trace_of
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.cli import main as crosslayer
from crosslayer.contracts.calls import LLMCall, Stage
from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import InputError
from crosslayer.serve import OneCall
from crosslayer.traces import read_trace
from crosslayer.traces.closed_loop import ClosedLoop
from hermes_sim.agents import agent_trace
from hermes_sim.params import AgentParams, HermesParams
from hermes_sim.simulator import Hermes

PIPELINE = """
[pipeline]
name = "agents"

[model]
use = "llama-3.1-8b"

[accelerator]
use = "roofline:h100-80g"

[workload]
arrivals = "poisson"
rate_per_s = 2.0
requests = 12
prompt_tokens = 300
output_tokens = 20

[[simulate]]
use = "hermes"
chrome_trace = false

[simulate.agents]
shape = "loop"
calls = 3
tool_s = 0.5
tool_tokens = 100
"""


def made(shape, count=40, **more):
    return agent_trace(poisson_trace(count, 100), AgentParams(shape=shape, **more), 7)


def test_a_chain_has_its_calls_in_a_row_and_its_prompts_hold_what_came_before():
    (request,) = agent_trace(
        trace_of([0], [100], [10]), AgentParams(shape="chain", calls=3, system_tokens=50), 0
    )
    assert [call.prompt_tokens for call in request.calls] == [150, 160, 170]
    assert request.edges == (("call 0", "call 1"), ("call 1", "call 2"))
    first, _, last = (call.prefix.hashes for call in request.calls)
    assert len(first) == 9 and last[:9] == first


def test_a_fan_out_joins_what_its_branches_have_written():
    (request,) = agent_trace(
        trace_of([0], [96], [16]), AgentParams(shape="fan_out", calls=3, tool_tokens=32), 0
    )
    plan, *branches, join = request.calls
    assert plan.prompt_tokens == 96 and join.prompt_tokens == 96 + 16 + 3 * 16
    assert [call.prompt_tokens for call in branches] == [96 + 16 + 32] * 3
    assert len(request.edges) == 6
    # All begin as the plan and its answer; what follows is each one's own.
    assert len({call.prefix.hashes[:7] for call in (*branches, join)}) == 1
    assert len({call.prefix.hashes[7] for call in (*branches, join)}) == 4


def test_loops_end_by_chance_and_their_tools_take_the_mean_time():
    plain = poisson_trace(1500, 100, prompt=8, output=4)
    params = AgentParams(shape="loop", calls=4, tool_s=2.0, tool_tokens=30)
    trace = agent_trace(plain, params, 7)
    turns = np.array([len(request.calls) for request in trace])
    tools = [node.seconds for r in trace for node in r.nodes if isinstance(node, Stage)]
    assert len(tools) == (turns - 1).sum()
    assert turns.mean() == pytest.approx(4, rel=0.1)
    assert turns.var() == pytest.approx(12, rel=0.3)  # geometric: (1 - p) / p^2
    assert np.mean(tools) == pytest.approx(2.0, rel=0.1)
    for request in list(trace)[:50]:
        first = request.calls[0]
        for i, call in enumerate(request.calls):
            assert call.prompt_tokens == first.prompt_tokens + i * (first.output_tokens + 30)


def test_prompts_of_all_requests_begin_with_the_system_prompt_and_go_on_as_their_own():
    one, two = agent_trace(
        trace_of([0, 1], [64, 64], [5, 5]), AgentParams(calls=1, system_tokens=40), 0
    )
    hashes = [request.call.prefix.hashes for request in (one, two)]
    assert hashes[0][:2] == hashes[1][:2] and hashes[0][2] != hashes[1][2]


@settings(max_examples=8)
@given(
    shape=st.sampled_from(["chain", "fan_out", "loop"]), calls=st.integers(1, 5),
    seed=st.integers(0, 999), rate=st.sampled_from([5, 500]), tool_s=st.sampled_from([0, 0.02]),
)  # fmt: skip
def test_no_call_is_lost_none_starts_early_and_the_time_adds_up(shape, calls, seed, rate, tool_s):
    plain = poisson_trace(20, rate, seed, prompt=80, output=15)
    params = AgentParams(shape=shape, calls=calls, tool_s=tool_s, tool_tokens=20, system_tokens=64)
    trace = agent_trace(plain, params, seed)
    stack = tiny_stack(tiny_instance("a", kv_blocks=600), tiny_instance("b", kv_blocks=600))
    outcome, cluster = outcome_of(stack, trace, router="session_affinity")
    slow, _ = outcome_of(stack, trace, router="session_affinity", run_ahead=False)
    np.testing.assert_array_equal(outcome.last_ns, slow.last_ns)
    assert outcome.finished.all() and len(outcome) == 20
    parts = sum(outcome.breakdown.values())
    np.testing.assert_array_equal(parts, outcome.last_ns - outcome.arrival_ns)
    requests = list(trace)
    assert outcome.all_calls.tolist() == [len(request.calls) for request in requests]
    assert len(cluster.ledger) == outcome.all_calls.sum()
    wanted = [sum(call.output_tokens for call in request.calls) for request in requests]
    assert outcome.all_tokens.tolist() == wanted
    assert outcome.prompt_tokens.tolist() == [
        sum(call.prompt_tokens for call in request.calls) for request in requests
    ]
    if shape == "loop":
        tools = [sum(n.seconds for n in r.nodes if isinstance(n, Stage)) for r in requests]
        spent = outcome.breakdown.get("tool", np.zeros(20))
        np.testing.assert_allclose(spent / 1e9, tools, atol=1e-7)
    columns = cluster.ledger.columns()
    for client in ("client", "decode_client"):  # a session stays where it is
        assert {0, 1} >= set(columns[client].tolist())
    assert all(client.blocks.free == client.blocks.total for client in cluster.clients)


def test_alone_a_loop_takes_its_calls_and_its_tools_and_nothing_else():
    trace = agent_trace(trace_of([0], [64], [8]), AgentParams(shape="loop", calls=9, tool_s=0.3), 5)
    outcome, cluster = outcome_of(tiny_stack(), trace)
    (request,) = trace
    assert len(request.calls) > 2
    columns = cluster.ledger.columns()
    inside = int((columns["last_ns"] - columns["arrival_ns"]).sum())
    tools = sum(round(n.seconds * 1e9) for n in request.nodes if isinstance(n, Stage))
    assert outcome.last_ns[0] - outcome.arrival_ns[0] == inside + tools
    # The next turn finds its prompt in the cache, all but what was written since.
    assert (columns["cached_tokens"][1:] >= 48).all()


def test_branches_work_at_once():
    one = agent_trace(trace_of([0], [64], [40]), AgentParams(shape="fan_out", calls=1), 0)
    many = agent_trace(trace_of([0], [64], [40]), AgentParams(shape="fan_out", calls=8), 0)
    stack = tiny_stack()
    (alone,) = outcome_of(stack, one)[0].latencies()["e2e"]
    (together,) = outcome_of(stack, many)[0].latencies()["e2e"]
    assert together < 1.5 * alone  # one after the other: 10 calls for 3


def test_a_policy_serves_agents_with_the_same_calls(context):
    from dataclasses import replace

    params = HermesParams.model_validate({"agents": {"shape": "chain", "calls": 3}})
    trace = poisson_trace(15, 200)
    reports = [
        Hermes(params).simulate(stack, trace, context)
        for stack in (tiny_stack(), replace(tiny_stack(), policy=OneCall()))
    ]
    for name in ("calls_per_request", "e2e_mean_s", "output_tokens_per_request"):
        one, two = (report.metric(name).value for report in reports)
        assert one == pytest.approx(two, rel=1e-12)
    assert reports[0].metric("calls_per_request").value == 3


def test_a_pipeline_runs_agents_and_a_file_of_them_gives_the_same(tmp_path, capsys):
    file, out = tmp_path / "agents.toml", tmp_path / "graphs.jsonl"
    file.write_text(PIPELINE)

    def means(path):
        assert run(["hermes", "run", str(path), "--runs-dir", str(tmp_path), "--json"]) == 0
        import json

        metrics = json.loads(capsys.readouterr().out)["metrics"]
        return {one["name"].rpartition("/")[2]: one["value"] for one in metrics}

    made = means(file)
    assert run(["hermes", "agents", str(file), str(out)]) == 0
    assert "12 requests" in capsys.readouterr().out
    trace = read_trace(out)
    assert sum(len(request.calls) for request in trace) / 12 == made["calls_per_request"]
    assert any(isinstance(node, Stage) for request in trace for node in request.nodes)
    head, _, rest = PIPELINE.partition("[workload]")
    step = rest[rest.index("[[simulate]]") : rest.index("[simulate.agents]")]
    file.write_text(f'{head}[workload]\ntrace = "graphs.jsonl"\n\n{step}')
    found = means(file)
    names = ("calls_per_request", "e2e_mean_s", "e2e_p99_s", "ttft_mean_s", "request_throughput")
    assert [found[name] for name in names] == [made[name] for name in names]


def run(arguments):
    with pytest.raises(SystemExit) as over:
        crosslayer(arguments)
    return over.value.code or 0


def test_the_same_seed_makes_the_same_agents_and_another_one_others():
    params = AgentParams(shape="loop", calls=5, tool_s=1.0)
    trace = poisson_trace(20, 10)
    one, two, other = (list(agent_trace(trace, params, seed)) for seed in (1, 1, 2))
    assert one == two != other


def test_what_is_no_plain_request_makes_no_agent(context):
    twice = made("chain", 3)
    with pytest.raises(InputError, match="is a graph already"):
        agent_trace(twice, AgentParams(), 0)
    with pytest.raises(InputError, match="no output_tokens"):
        agent_trace(trace_of([0], [10], [-1]), AgentParams(), 0)
    users = ClosedLoop(2, *(np.full(4, n) for n in (0, 50, 5)))
    with pytest.raises(InputError, match="single calls"):
        Hermes(HermesParams(agents=AgentParams())).simulate_closed(tiny_stack(), users, context)


def test_calls_of_an_agent_name_the_model_that_the_request_named():
    request = trace_of([0], [10], [2]).request(0)
    call = LLMCall(model="a", prompt_tokens=10, output_tokens=2)
    trace = RequestTrace.from_requests([request.model_copy(update={"nodes": (call,)})])
    (agent,) = agent_trace(trace, AgentParams(shape="chain", calls=2), 0)
    assert {call.model for call in agent.calls} == {"a"}
