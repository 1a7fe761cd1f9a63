"""The policy loop in a toy world: causality, cancel, early stop, graphs, conservation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_serving import Fifo, M, Plan, ToyWorld, Vote, call, pool, requests, times

from crosslayer.contracts.requests import Request, Stage, single
from crosslayer.contracts.serving import (
    CallResult,
    Decision,
    Done,
    More,
    Pool,
    ServedRequest,
    ServePlan,
    Wait,
)
from crosslayer.errors import InputError
from crosslayer.policy_loop import PolicyLoop
from crosslayer.serve import LengthsOnly, OneCall, serve

# --- the same decision, sooner -------------------------------------------------------------------


def test_early_stop_decides_as_full_sampling_does_for_200_seeds_and_saves_calls() -> None:
    full_tokens = early_tokens = 0
    for seed in range(200):
        full = serve(requests(0, 40), Vote(early=False), M, Fifo(), ToyWorld(), seed=seed)
        early = serve(requests(0, 40), Vote(), M, Fifo(), ToyWorld(), seed=seed)
        one_by_one = serve(requests(0, 40), Vote(at_once=1), M, Fifo(), ToyWorld(), seed=seed)
        assert [s.answer for s in early] == [s.answer for s in full]
        assert [s.answer for s in one_by_one] == [s.answer for s in full]
        assert all(not s.cancelled for s in full) and all(not s.cancelled for s in one_by_one)
        for slow, fast in zip(full, early, strict=True):
            assert fast.finished_ns <= slow.finished_ns
            assert len(fast.results) + len(fast.cancelled) == 5 == len(slow.results)
        full_tokens += sum(r.output_tokens for s in full for r in s.results)
        early_tokens += sum(r.output_tokens for s in early for r in s.results)
    assert early_tokens < 0.95 * full_tokens


def test_a_sample_says_the_same_whether_it_is_asked_first_or_last() -> None:
    all_at_once = serve(requests(0), Vote(early=False), M, Fifo(), ToyWorld(), seed=3)[0]
    in_turn = serve(requests(0), Vote(early=False, at_once=1), M, Fifo(), ToyWorld(), seed=3)[0]
    said = {r.call.id: (r.answer, r.output_tokens) for r in all_at_once.results}
    assert said == {r.call.id: (r.answer, r.output_tokens) for r in in_turn.results}
    assert len(set(said.values())) > 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    def run(seed: int) -> list[str]:
        served = serve(requests(0, 10, 10, 35), Vote(), M, Fifo(), ToyWorld(), seed=seed)
        return [one.to_json() for one in served]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert ServedRequest.from_json(run(1)[2]).to_json() == run(1)[2]


# --- causality -----------------------------------------------------------------------------------


def test_a_follow_up_starts_when_its_cause_ends_though_another_instance_is_busy() -> None:
    # "long" keeps b busy until 1000 ns; the short one on a ends at 30 ns and causes another there.
    policy = Plan(
        (call("long", 100, "b"), call("short", 3, "a")),
        [More(calls=(call("next", 2, "a"),)), More(calls=(call("last", 1, "a"),)), Wait(), Done()],
    )
    served = serve(requests(0), policy, pool("a", "b"), Fifo())[0]
    assert times(served) == {
        "short": (0, 30), "next": (30, 50), "last": (50, 60), "long": (0, 1000),
    }  # fmt: skip
    assert [r.call.id for r in served.results] == ["short", "next", "last", "long"]


def test_a_request_is_planned_at_its_arrival_though_an_instance_is_busy() -> None:
    served = serve(requests(0, 7), Plan((call("c", 10),)), M, Fifo())
    assert [s.results[0].finished.submitted_ns for s in served] == [0, 7]
    assert [s.results[0].finished.started_ns for s in served] == [0, 100]
    assert [s.finished_ns for s in served] == [100, 200]


@dataclass
class Watched:
    """A policy whose every decision is checked against the loop's clock."""

    policy: Any
    loop: PolicyLoop | None = None
    decisions: int = 0

    def plan(self, request: Request, pool: Pool) -> ServePlan:
        assert self.loop is not None and self.loop.now_ns == request.arrival_ns
        plan: ServePlan = self.policy.plan(request, pool)
        return plan

    def decide(self, request: Request, results: Sequence[CallResult]) -> Decision:
        assert self.loop is not None
        ends = [r.finished.finished_ns for r in results]
        assert ends == sorted(ends) and ends[-1] == self.loop.now_ns
        self.decisions += 1
        decision: Decision = self.policy.decide(request, results)
        return decision


