"""Who breaks the rules of the policy loop is named: policies, services, requests."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from toy_serving import Fifo, M, Plan, ToyWorld, call, pool, requests

from crosslayer.contracts.requests import LLMCall, single
from crosslayer.contracts.serving import (
    Done,
    FinishedCall,
    More,
    Wait,
)
from crosslayer.errors import ComponentError, InputError
from crosslayer.kinds import Stack
from crosslayer.serve import serve


def test_an_unknown_member_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"call 'c' of request 'r0' names 'qwenn'.*'qwen'"):
        serve(requests(0), Plan((call("c", 1, "qwenn"),)), pool("qwen", "llama"), Fifo())
    with pytest.raises(InputError, match="names None"):
        serve(requests(0), Plan((LLMCall(prompt_tokens=1),)), pool("qwen", "llama"), Fifo())


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Plan(()), "plan for request 'r0' has no calls and no answer"),
        (Plan((call("c", 1),), done=Done()), "has calls and an answer"),
        (Plan((call("c", 1), call("c", 1))), "call id 'c' of request 'r0' is used twice"),
        (Plan((call("c", 1),), [More(calls=(call("c", 1),))]), "'c' of request 'r0' is used twice"),
        (Plan((call("c", 1),), [Wait()]), "waits on request 'r0', which has no call outstanding"),
        (Plan((call("c", 1),), ["done"]), "decided 'done' on request 'r0'"),  # type: ignore[list-item]
    ],
)
def test_a_policy_that_cannot_come_to_an_answer_is_an_error(policy: Plan, said: str) -> None:
    with pytest.raises(ComponentError, match=said):
        serve(requests(0), policy, M, Fifo())


@dataclass
class Broken(Fifo):
    """A FIFO service with one defect."""

    defect: str = ""

    def advance(self, until_ns: int) -> tuple[int, tuple[FinishedCall, ...]]:
        if self.defect == "never":
            return until_ns, ()
        if self.defect == "early":
            return until_ns - 1, ()
        now, finished = super().advance(until_ns)
        if not finished:
            return now, finished
        if self.defect == "beyond":
            return until_ns + 1, finished
        if self.defect == "twice":
            return now, finished * 2
        if self.defect == "stranger":
            return now, tuple(c.replace(call_id="stranger") for c in finished)
        return now, tuple(c.replace(finished_ns=c.finished_ns + 1) for c in finished)


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("never", "finishes none of the calls 'r0/a', 'r0/b', 'r1/a', 'r1/b'"),
        ("early", "stopped at -1 ns, before 0 ns, with no finished call"),
        ("beyond", "went from 0 ns to 1001 ns; it may go to 1000 ns"),
        ("twice", "reports call 'r0/a', which is not running"),
        ("stranger", "reports call 'stranger', which is not running"),
        ("dated", "reports call 'r0/a' at 10 ns as submitted at 0 and finished at 11"),
    ],
)
def test_a_service_that_breaks_its_contract_is_named(defect: str, said: str) -> None:
    with pytest.raises(ComponentError, match=said):
        policy = Plan((call("a", 1), call("b", 1)))
        serve(requests(0, 1000), policy, M, Broken(defect=defect))


def test_a_cancelled_call_that_reports_after_all_is_an_error() -> None:
    @dataclass
    class Deaf(Fifo):
        def cancel(self, call_id: str) -> bool:
            return True

    with pytest.raises(ComponentError, match="'r0/b', which is not running"):
        serve(requests(0, 500), Plan((call("a", 1), call("b", 1))), M, Deaf())


def test_a_failed_call_is_shown_to_the_policy_without_words() -> None:
    class Full(Fifo):
        def advance(self, until_ns: int) -> tuple[int, tuple[FinishedCall, ...]]:
            now, finished = super().advance(until_ns)
            return now, tuple(
                c.replace(status="failed", reason="larger than the KV cache", output_tokens=0,
                          started_ns=None, first_token_ns=None)
                for c in finished
            )  # fmt: skip

    policy = Plan((call("a", 4),))
    result = serve(requests(0), policy, M, Full(), ToyWorld())[0].results[0]
    assert (result.text, result.answer, result.output_tokens) == (None, None, 0)
    assert result.finish_reason == "failed" and "KV cache" in result.finished.reason


def test_unsorted_requests_and_ids_used_twice_are_refused() -> None:
    with pytest.raises(InputError, match=r"'r1' arrives at 3 ns.*sort the trace"):
        serve(requests(5, 3), Plan((call("c", 1),)), M, Fifo())
    with pytest.raises(InputError, match="request id 'x' is used twice"):
        serve([single("x", 0, 1), single("x", 0, 1)], Plan((call("c", 1),)), M, Fifo())


def test_without_a_policy_each_call_goes_to_its_member_or_the_only_one() -> None:
    served = Stack().serve([single("r", 0, 5, 7)], Fifo(), pool=M)[0]
    assert served.results[0].call.model == "m" and served.finished_ns == 70
    with pytest.raises(InputError, match=r"'r' names no model and the pool has m, n"):
        Stack().serve([single("r", 0, 5, 7)], Fifo(), pool=pool("m", "n"))
    with pytest.raises(InputError, match=r"call 'call' has no output_tokens"):
        Stack().serve([single("r", 0, 5)], Fifo(), pool=M)
    with pytest.raises(InputError, match="no instance"):
        Stack().serve([], Fifo())
