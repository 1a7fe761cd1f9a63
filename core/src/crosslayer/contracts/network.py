"""Links, topologies and what moving bytes over them takes: the alpha-beta model, links never
shared.

A message of S bytes over a link of latency alpha and rate B takes alpha + S / B (R. W. Hockney,
"The communication challenge for MPP", Parallel Computing 20(3), 1994). Collectives: R. Thakur, R.
Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA
19(1), 2005.
"""

from __future__ import annotations

import heapq
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from crosslayer.contracts.base import Value
from crosslayer.errors import InputError, nearest

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send")
_ATTO = 10**18  # latencies are summed as whole attoseconds: exact, so the same in both directions


class Link(Value):
    """A cable: bytes per second each way, latency in seconds. one_way: only from `a` to `b`.

    source: where the two figures come from (a measurement, a data sheet).
    """

    a: str = Field(min_length=1)
    b: str = Field(min_length=1)
    bytes_per_s: float = Field(gt=0)
    latency_s: float = Field(ge=0)
    one_way: bool = False
    source: str = ""


class Route(Value):
    """A way from node to node: its nodes, the sum of latencies, the rate of its slowest link."""

    nodes: tuple[str, ...]
    latency_s: float
    bytes_per_s: float | None  # None: it never leaves the node

    def seconds(self, payload_bytes: Any) -> Any:
        """Seconds of a message of so many bytes (number or column), cut through at every hop."""
        _no_negative("payload_bytes", payload_bytes)
        if self.bytes_per_s is None:
            return payload_bytes * 0.0
        return self.latency_s + payload_bytes / self.bytes_per_s


