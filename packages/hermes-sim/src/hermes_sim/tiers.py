"""Memories behind the clients' own for keys and values of prompt prefixes, by chunk, LRU.

A prompt's chunks are written through to the first tier when it has been computed (writing takes no
time); what falls out of a tier goes to the next. A call that arrives fetches the longest prefix
that goes on where its client's own cache ends, chunk by chunk from the fastest tier that has it, if
that is quicker than computing it, or always. Transfers from a tier share its bandwidth.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hermes_sim.calls import FETCH, QUEUE, Call
from hermes_sim.client import Client
from hermes_sim.events import Events
from hermes_sim.links import SharedLinks, Transfer

if TYPE_CHECKING:
    from hermes_sim.params import TierParams


class Lru:
    """Keys with sizes up to a capacity; the least recently used leave first."""

    def __init__(self, capacity: float) -> None:
        self.capacity, self.used = capacity, 0.0
        self.sizes: OrderedDict[int, float] = OrderedDict()

    def __contains__(self, key: int) -> bool:
        return key in self.sizes

    def touch(self, key: int) -> bool:
        """Mark as used just now; False if it is not there."""
        if key not in self.sizes:
            return False
        self.sizes.move_to_end(key)
        return True

    def put(self, key: int, size: float = 1) -> list[tuple[int, float]]:
        """Add it, or mark it as used; what had to leave. What is too large is not kept."""
        if self.touch(key):
            return []
        if size > self.capacity:
            return [(key, size)]
        self.sizes[key] = size
        self.used += size
        gone = []
        while self.used > self.capacity:
            old = self.sizes.popitem(last=False)
            self.used -= old[1]
            gone.append(old)
        return gone


class Tiers:
    """The tiers of a cluster, fastest first."""

    def __init__(
        self, params: Sequence[TierParams], clients: Sequence[Client], events: Events,
        *, always: bool,
    ) -> None:  # fmt: skip
        self.params, self.clients, self.events, self.always = params, clients, events, always
        self.links = SharedLinks(events)
        self.stores: dict[tuple[str, int], Lru] = {}
        self.fetched_tokens = {tier.name: 0 for tier in params}
        self.recomputed_tokens = 0  # found in a tier, but quicker to compute
        self._moving: dict[Call, list[Transfer]] = {}
        for tier in params:
            for index in [-1] if tier.shared else range(len(clients)):
                self.stores[tier.name, index] = Lru(tier.gigabytes * 1e9)
                self.links.capacity[tier.name, index] = tier.bytes_per_s

    def fetch(self, call: Call, client: Client, now: int) -> None:
        """Bring what helps to the client, then let the call arrive there."""
        start, tokens, places = self._found(call, client)
        if not tokens or not self._worth(call, client, start, tokens, places):
            self.recomputed_tokens += tokens
            client.arrive(call, now)
            return
        call.state = "fetching"
        call.enter(FETCH, now)
        waiting = [len(places)]

        def arrived(then: int) -> None:
            waiting[0] -= 1
            if waiting[0] == 0:
                del self._moving[call]
                call.carried = min(start + tokens, call.prompt - 1)
                call.enter(QUEUE, then)
                client.arrive(call, then)

        self._moving[call] = []
        for (name, index), count in places.items():
            self.fetched_tokens[name] += count
            size, latency = client.site.kv_bytes(count), self._latency(name)
            self._moving[call].append(
                self.links.send(((name, index),), size, latency, now, arrived)
            )

    def cancel(self, call: Call, now: int) -> None:
        """Stop what is on its way for a call."""
        for transfer in self._moving.pop(call):
            self.links.cancel(transfer, now)

    def store(self, call: Call) -> None:
        """Keep a computed prompt's chunks."""
        client = self.clients[call.client]
        for i, key in enumerate(call.chunks):
            start = i * call.chunk_tokens
            size = client.site.kv_bytes(min(call.chunk_tokens, call.prompt - start))
            self._put(0, key, size, client)

    def _put(self, level: int, key: int, size: float, client: Client) -> None:
        if level < len(self.params):
            for old, its_size in self._store(level, client).put(key, size):
                self._put(level + 1, old, its_size, client)

    def _store(self, level: int, client: Client) -> Lru:
        tier = self.params[level]
        return self.stores[tier.name, -1 if tier.shared else client.index]

    def _found(self, call: Call, client: Client) -> tuple[int, int, dict[tuple[str, int], int]]:
        """(tokens in the client's own cache, tokens that go on from there in tiers, where)."""
        client.interrupt(self.events.now_ns)  # blocks are taken when a run ends
        start = client.blocks.found(call)[1] * client.blocks.tokens
        chunks = start // call.chunk_tokens
        start = chunks * call.chunk_tokens
        total, places = 0, dict[tuple[str, int], int]()
        for i in range(chunks, len(call.chunks)):
            for level, tier in enumerate(self.params):
                if self._store(level, client).touch(call.chunks[i]):
                    at = i * call.chunk_tokens
                    count = min(call.chunk_tokens, call.prompt - at)
                    place = (tier.name, -1 if tier.shared else client.index)
                    places[place] = places.get(place, 0) + count
                    total += count
                    break
            else:
                break
        return start, total, places

    def _worth(
        self, call: Call, client: Client, start: int, tokens: int,
        places: dict[tuple[str, int], int],
    ) -> bool:  # fmt: skip
        if self.always:
            return True
        seconds = 0.0
        for (name, index), count in places.items():
            sharing = 1 + sum(one.links == ((name, index),) for one in self.links.on_way)
            size = client.site.kv_bytes(count) * sharing
            latency = self._latency(name)
            alone = self.links.seconds_alone(((name, index),), size, latency)
            seconds = max(seconds, alone)
        beyond = client.model.beyond
        compute, _ = client.model.mixed([(tokens, start)], 0, 0, 0, list)
        client.model.beyond = beyond  # a question, not a step
        return seconds < compute

    def _latency(self, name: str) -> float:
        return next(tier.latency_s for tier in self.params if tier.name == name)
