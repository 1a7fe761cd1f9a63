"""The cluster as a `CallService`: others' model calls run inside the simulation, causally."""

from __future__ import annotations

from collections.abc import Mapping

from crosslayer.contracts.calls import LAST_NS, LLMCall
from crosslayer.contracts.serving import FinishedCall
from crosslayer.errors import InputError
from hermes_sim.calls import FAILED, Call
from hermes_sim.cluster import Cluster
from hermes_sim.events import ARRIVE, BEGIN


class HermesService:
    """A `CallService`. `call.model` names a group of the cluster; None: the only one.

    books: gets (cached prompt tokens, preemptions) of every call that has ended, by its id. ranks:
    of requests, by id; a call's id begins with that of its request.
    """

    def __init__(
        self, cluster: Cluster, books: dict[str, tuple[int, int]] | None = None,
        ranks: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.cluster, self.books = cluster, books
        self.ranks = {} if ranks is None else ranks
        self.now_ns = 0
        self._events = cluster.events
        self._events.stepwise = True
        self._open: dict[str, tuple[Call, int]] = {}
        self._finished: list[FinishedCall] = []
        self._row = 0
        cluster.ended = self._ended

    def submit(self, call: LLMCall, at_ns: int) -> None:
        """Errors: InputError for an instant that has passed, an id in use, a length that is not
        known, or a model that nobody serves.
        """
        if at_ns < self.now_ns:
            raise InputError(
                f"call {call.id!r} comes at {at_ns} ns, but it is {self.now_ns} ns already"
            )
        if call.id in self._open:
            raise InputError(f"call id {call.id!r} is in use")
        if call.output_tokens is None:
            raise InputError(
                f"call {call.id!r} has no output_tokens, so nothing says how long it takes"
            )
        if call.prompt_tokens < 1:
            raise InputError(f"call {call.id!r} has no prompt; prompt_tokens must be at least 1")
        group = self.cluster.group(call.model)
        made = Call(self._row, at_ns, call.prompt_tokens, call.output_tokens)
        self._row += 1
        made.id = call.id
        made.rank = self._rank(call.id)
        if call.prefix is not None:
            made.chunks, made.chunk_tokens = call.prefix.hashes, call.prefix.block_tokens
        self._open[call.id] = (made, at_ns)
        self._events.push(at_ns, ARRIVE, self._arrive, (made, group))

    def _rank(self, id: str) -> int:
        while self.ranks and id and id not in self.ranks:
            id = id.rpartition("/")[0]
        return self.ranks.get(id, 0)

    def cancel(self, call_id: str) -> bool:
        """Whether the call was open and will now never be reported."""
        call, _ = self._open.pop(call_id, (None, 0))
        if call is None:
            return False
        if call.decode_client < 0:
            call.cancelled = True  # it has not arrived
        else:
            self._events.now_ns = max(self._events.now_ns, self.now_ns)
            self.cluster.cancel(call, self.now_ns)
        return True

    def made_tokens(self, call_id: str) -> int:
        """Output tokens of an open call by now; 0 of any other."""
        call, _ = self._open.get(call_id, (None, 0))
        return 0 if call is None else self.cluster.made(call, self.now_ns)

    def advance(self, until_ns: int) -> tuple[int, tuple[FinishedCall, ...]]:
        """(now, what finished at now): the first instant with a finish, else `until_ns`.

        Steps that begin at `until_ns` do so with the next call of this: until then others may
        submit what arrives at that instant, and it joins them.
        """
        events = self._events
        heap = events.heap
        while heap and heap[0][:2] < (until_ns, BEGIN):
            if not events.run_instant():
                events.run_begins()
            if self._finished:
                self.now_ns = events.now_ns
                finished, self._finished = tuple(self._finished), []
                return self.now_ns, finished
        self.now_ns = min(until_ns, LAST_NS)
        return self.now_ns, ()

    def _arrive(self, now: int, what: tuple[Call, str]) -> None:
        call, group = what
        if not call.cancelled:
            self.cluster.submit(call, now, group)

    def _ended(self, call: Call, now: int, status: int, reason: str) -> None:
        if self.books is not None:
            self.books[call.id] = (call.cached_tokens, call.preemptions)
        entry = self._open.pop(call.id, None)
        if entry is None:
            return  # cancelled
        failed = status == FAILED
        names = self.cluster.clients
        self._finished.append(
            FinishedCall(
                call_id=call.id,
                submitted_ns=entry[1],
                started_ns=call.started_ns if call.started_ns >= 0 else None,
                first_token_ns=call.first_ns if call.first_ns >= 0 else None,
                finished_ns=now,
                output_tokens=call.generated,
                instance=names[call.decode_client].name if call.decode_client >= 0 else "",
                status="failed" if failed else "finished",
                reason=reason,
            )
        )