class Topology(Value):
    """Nodes and the links between them. `to_toml` and `from_toml` round trip exactly."""

    name: str = ""
    nodes: tuple[str, ...] = Field(min_length=1)
    links: tuple[Link, ...] = ()
    source: str = ""

    @model_validator(mode="after")
    def _links_join_known_nodes_once(self) -> Topology:
        if len(set(self.nodes)) < len(self.nodes):
            twice = next(node for node in self.nodes if self.nodes.count(node) > 1)
            raise ValueError(f"topology: node {twice!r} is listed twice")
        known, taken = set(self.nodes), set()
        for link in self.links:
            for end in (link.a, link.b):
                if end not in known:
                    raise ValueError(
                        f"topology: a link names no node {end!r}; {nearest(end, known)}"
                    )
            if link.a == link.b:
                raise ValueError(f"topology: a link joins {link.a!r} to itself")
            for way in [(link.a, link.b)] if link.one_way else [(link.a, link.b), (link.b, link.a)]:
                if way in taken:
                    raise ValueError(f"topology: two links go from {way[0]!r} to {way[1]!r}")
                taken.add(way)
        return self

    @classmethod
    def ring(cls, nodes: int | Sequence[str], bytes_per_s: float, latency_s: float) -> Topology:
        """Each node linked to the next, the last to the first; nodes: names, or how many."""
        names = _names(nodes)
        count = len(names) if len(names) > 2 else len(names) - 1
        ends = [(names[i], names[(i + 1) % len(names)]) for i in range(count)]
        return cls(name="ring", nodes=names, links=_links(ends, bytes_per_s, latency_s))

    @classmethod
    def star(
        cls, nodes: int | Sequence[str], bytes_per_s: float, latency_s: float, hub: str = "switch"
    ) -> Topology:
        """Each node linked to a hub, one more node: between two nodes lie two links."""
        names = _names(nodes)
        links = _links([(node, hub) for node in names], bytes_per_s, latency_s)
        return cls(name="star", nodes=(*names, hub), links=links)

    @classmethod
    def full_mesh(
        cls, nodes: int | Sequence[str], bytes_per_s: float, latency_s: float
    ) -> Topology:
        """A link between every two nodes."""
        names = _names(nodes)
        ends = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        return cls(name="full mesh", nodes=names, links=_links(ends, bytes_per_s, latency_s))

    @cached_property
    def neighbours(self) -> Mapping[str, Mapping[str, Link]]:
        """From each node, the nodes one link away."""
        found: dict[str, dict[str, Link]] = {node: {} for node in self.nodes}
        for link in self.links:
            found[link.a][link.b] = link
            if not link.one_way:
                found[link.b][link.a] = link
        return found

    def route(self, source: str, target: str) -> Route:
        """The way of least latency; then of fewest links, then of the fastest slowest link.

        Errors: InputError for an unknown node (with the nearest name) or where no way leads.
        """
        for node in (source, target):
            if node not in self.neighbours:
                raise InputError(f"topology has no node {node!r}; {nearest(node, self.nodes)}")
        if source not in self.routes_from:
            self.routes_from[source] = _routes(self, source)
        found = self.routes_from[source].get(target)
        if found is None:
            raise InputError(
                f"no way leads from {source!r} to {target!r}; add a link to the topology"
            )
        return found

    @cached_property
    def routes_from(self) -> dict[str, dict[str, Route]]:
        """The routes found so far, by source and target; `route` fills it."""
        return {}

    def devices(self, place: str | None, count: int) -> tuple[str, ...]:
        """The nodes of an instance's devices: `count` of them in the topology's order, from `place`
        (None: the first) on. () if fewer are left: all devices are inside one node then.
        """
        if place is not None and place not in self.nodes:
            raise InputError(f"topology has no node {place!r}; {nearest(place, self.nodes)}")
        first = 0 if place is None else self.nodes.index(place)
        found = self.nodes[first : first + count]
        return found if len(found) == count else ()

    def transfer_seconds(self, source: str, target: str, payload_bytes: Any) -> Any:
        """Seconds of one message (bytes: a number or a column) along `route`; 0 inside a node."""
        return self.route(source, target).seconds(payload_bytes)

    def collective_seconds(self, kind: str, payload_bytes: Any, members: Sequence[str]) -> Any:
        """Seconds of a collective among these nodes as a ring in this order.

        Every step takes the worst latency and rate between ring neighbours; one member takes no
        time.
        """
        if len(set(members)) < len(members):
            raise InputError(f"collective {kind}: a node takes part twice in {list(members)}")
        ways = [self.route(a, b) for a, b in zip(members, (*members[1:], members[0]), strict=True)]
        rates = [way.bytes_per_s for way in ways if way.bytes_per_s is not None]
        latency = max(way.latency_s for way in ways)
        return collective_seconds(
            kind, payload_bytes, len(members), min(rates, default=1.0), latency
        )

    def to_toml(self) -> str:
        """The topology as a TOML file; `from_toml` gives an equal one back."""
        head = {"name": self.name, "source": self.source}
        lines = [f"{key} = {_toml(value)}" for key, value in head.items() if value]
        lines.append(f"nodes = [{', '.join(_toml(node) for node in self.nodes)}]")
        for link in self.links:
            fields = json.loads(link.to_json())
            lines += [
                "",
                "[[links]]",
                *(f"{key} = {_toml(value)}" for key, value in fields.items()),
            ]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, file: str = "topology") -> Topology:
        """The topology of a TOML file's text. Errors: InputError naming `file` and the key."""
        try:
            return cls.model_validate_json(json.dumps(tomllib.loads(text)), strict=True)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{file}: {error}") from None
        except ValidationError as error:
            problems = [
                ".".join(str(part) for part in (file, *problem["loc"]))
                + f": {problem['msg'].removeprefix('Value error, ')}"
                for problem in error.errors()
            ]
            raise InputError("; ".join(problems)) from None


