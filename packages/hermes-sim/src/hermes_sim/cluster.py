"""The coordinator: routes calls to clients, hands them from prefill to decode, keeps the books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crosslayer.contracts.calls import LONGEST_OUTPUT
from crosslayer.errors import InputError, nearest
from hermes_sim.calls import CANCELLED, DECODE_QUEUE, FAILED, FINISHED, HAND_OFF, Call, Ledger
from hermes_sim.client import Client
from hermes_sim.events import ARRIVE, Events
from hermes_sim.router import Choose

LONGEST_PROMPT = 1 << 24  # tokens; with more, chunk by chunk, a run would seem not to end
Ended = Callable[[Call, int, int, str], None]  # call, instant, status, reason


@dataclass(frozen=True)
class Group:
    """The clients of one pool member: those that take calls, and those that prefill hands over to
    (none: the same).
    """

    name: str
    takes: Sequence[Client]
    decodes: Sequence[Client] = ()


class Cluster:
    """Clients under one coordinator.

    ended: told of every call that ends, when, with which status, and why if it failed. hand_off:
    moves a call's keys and values from client to client and calls back when they are there; None:
    in no time. context_tokens: the longest call that is taken; None: what fits.
    """

    def __init__(
        self, events: Events, groups: Mapping[str, Group], choose: Choose, *,
        choose_decode: Choose | None = None, hand_off: Any = None, tiers: Any = None,
        context_tokens: int | None = None,
    ) -> None:  # fmt: skip
        self.events, self.groups, self.choose = events, groups, choose
        self.choose_decode = choose_decode or choose
        self.hand_off, self.tiers, self.context_tokens = hand_off, tiers, context_tokens
        self.clients: list[Client] = []
        self.ledger = Ledger()
        self.ended: Ended | None = None
        self.reasons: Counter[str] = Counter()
        self.open = 0

    def group(self, name: str | None) -> str:
        """The group of that name; None: the only one. Errors: InputError."""
        if name is None and len(set(map(id, self.groups.values()))) == 1:
            return next(iter(self.groups))
        if name is None or name not in self.groups:
            what = f"nobody serves the model {name!r}" if name else "a call names no model"
            raise InputError(f"{what}; {nearest(name or '', self.groups)}")
        return name

    def submit(self, call: Call, now: int, group: str) -> None:
        """A call arrives now. One that can never run fails at once."""
        self.open += 1
        call.model = group
        reason = self._refused(call, self.groups[group])
        if reason:
            self._end(call, now, FAILED, reason)
            return
        client = self.choose(self.groups[group].takes, call, now)
        call.decode_client = client.index
        if self.tiers is None or not call.chunks:
            client.arrive(call, now)
        else:
            self.tiers.fetch(call, client, now)

    def made(self, call: Call, now: int) -> int:
        """Output tokens of an open call by now."""
        if call.decode_client < 0:  # it has not arrived
            return 0
        return self.clients[call.decode_client].made(call, now)

    def cancel(self, call: Call, now: int) -> None:
        """End a call that is on its way; it has the tokens that it has made by now."""
        call.generated = self.made(call, now)
        if call.state == "fetching":
            self.tiers.cancel(call, now)
        elif call.state == "handing":
            self.hand_off.cancel(call)
        else:
            self.clients[call.decode_client].cancel(call, now)
        call.cancelled = True
        self._end(call, now, CANCELLED, "")

    def finished(self, call: Call, now: int) -> None:
        """A client has made a call's last token."""
        if call.cancelled:
            return
        if self.tiers is not None:
            self.tiers.store(call)
        self._end(call, now, FINISHED, "")

    def prefilled(self, call: Call, now: int) -> None:
        """A prefill client has computed a prompt and its first token."""
        source = self.clients[call.client]
        if call.cancelled:
            source.let_go(call, now)
            return
        if self.tiers is not None:
            self.tiers.store(call)
        target = self.choose_decode(self.groups[call.model].decodes, call, now)
        call.enter(HAND_OFF, now)
        if self.hand_off is None:
            self.handed(call, source, target, now)
        else:
            self.hand_off.send(call, source, target, now)

    def handed(self, call: Call, source: Client, target: Client, now: int) -> None:
        """Keys and values have arrived at the decode client."""
        source.let_go(call, now)
        call.carried = call.computed
        call.enter(DECODE_QUEUE, now)
        call.decode_client = target.index
        target.arrive(call, now)

    def _refused(self, call: Call, group: Group) -> str:
        if call.prompt > LONGEST_PROMPT:
            return f"its prompt has more than {LONGEST_PROMPT:,} tokens"
        if call.output > LONGEST_OUTPUT:
            return f"more than {LONGEST_OUTPUT:,} output tokens"
        tokens = call.prompt + max(1, call.output)
        limit = self.context_tokens
        if limit is not None and tokens > limit:
            return f"longer than the context of {limit} tokens"
        for client in (*group.takes, *group.decodes):
            output = 1 if client.prefill_only else call.output
            if not client.holds(call.prompt, output):
                return "needs more KV blocks than there are"
        return ""

    def _end(self, call: Call, now: int, status: int, reason: str) -> None:
        self.open -= 1
        call.enter(call.phase, now)
        if status != FINISHED:
            call.last_ns = now
            if reason:
                self.reasons[reason] += 1
        self.ledger.add(call, status)
        if self.ended is not None:
            self.ended(call, now, status, reason)


class TraceFeed:
    """Plain requests of one call each, made when they arrive: memory holds those that are open."""

    def __init__(
        self, cluster: Cluster, trace: Any, groups: Sequence[str], ranks: Sequence[int] = ()
    ) -> None:
        """groups: the group of each request, or one for all. ranks: of each; (): all equal."""
        self.cluster, self.groups, self.ranks = cluster, groups, ranks
        self.arrival = trace.arrival_ns.tolist()
        self.prompt, self.output = trace.prompt_tokens.tolist(), trace.output_tokens.tolist()
        self.prefix, self.session = trace.prefix, trace.session
        if self.arrival:
            cluster.events.push(self.arrival[0], ARRIVE, self._arrive, 0)

    def _arrive(self, now: int, row: int) -> None:
        following = row + 1
        if following < len(self.arrival):
            self.cluster.events.push(self.arrival[following], ARRIVE, self._arrive, following)
        call = Call(row, now, max(1, self.prompt[row]), self.output[row])
        if self.prefix is not None:
            prefix = self.prefix
            start, end = prefix.offsets[row], prefix.offsets[row + 1]
            call.chunks = prefix.hashes[start:end].tolist()
            call.chunk_tokens = prefix.block_tokens
        if self.session is not None:
            call.session = self.session.at(row)
        if self.ranks:
            call.rank = self.ranks[row]
        groups = self.groups
        self.cluster.submit(call, now, groups[row] if len(groups) > 1 else groups[0])
