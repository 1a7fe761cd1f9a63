"""Serve requests with a policy: the whole of a trace at once. `PolicyLoop` takes them one by
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from crosslayer.contracts.calls import LAST_NS, LLMCall, Request, Stage, in_order_of_arrival
from crosslayer.contracts.serving import (
    Answer,
    CallResult,
    Decision,
    Done,
    Pool,
    ServedRequest,
    ServePlan,
)
from crosslayer.errors import InputError
from crosslayer.policy_loop import PolicyLoop

if TYPE_CHECKING:
    from crosslayer.kinds import CallService, ServingPolicy


class Backend(Protocol):
    """What calls say: equal call and seed, equal answer. Every call of a run has its own seed."""

    def answer(self, call: LLMCall, seed: int) -> Answer: ...


class LengthsOnly:
    """The backend without words: each call is as long as it says itself."""

    def answer(self, call: LLMCall, seed: int) -> Answer:
        """Errors: InputError for a call whose output_tokens is None."""
        if call.output_tokens is None:
            raise InputError(
                f"call {call.id!r} has no output_tokens; give the trace lengths,"
                " or serve with a backend"
            )
        return Answer(output_tokens=call.output_tokens)


class OneCall:
    """The policy of a stack without one: each call goes to its member, or to the only one."""

    def plan(self, request: Request, pool: Pool) -> ServePlan:
        """The request's own call. Errors: InputError if it must choose a member."""
        call = request.call
        if call.model is None:
            if len(pool.members) > 1:
                raise InputError(
                    f"request {request.id!r} names no model and the pool has"
                    f" {', '.join(pool.names)}; add a policy that chooses"
                )
            call = call.model_copy(update={"model": pool.members[0].name})
        return ServePlan(calls=(call,))

    def decide(self, request: Request, results: Sequence[CallResult]) -> Decision:
        """What the call said."""
        return Done(answer=results[-1].answer if results[-1].text is None else results[-1].text)


def serve(
    requests: Iterable[Request],
    policy: ServingPolicy,
    pool: Pool,
    service: CallService,
    backend: Backend | None = None,
    *,
    seed: int = 0,
    stage_seconds: Callable[[Stage], float | None] = lambda stage: stage.seconds,
) -> tuple[ServedRequest, ...]:
    """Serve requests (a trace, or any in order of arrival) to the end; the results are in that
    order.

    backend None: lengths only. Errors: InputError for the requests, for calls to no member of the
    pool; ComponentError for a policy or service that breaks its contract (see `PolicyLoop`).
    """
    loop = PolicyLoop(
        policy, pool, service, backend or LengthsOnly(), seed=seed, stage_seconds=stage_seconds
    )
    order: list[str] = []

    def noted() -> Iterator[Request]:
        for request in requests:
            order.append(request.id)
            yield request

    served = {one.request.id: one for one in serve_each(noted(), loop)}
    return tuple(served[id] for id in order)


def serve_each(
    requests: Iterable[Request], loop: PolicyLoop, until_ns: int = LAST_NS
) -> Iterator[ServedRequest]:
    """Serve requests (in order of arrival) to the end, or to an instant, and give each away when it
    is over: for more of them than memory holds.
    """
    for request in in_order_of_arrival(requests):
        if request.arrival_ns > until_ns:
            break
        yield from _run(loop, request.arrival_ns)
        loop.submit(request)
    yield from _run(loop, until_ns)


def _run(loop: PolicyLoop, until_ns: int) -> Iterator[ServedRequest]:
    """All requests that are over by `until_ns`."""
    while True:
        _, over = loop.advance(until_ns)
        if not over:
            return
        yield from over