def collective_seconds(
    kind: str, payload_bytes: Any, devices: Any, bytes_per_s: Any, latency_s: Any
) -> Any:
    """Seconds of one collective; every argument but `kind` may be a column.

    payload_bytes: S, each device's full tensor: what all-reduce and reduce-scatter put in, what
    all-gather and broadcast leave on each device, all that one device has for the others in
    all-to-all. n devices:

    - all_reduce (ring): 2 (n-1) alpha + 2 (n-1)/n S/B, a reduce-scatter and then an all-gather
    - reduce_scatter, all_gather (ring): (n-1) alpha + (n-1)/n S/B
    - all_to_all (pairwise exchange): (n-1) alpha + (n-1)/n S/B
    - broadcast (binomial tree): ceil(log2 n) (alpha + S/B)
    - send (one to one): alpha + S/B; 0 for one device, as all others

    Errors: InputError for an unknown kind, fewer than one device, or a figure below zero.
    """
    n = np.asarray(devices)
    if (n < 1).any():
        raise InputError(f"collective {kind}: {devices} devices; at least one is needed")
    if (np.asarray(bytes_per_s) <= 0).any():
        raise InputError(f"collective {kind}: bytes_per_s must be above 0, not {bytes_per_s}")
    _no_negative("payload_bytes", payload_bytes)
    _no_negative("latency_s", latency_s)
    steps, share = _steps_and_share(kind, n)
    seconds = steps * latency_s + share * payload_bytes / bytes_per_s
    return seconds if np.ndim(seconds) else float(seconds)


def collective_bytes(kind: str, payload_bytes: Any, devices: Any) -> Any:
    """Bytes that the busiest device puts on its link; arguments as in `collective_seconds`."""
    moved = _steps_and_share(kind, np.asarray(devices))[1] * payload_bytes
    return moved if np.ndim(moved) else float(moved)


def _steps_and_share(kind: str, n: Any) -> tuple[Any, Any]:
    """(messages one after the other, bytes over the busiest link as a multiple of the payload)."""
    if kind == "all_reduce":
        return 2 * (n - 1), 2 * (n - 1) / n
    if kind in ("all_gather", "reduce_scatter", "all_to_all"):
        return n - 1, (n - 1) / n
    if kind == "broadcast":
        rounds = np.ceil(np.log2(n))
        return rounds, rounds
    if kind == "send":
        return np.where(n > 1, 1, 0), np.where(n > 1, 1.0, 0.0)
    raise InputError(f"no collective {kind!r}; {nearest(kind, COLLECTIVES)}")


def _routes(topology: Topology, source: str) -> dict[str, Route]:
    """Dijkstra's algorithm on (latency, links, -rate); positions break what ties remain."""
    position = {node: i for i, node in enumerate(topology.nodes)}
    found: dict[str, Route] = {}
    heap: list[tuple[int, int, float, int, tuple[str, ...]]] = [
        (0, 0, -math.inf, position[source], (source,))
    ]
    while heap:
        latency, links, rate, _, way = heapq.heappop(heap)
        if way[-1] in found:
            continue
        slowest = None if math.isinf(rate) else -rate
        found[way[-1]] = Route(nodes=way, latency_s=latency / _ATTO, bytes_per_s=slowest)
        for node, link in topology.neighbours[way[-1]].items():
            if node not in found:
                further = latency + round(link.latency_s * _ATTO)
                key = (further, links + 1, max(rate, -link.bytes_per_s), position[node])
                heapq.heappush(heap, (*key, (*way, node)))
    return found


def _names(nodes: int | Sequence[str]) -> tuple[str, ...]:
    return tuple(str(i) for i in range(nodes)) if isinstance(nodes, int) else tuple(nodes)


def _links(
    ends: Sequence[tuple[str, str]], bytes_per_s: float, latency_s: float
) -> tuple[Link, ...]:
    return tuple(Link(a=a, b=b, bytes_per_s=bytes_per_s, latency_s=latency_s) for a, b in ends)


def _toml(value: str | float | bool) -> str:
    if isinstance(value, str):  # a JSON string is a TOML string, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)  # the shortest decimal that reads back as the same float


def _no_negative(name: str, value: Any) -> None:
    if (np.asarray(value) < 0).any():
        raise InputError(f"{name} must not be below 0, not {value}")