ARRIVALS = st.lists(st.integers(0, 300), min_size=1, max_size=6).map(sorted)
POLICIES = st.builds(
    Vote,
    samples=st.integers(1, 6),
    early=st.booleans(),
    at_once=st.sampled_from([None, 1, 2]),
    members=st.sampled_from([("m",), ("m", "n"), ("n", "m", "k")]),
).filter(lambda vote: vote.at_once is None or vote.at_once <= vote.samples)


@settings(max_examples=60, deadline=None)
@given(ARRIVALS, POLICIES, st.integers(0, 10_000), st.booleans())
def test_calls_end_exactly_once_and_time_runs_forwards(
    arrivals: list[int], vote: Vote, seed: int, broken_cancel: bool
) -> None:
    service = Fifo(broken_cancel=broken_cancel)
    policy = Watched(vote)
    loop = policy.loop = PolicyLoop(policy, pool("m", "n", "k"), service, ToyWorld(), seed=seed)
    for request in requests(*arrivals):
        loop.submit(request)
    served: list[ServedRequest] = []
    instants = [0]
    while len(served) < len(arrivals):
        now, over = loop.advance()
        assert over and all(one.finished_ns == now for one in over)
        served += over
        instants.append(now)
    assert loop.advance()[1] == ()  # runs what was left to the end
    assert instants == sorted(set(instants))

    # Every submitted call ended once: in the service's books and in the results.
    submitted = [id for id, _ in service.submitted]
    ended = [c.call_id for c in service.finished] + list(service.cancelled)
    assert sorted(ended) == sorted(set(submitted)) == sorted(submitted)
    reported = [r.finished.call_id for s in served for r in s.results]
    cancelled = [c.finished.call_id for s in served for c in s.cancelled]
    left = [c.id for s in served for c in s.left_running]
    assert sorted(reported + cancelled + left) == sorted(submitted)
    assert sorted(cancelled) == sorted(service.cancelled)
    assert not broken_cancel or not cancelled
    assert broken_cancel or not left
    assert policy.decisions <= len(reported)
    _check_the_servers_never_rest_while_calls_wait(service)


def _check_the_servers_never_rest_while_calls_wait(service: Fifo) -> None:
    at = dict(service.submitted)
    for model in ("m", "n", "k"):
        spans = sorted((start, end, id) for m, id, start, end in service.spans if m == model)
        free = 0
        for start, end, id in spans:
            assert start == max(free, at[id]) and end >= start
            free = end


def test_at_one_instant_finishes_come_before_arrivals_and_stages() -> None:
    seen: list[str] = []

    class Tell(OneCall):
        def plan(self, request: Request, pool: Pool) -> ServePlan:
            seen.append(f"plan {request.id}, {pool.member('m').outstanding_calls} outstanding")
            return super().plan(request, pool)

        def decide(self, request: Request, results: Sequence[CallResult]) -> Decision:
            seen.append(f"decide {request.id}")
            return super().decide(request, results)

    stage = Stage(id="fetch", kind="retrieval", seconds=100e-9)
    staged = Request(
        id="s", arrival_ns=0, nodes=(stage, call("call", 1)), edges=(("fetch", "call"),)
    )
    plain = [
        Request(id="a", arrival_ns=0, nodes=(call("call", 10),)),
        Request(id="b", arrival_ns=100, nodes=(call("call", 10),)),
    ]
    serve([staged, *plain], Tell(), M, Fifo())
    assert seen[:4] == [
        "plan a, 0 outstanding", "decide a", "plan s/call, 0 outstanding", "plan b, 1 outstanding",
    ]  # fmt: skip


