"""The policy loop: plans to calls, calls to a service, decisions after every finished call.

Each model call of a request is a turn of the policy: `plan` at the instant the call's dependencies
are over, `decide` after each of its finished calls, with the results so far in order of finishing.
The service decides when a call ends, the backend what it says; a policy sees neither before the
call has ended.

At one instant finished calls come first, then ends of stages and arrivals; equals go by order of
arrival of their requests, then by order of submission.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crosslayer.contracts.calls import LAST_NS, LLMCall, Request, Stage, nanoseconds
from crosslayer.contracts.serving import (
    Answer,
    CallResult,
    Done,
    FinishedCall,
    More,
    NodeTimes,
    Pool,
    ServedRequest,
    Wait,
)
from crosslayer.errors import ComponentError, InputError, nearest

if TYPE_CHECKING:
    from crosslayer.kinds import CallService, ServingPolicy
    from crosslayer.serve import Backend


def call_seed(seed: int, id: str) -> int:
    """The seed that a run's backend gets for one call, 31 bits, which is what some endpoints take;
    id: "<request id>/<call id>".
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{id}".encode()).digest()[:4], "big") >> 1


@dataclass
class _Job:
    """A request on its way."""

    request: Request
    order: int
    waits: dict[str, int]
    followers: dict[str, list[str]]
    ready_ns: dict[str, int] = field(default_factory=dict)
    nodes: list[NodeTimes] = field(default_factory=list)
    results: list[CallResult] = field(default_factory=list)
    cancelled: list[CallResult] = field(default_factory=list)
    open: dict[str, None] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # ids of its calls


