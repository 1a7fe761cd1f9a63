"""Which client of a group gets a call, by name."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from crosslayer.errors import InputError, nearest
from hermes_sim.calls import Call
from hermes_sim.client import Client

Choose = Callable[[Sequence[Client], Call, int], Client]
ROUTERS = (
    *("round_robin", "random", "least_requests", "least_tokens", "least_kv", "length_split"),
    *("prefix_aware", "session_affinity"),
)


def router(name: str, rng: np.random.Generator, split_tokens: int = 2048) -> Choose:
    """The router of that name; ties go to the first client.

    round_robin, random. least_requests, least_tokens, least_kv: the least outstanding, waiting or
    running: calls, tokens (queued ones and those in the cache), KV blocks. length_split: prompts of
    more than split_tokens to the last half of the clients, least requests within each half.
    prefix_aware: the longest prefix in the cache, then least requests. session_affinity: all calls
    of a session to one client, by a hash; those without one by least requests. Errors: InputError.
    """
    if name == "round_robin":
        return _RoundRobin()
    if name == "random":
        return lambda clients, call, now: clients[int(rng.integers(len(clients)))]
    if name in ("least_requests", "least_tokens", "least_kv"):
        return _Least(name.removeprefix("least_"))
    if name == "length_split":
        return _LengthSplit(split_tokens)
    if name == "prefix_aware":
        return _prefix_aware
    if name == "session_affinity":
        return _session_affinity
    raise InputError(f"no router is called {name!r}; {nearest(name, ROUTERS)}")


class _RoundRobin:
    def __init__(self) -> None:
        self._next: dict[int, int] = {}

    def __call__(self, clients: Sequence[Client], call: Call, now: int) -> Client:
        group = clients[0].index
        turn = self._next.get(group, 0)
        self._next[group] = turn + 1
        return clients[turn % len(clients)]


class _Least:
    def __init__(self, what: str) -> None:
        self.what = what

    def __call__(self, clients: Sequence[Client], call: Call, now: int) -> Client:
        return min(clients, key=lambda client: client.load(self.what, now))


class _LengthSplit:
    def __init__(self, tokens: int) -> None:
        self.tokens, self.least = tokens, _Least("requests")

    def __call__(self, clients: Sequence[Client], call: Call, now: int) -> Client:
        half = max(1, len(clients) // 2)
        long = call.prompt > self.tokens and len(clients) > 1
        return self.least(clients[half:] if long else clients[:half], call, now)


def _prefix_aware(clients: Sequence[Client], call: Call, now: int) -> Client:
    def rank(client: Client) -> tuple[int, int]:
        client.interrupt(now)  # blocks are taken when a run ends
        return -client.blocks.found(call)[1], client.load("requests", now)

    return min(clients, key=rank)


def _session_affinity(clients: Sequence[Client], call: Call, now: int) -> Client:
    if call.session is None:
        return _Least("requests")(clients, call, now)
    return clients[zlib.crc32(str(call.session).encode()) % len(clients)]