def test_a_call_without_length_ends_before_the_next_arrival_of_its_instant() -> None:
    policy = Plan((call("c", 0),))
    loop = PolicyLoop(policy, M, Fifo(), LengthsOnly())
    for request in requests(5, 5):
        loop.submit(request)
    now, served = loop.advance()
    assert (now, [one.request.id for one in served]) == (5, ["r0", "r1"])
    outstanding = [shown.member("m").outstanding_calls for _, shown in policy.planned]
    assert outstanding == [0, 0]


# --- cancel --------------------------------------------------------------------------------------


def test_a_decision_cancels_what_is_outstanding_and_frees_the_server() -> None:
    policy = Plan((call("a", 1), call("b", 50), call("c", 50)))
    service = Fifo()
    first, second = serve(requests(0, 5), policy, M, service)
    assert (first.answer, first.finished_ns) == ("1", 10)
    ended = [(c.finished.call_id, c.finished.finished_ns, c.finish_reason) for c in first.cancelled]
    assert ended == [
        ("r0/b", 10, "cancelled"), ("r0/c", 10, "cancelled"),
    ]  # fmt: skip
    assert times(second) == {"a": (10, 20)}  # not at 1010, when b and c would have ended
    assert not {c.call_id for c in service.finished} & set(service.cancelled)


def test_done_without_cancel_lets_calls_run_on_unread() -> None:
    policy = Plan((call("a", 1), call("b", 50)), [Done(answer="x", cancel=False)])
    service = Fifo()
    first, second = serve(requests(0, 5), policy, M, service)
    assert (first.finished_ns, first.cancelled) == (10, ())
    assert [(c.id, c.output_tokens) for c in first.left_running] == [("r0/b", 50)]
    assert times(second)["a"] == (510, 520)
    assert len(policy.shown[0]) == 1 and all(len(shown) == 1 for shown in policy.shown)
    assert {c.call_id for c in service.finished} == {"r0/a", "r0/b", "r1/a"}


def test_a_call_that_ends_with_the_deciding_one_is_spent_but_not_read() -> None:
    policy = Plan((call("b", 3, "n"), call("a", 3, "m")))
    service = Fifo()
    served = serve(requests(0), policy, pool("m", "n"), service)[0]
    # Equal instants go by order of submission, not by name.
    assert [[r.call.id for r in shown] for shown in policy.shown] == [["b"]]
    assert [r.call.id for r in served.results] == ["b", "a"]
    assert served.cancelled == () and served.left_running == () and not service.cancelled


# --- graphs --------------------------------------------------------------------------------------


def graph() -> Request:
    nodes = (
        Stage(id="look", kind="retrieval", seconds=40e-9),
        call("left", 2, "a"),
        call("right", 6, "b"),
        call("join", 1, "a"),
        Stage(id="act", kind="acting", seconds=5e-9),
    )
    edges = (
        ("look", "left"),
        ("look", "right"),
        ("left", "join"),
        ("right", "join"),
        ("join", "act"),
    )
    return Request(
        id="g", arrival_ns=100, nodes=nodes, edges=edges, deadline_ns=214, reference_answer="42"
    )


def test_a_node_starts_when_all_it_waits_for_is_over() -> None:
    served = serve([graph()], OneCall(), pool("a", "b"), Fifo())[0]
    assert [(n.id, n.kind, n.ready_ns, n.finished_ns) for n in served.nodes] == [
        ("look", "retrieval", 100, 140),
        ("left", "call", 140, 160),
        ("right", "call", 140, 200),
        ("join", "call", 200, 210),
        ("act", "acting", 210, 215),
    ]
    assert served.finished_ns == 215 and served.seconds == pytest.approx(115e-9)


def test_a_missed_deadline_is_recorded_and_a_met_one_is_not() -> None:
    assert serve([graph()], OneCall(), pool("a", "b"), Fifo())[0].missed_deadline
    in_time = graph().replace(deadline_ns=215)
    assert not serve([in_time], OneCall(), pool("a", "b"), Fifo())[0].missed_deadline
    assert not serve(requests(0), Plan((call("c", 9),)), M, Fifo())[0].missed_deadline