@dataclass
class _Turn:
    """One model call of a request, in the policy's hands."""

    job: _Job
    node: str
    part: Request
    results: list[CallResult] = field(default_factory=list)
    open: dict[str, None] = field(default_factory=dict)
    unread: int = 0  # calls whose results the policy has yet to see
    over: bool = False


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A call that the service has. `call` as the policy wrote it, `sent` as the service got it."""

    turn: _Turn
    call: LLMCall
    sent: LLMCall
    said: Answer
    at_ns: int
    number: int


class PolicyLoop:
    """Serves requests one by one: for simulations where an answer causes the next request.

    `submit` takes requests at or after `now_ns`; `advance` stops at the first instant a request is
    over. stage_seconds: times stages (default: their own `seconds`).
    """

    def __init__(
        self,
        policy: ServingPolicy,
        pool: Pool,
        service: CallService,
        backend: Backend,
        *,
        seed: int = 0,
        stage_seconds: Callable[[Stage], float | None] = lambda stage: stage.seconds,
    ) -> None:
        self.now_ns = 0
        self._policy, self._pool, self._service = policy, pool, service
        self._backend = backend
        self._seed, self._stage_seconds = seed, stage_seconds
        # (instant, order of the job, number, job, the stage that ends; None: the job arrives)
        self._events: list[tuple[int, int, int, _Job, str | None]] = []
        self._open: dict[str, _Submitted] = {}
        self._load = {name: [0, 0] for name in pool.names}
        self._over: list[_Job] = []
        self._numbers = 0

    def submit(self, request: Request) -> None:
        """Take a request. Errors: InputError if it arrives before `now_ns`."""
        if request.arrival_ns < self.now_ns:
            raise InputError(
                f"request {request.id!r} arrives at {request.arrival_ns} ns, but it is"
                f" {self.now_ns} ns already"
            )
        before = request.before
        followers: dict[str, list[str]] = {node.id: [] for node in request.nodes}
        for node in request.nodes:
            for first in before[node.id]:
                followers[first].append(node.id)
        waits = {name: len(first) for name, first in before.items()}
        job = _Job(request, self._number(), waits, followers)
        heapq.heappush(self._events, (request.arrival_ns, job.order, job.order, job, None))

    def advance(self, until_ns: int = LAST_NS) -> tuple[int, tuple[ServedRequest, ...]]:
        """(now, requests over at now); none only when `until_ns` is reached or nothing is left.

        Errors: ComponentError when the service breaks its contract or can finish no outstanding
        call, or when the policy can never come to an answer.
        """
        if until_ns < self.now_ns:
            raise InputError(f"it is {self.now_ns} ns already; {until_ns} ns has passed")
        over: list[ServedRequest] = []
        while True:
            event_ns = self._events[0][0] if self._events else LAST_NS
            bound = min(until_ns, event_ns)
            if self._open or bound < LAST_NS:
                if self._run_service(bound):
                    over += self._take_over()
                    until_ns = self.now_ns if over else until_ns  # the rest of this instant
                    continue
                self.now_ns = bound
            if event_ns > until_ns or not self._events:
                return self.now_ns, tuple(over)
            self._happen()
            over += self._take_over()
            until_ns = self.now_ns if over else until_ns

    def _run_service(self, bound_ns: int) -> bool:
        """Let the service run up to the first finish; whether there was one."""
        now, finished = self._service.advance(bound_ns)
        if not finished:
            if bound_ns == LAST_NS:
                raise ComponentError(
                    f"the service finishes none of the calls {', '.join(map(repr, self._open))};"
                    " nothing else is left to happen"
                )
            if now != bound_ns:
                raise ComponentError(
                    f"the service stopped at {now} ns, before {bound_ns} ns, with no finished call"
                )
            return False
        if not self.now_ns <= now <= bound_ns:
            raise ComponentError(
                f"the service went from {self.now_ns} ns to {now} ns; it may go to {bound_ns} ns"
            )
        self.now_ns = now
        ended = []
        for call in finished:
            ended.append((self._known(call), call))
            self._close(ended[-1][0])
        ended.sort(key=lambda pair: (pair[0].turn.job.order, pair[0].number))
        for submitted, call in ended:
            self._finish(submitted, call)
        return True

    def _known(self, call: FinishedCall) -> _Submitted:
        submitted = self._open.get(call.call_id)
        if submitted is None or call.cancelled:
            raise ComponentError(
                f"the service reports call {call.call_id!r}, which is not running:"
                " it has ended, was cancelled, or was never submitted"
            )
        if call.finished_ns != self.now_ns or call.submitted_ns != submitted.at_ns:
            raise ComponentError(
                f"the service reports call {call.call_id!r} at {self.now_ns} ns as submitted at"
                f" {call.submitted_ns} and finished at {call.finished_ns}; it was submitted at"
                f" {submitted.at_ns}"
            )
        return submitted

    def _happen(self) -> None:
        _, _, _, job, stage = heapq.heappop(self._events)
        if stage is not None:
            self._node_over(job, stage, None)
            return
        for node in [node for node in job.request.nodes if not job.waits[node.id]]:
            self._start(job, node)

    def _start(self, job: _Job, node: LLMCall | Stage) -> None:
        job.ready_ns[node.id] = self.now_ns
        if isinstance(node, Stage):
            seconds = self._stage_seconds(node)
            if seconds is None:
                raise InputError(
                    f"stage {node.id!r} ({node.kind}) of request {job.request.id!r} has no seconds;"
                    " give it some, or use a simulator that times such stages"
                )
            at = self.now_ns + nanoseconds(seconds)
            if at > LAST_NS:
                raise InputError(f"stage {node.id!r} ends at {at} ns, after the end of time")
            heapq.heappush(self._events, (at, job.order, self._number(), job, node.id))
            return
        request = job.request
        part = request if len(request.nodes) == 1 else request.part(node, self.now_ns)
        if part.reference_answer is not None:  # for evaluators; a policy never sees it
            part = part.model_copy(update={"reference_answer": None})
        turn = _Turn(job, node.id, part)
        plan = self._policy.plan(part, self._pool_now())
        if plan.done is not None and not plan.calls:
            self._decided(turn, plan.done)
        elif plan.calls and plan.done is None:
            self._submit(turn, plan.calls)
        else:
            what = "calls and an answer" if plan.calls else "no calls and no answer"
            raise ComponentError(f"the policy's plan for request {part.id!r} has {what}")

    def _submit(self, turn: _Turn, calls: Iterable[LLMCall]) -> None:
        for call in calls:
            id = f"{turn.part.id}/{call.id}"
            if call.model not in self._load:
                hint = nearest(call.model or "", self._load)
                raise InputError(
                    f"call {call.id!r} of request {turn.part.id!r} names {call.model!r},"
                    f" which is no member of the pool; {hint}"
                )
            if id in turn.job.used or id in self._open:
                raise ComponentError(
                    f"call id {call.id!r} of request {turn.part.id!r} is used twice; every call"
                    " needs an id of its own (`call.to(member, sample)` makes one)"
                )
            turn.job.used.add(id)
            said = self._backend.answer(call, call_seed(self._seed, id))
            prompt = call.prompt_tokens if said.prompt_tokens is None else said.prompt_tokens
            lengths = {"prompt_tokens": prompt, "output_tokens": said.output_tokens}
            sent = call.model_copy(update={"id": id, **lengths})
            self._open[id] = _Submitted(turn, call, sent, said, self.now_ns, self._number())
            turn.open[id] = turn.job.open[id] = None
            turn.unread += 1
            load = self._load[sent.model or ""]
            load[0] += 1
            load[1] += prompt
            self._service.submit(sent, self.now_ns)

    def _close(self, submitted: _Submitted) -> None:
        """The call is no longer outstanding."""
        id = submitted.sent.id
        del self._open[id], submitted.turn.open[id], submitted.turn.job.open[id]
        load = self._load[submitted.sent.model or ""]
        load[0] -= 1
        load[1] -= submitted.sent.prompt_tokens

    def _finish(self, submitted: _Submitted, call: FinishedCall) -> None:
        turn, said = submitted.turn, submitted.said
        failed = call.status == "failed"
        result = CallResult(
            call=submitted.call,
            finished=call,
            prompt_tokens=submitted.sent.prompt_tokens,
            output_tokens=call.output_tokens if failed else said.output_tokens,
            text=None if failed else said.text,
            answer=None if failed else said.answer,
            finish_reason="failed" if failed else said.finish_reason,
        )
        turn.job.results.append(result)
        if turn.over:
            return  # it ended too late to be read; its tokens are spent all the same
        turn.unread -= 1
        turn.results.append(result)
        decision = self._policy.decide(turn.part, tuple(turn.results))
        if isinstance(decision, Done):
            self._decided(turn, decision)
        elif isinstance(decision, More):
            self._submit(turn, decision.calls)
        elif not isinstance(decision, Wait):
            raise ComponentError(
                f"the policy decided {decision!r} on request {turn.part.id!r};"
                " Wait, More or Done is needed"
            )
        elif not turn.unread:
            raise ComponentError(
                f"the policy waits on request {turn.part.id!r}, which has no call outstanding"
            )

    def _decided(self, turn: _Turn, done: Done) -> None:
        turn.over = True
        for id in tuple(turn.open) if done.cancel else ():
            submitted = self._open[id]
            made = getattr(self._service, "made_tokens", lambda _: 0)(id)
            if self._service.cancel(id):
                self._close(submitted)
                ended = FinishedCall(
                    call_id=id,
                    submitted_ns=submitted.at_ns,
                    finished_ns=self.now_ns,
                    output_tokens=made,
                    status="cancelled",
                )
                result = CallResult(
                    call=submitted.call,
                    finished=ended,
                    prompt_tokens=submitted.sent.prompt_tokens,
                    output_tokens=made,
                    finish_reason="cancelled",
                )
                turn.job.cancelled.append(result)
        self._node_over(turn.job, turn.node, done.answer)

    def _node_over(self, job: _Job, name: str, answer: str | None) -> None:
        nodes = {node.id: node for node in job.request.nodes}
        node = nodes[name]
        kind = node.kind if isinstance(node, Stage) else "call"
        job.nodes.append(
            NodeTimes(
                id=name,
                kind=kind,
                ready_ns=job.ready_ns[name],
                finished_ns=self.now_ns,
                answer=answer,
            )
        )
        if len(job.nodes) == len(nodes):
            self._over.append(job)
        for follower in job.followers[name]:
            job.waits[follower] -= 1
            if not job.waits[follower]:
                self._start(job, nodes[follower])

    def _take_over(self) -> list[ServedRequest]:
        """The requests that are over, complete with all that ended at this instant."""
        over = [
            ServedRequest(
                request=job.request,
                finished_ns=self.now_ns,
                nodes=tuple(job.nodes),
                results=tuple(job.results),
                cancelled=tuple(job.cancelled),
                left_running=tuple(self._open[id].sent for id in job.open),
            )
            for job in self._over
        ]
        self._over.clear()
        return over

    def _pool_now(self) -> Pool:
        members = tuple(
            member.model_copy(
                update={
                    "outstanding_calls": self._load[member.name][0],
                    "outstanding_prompt_tokens": self._load[member.name][1],
                }
            )
            for member in self._pool.members
        )
        return self._pool.model_copy(update={"members": members})

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers
