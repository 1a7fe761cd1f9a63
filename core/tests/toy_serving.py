"""A toy world: models that answer by seed, a FIFO service, and policies that vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from crosslayer.contracts.requests import LLMCall, Request, single
from crosslayer.contracts.serving import (
    Answer,
    CallResult,
    Decision,
    Done,
    FinishedCall,
    More,
    Pool,
    PoolMember,
    ServedRequest,
    ServePlan,
    Wait,
)

ANSWERS = "ABCD"


def pool(*names: str) -> Pool:
    return Pool(members=tuple(PoolMember(name=name) for name in names))


class ToyWorld:
    """Answers and lengths drawn by seed; "A" is right and the likeliest."""

    def answer(self, call: LLMCall, seed: int) -> Answer:
        rng = np.random.default_rng(seed)
        letter = ANSWERS[int(rng.choice(len(ANSWERS), p=[0.4, 0.3, 0.2, 0.1]))]
        return Answer(output_tokens=int(rng.integers(1, 30)), text=f"so {letter}", answer=letter)


@dataclass
class _Waiting:
    call: LLMCall
    at_ns: int


@dataclass
class Fifo:
    """One server a model, first come first served, `token_ns` for each output token.

    broken_cancel: cancel says no and the call runs on, as with a service that cannot stop one.
    """

    token_ns: int = 10
    broken_cancel: bool = False
    now_ns: int = 0
    queues: dict[str, list[_Waiting]] = field(default_factory=dict)
    running: dict[str, FinishedCall] = field(default_factory=dict)
    busy: dict[str, tuple[str, int]] = field(default_factory=dict)  # model: (call, end)
    submitted: list[tuple[str, int]] = field(default_factory=list)
    finished: list[FinishedCall] = field(default_factory=list)
    cancelled: dict[str, int] = field(default_factory=dict)
    spans: list[tuple[str, str, int, int]] = field(default_factory=list)  # model, call, from, to

    def submit(self, call: LLMCall, at_ns: int) -> None:
        assert at_ns >= self.now_ns, "submitted into the past"
        assert call.output_tokens is not None and call.model is not None
        self.submitted.append((call.id, at_ns))
        self.queues.setdefault(call.model, []).append(_Waiting(call, at_ns))

    def cancel(self, call_id: str) -> bool:
        if self.broken_cancel:
            return False
        for queue in self.queues.values():
            for waiting in queue:
                if waiting.call.id == call_id:
                    queue.remove(waiting)
                    self.cancelled[call_id] = self.now_ns
                    return True
        for model, (running, _) in self.busy.items():
            if running == call_id:
                call = self.running.pop(call_id)
                self.spans.append((model, call_id, call.started_ns or 0, self.now_ns))
                del self.busy[model]
                self.cancelled[call_id] = self.now_ns
                return True
        return False

    def advance(self, until_ns: int) -> tuple[int, tuple[FinishedCall, ...]]:
        while True:
            self._start()
            later = [q[0].at_ns for m, q in self.queues.items() if q and m not in self.busy]
            instants = [end for _, end in self.busy.values()] + later
            if not instants or min(instants) > until_ns:
                self.now_ns = until_ns
                return until_ns, ()
            self.now_ns = min(instants)
            over = [(m, c) for m, (c, end) in self.busy.items() if end == self.now_ns]
            if over:
                # In any order, as a service may: here the last to start comes first.
                return self.now_ns, tuple(self._end(model, call) for model, call in over[::-1])

    def _start(self) -> None:
        for model, queue in self.queues.items():
            if queue and model not in self.busy and queue[0].at_ns <= self.now_ns:
                first = queue.pop(0)
                tokens = first.call.output_tokens or 0
                end = self.now_ns + self.token_ns * tokens
                self.busy[model] = (first.call.id, end)
                self.running[first.call.id] = FinishedCall(
                    call_id=first.call.id,
                    submitted_ns=first.at_ns,
                    started_ns=self.now_ns,
                    first_token_ns=min(self.now_ns + self.token_ns, end),
                    finished_ns=end,
                    output_tokens=tokens,
                    instance=model,
                )

    def _end(self, model: str, call_id: str) -> FinishedCall:
        call = self.running.pop(call_id)
        del self.busy[model]
        self.spans.append((model, call_id, call.started_ns or 0, self.now_ns))
        self.finished.append(call)
        return call


@dataclass(frozen=True)
class Vote:
    """`samples` calls, the members in turn; what is said most often wins, ties by the alphabet.

    early: stop as soon as no outcome of the outstanding calls can change the winner. at_once: how
    many calls to begin with (None: all); the rest follow one by one.
    """

    samples: int = 5
    early: bool = True
    at_once: int | None = None
    members: tuple[str, ...] = ("m",)

    def calls(self, request: Request) -> list[LLMCall]:
        names = [self.members[i % len(self.members)] for i in range(self.samples)]
        return [request.call.to(name, i) for i, name in enumerate(names)]

    def plan(self, request: Request, pool: Pool) -> ServePlan:
        return ServePlan(calls=tuple(self.calls(request)[: self.at_once]))

    def decide(self, request: Request, results: Sequence[CallResult]) -> Decision:
        votes = Counter(result.answer for result in results if result.answer is not None)
        winner, count = min(votes.items(), key=lambda item: (-item[1], item[0]))
        left = self.samples - len(results)
        rivals = [ANSWERS[0], *(answer for answer in votes if answer != winner)]
        rivals = [rival for rival in rivals if rival != winner]
        settled = all(
            votes[rival] + left < count or (votes[rival] + left == count and winner < rival)
            for rival in rivals
        )
        if left == 0 or (self.early and settled and left < count):
            return Done(answer=winner)
        if self.at_once is None or len(results) + self.at_once > self.samples:
            return Wait()
        return More(calls=(self.calls(request)[len(results) + self.at_once - 1],))


M = pool("m")


def requests(*arrivals: int) -> list[Request]:
    return [single(f"r{i}", at, prompt_tokens=5) for i, at in enumerate(arrivals)]


@dataclass
class Plan:
    """The calls and decisions given, whatever happens; keeps what it was shown."""

    calls: tuple[LLMCall, ...]
    decisions: list[Decision] = field(default_factory=list)
    done: Done | None = None
    planned: list[tuple[Request, Pool]] = field(default_factory=list)
    shown: list[tuple[CallResult, ...]] = field(default_factory=list)

    def plan(self, request: Request, pool: Pool) -> ServePlan:
        self.planned.append((request, pool))
        return ServePlan(calls=self.calls, done=self.done)

    def decide(self, request: Request, results: Sequence[CallResult]) -> Decision:
        self.shown.append(tuple(results))
        if self.decisions:
            return self.decisions.pop(0)
        return Done(answer=str(len(results)))


def call(id: str, tokens: int, model: str = "m") -> LLMCall:
    return LLMCall(id=id, model=model, prompt_tokens=5, output_tokens=tokens)


def times(served: ServedRequest) -> dict[str, tuple[int | None, int]]:
    return {r.call.id: (r.finished.started_ns, r.finished.finished_ns) for r in served.results}