def test_the_policy_sees_one_call_at_a_time_and_never_the_reference_answer() -> None:
    policy = Plan((call("x", 1, "a"),))
    served = serve([graph()], policy, pool("a", "b"), Fifo())[0]
    seen = [(request.id, request.arrival_ns, request.call.id) for request, _ in policy.planned]
    assert seen == [("g/left", 140, "left"), ("g/right", 140, "right"), ("g/join", 160, "join")]
    assert all(request.reference_answer is None for request, _ in policy.planned)
    assert all(request.deadline_ns == 214 for request, _ in policy.planned)
    assert served.request.reference_answer == "42"


def test_nodes_answered_without_a_call_start_each_follower_once() -> None:
    served = serve([graph()], Plan((), done=Done(answer="known")), pool("a", "b"), Fifo())[0]
    assert [n.id for n in served.nodes] == ["look", "left", "right", "join", "act"]
    first = Request(id="f", arrival_ns=0, nodes=(call("a", 1), call("b", 1)), edges=(("a", "b"),))
    assert [n.id for n in serve([first], Plan((), done=Done()), M, Fifo())[0].nodes] == ["a", "b"]
    assert served.answer == "known" and served.results == ()


def test_a_stage_without_seconds_needs_someone_who_times_it() -> None:
    request = Request(id="r", arrival_ns=0, nodes=(Stage(id="s", kind="tool"),))
    with pytest.raises(InputError, match=r"stage 's' \(tool\) of request 'r' has no seconds"):
        serve([request], OneCall(), M, Fifo())
    served = serve([request], OneCall(), M, Fifo(), stage_seconds=lambda stage: 2e-9)[0]
    assert served.finished_ns == 2 and served.answer is None


# --- one request causes the next -----------------------------------------------------------------


def test_a_closed_loop_submits_the_next_request_at_the_answer() -> None:
    loop = PolicyLoop(OneCall(), M, Fifo(), LengthsOnly())
    ends = []
    loop.submit(Request(id="0", arrival_ns=3, nodes=(call("call", 2),)))
    for step in range(1, 4):
        now, (served,) = loop.advance()
        assert served.finished_ns == now == loop.now_ns
        ends.append(now)
        loop.submit(Request(id=str(step), arrival_ns=now, nodes=(call("call", 2),)))
    assert ends == [23, 43, 63]
    assert loop.advance(70) == (70, ())
    with pytest.raises(InputError, match="arrives at 69 ns, but it is 70 ns already"):
        loop.submit(single("late", 69, 1))
    with pytest.raises(InputError, match="69 ns has passed"):
        loop.advance(69)


def test_a_plan_sees_outstanding_work_by_member() -> None:
    class All(Plan):
        def decide(self, request: Request, results: Sequence[CallResult]) -> Decision:
            return Wait() if len(results) < len(self.calls) else Done()

    policy = All((call("a", 10, "m"), call("b", 10, "n"), call("c", 10, "m")))
    serve(requests(0, 5, 105), policy, pool("m", "n"), Fifo())
    seen = [
        tuple((m.outstanding_calls, m.outstanding_prompt_tokens) for m in shown.members)
        for _, shown in policy.planned
    ]
    # At 105 ns a and b of the first request have ended.
    assert seen == [((0, 0), (0, 0)), ((2, 10), (1, 5)), ((3, 15), (1, 5))]


def test_vote_needs_no_luck_to_be_lossless() -> None:
    # A tie that the outstanding call can still make must not be settled early.
    request = requests(0)[0]
    results = serve([request], Vote(early=False), M, Fifo(), ToyWorld(), seed=0)[0].results
    two = [r.model_copy(update={"answer": a}) for r, a in zip(results, "BBA", strict=False)]
    assert replace(Vote(), samples=4).decide(request, two) == Wait()
    assert replace(Vote(), samples=3).decide(request, two) == Done(answer="B")
