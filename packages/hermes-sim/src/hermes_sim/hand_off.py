"""Keys and values from a prefill client to a decode client, over links that transfers share.

layerwise: layers move while later ones are still computed (Splitwise, arXiv 2311.18677). Of B bytes
in L layers, B (L - 1) / L could move during the last prefill step at the rate of the way; what is
left then, at least the last layer's share, is waited for.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from hermes_sim.calls import Call
from hermes_sim.client import Client
from hermes_sim.links import SharedLinks, Transfer

if TYPE_CHECKING:
    from crosslayer.contracts.network import Topology
    from hermes_sim.cluster import Cluster

Way = tuple[tuple[Hashable, ...], float]  # links, seconds of latency


class HandOff:
    """Moves caches between clients whose places are nodes of a topology; without one, over a link
    of `rate` out of each prefill client.
    """

    def __init__(
        self, cluster: Cluster, links: SharedLinks, topology: Topology | None, rate: float,
        *, layerwise: bool,
    ) -> None:  # fmt: skip
        self.cluster, self.links, self.topology = cluster, links, topology
        self.rate, self.layerwise = rate, layerwise
        self._moving: dict[Call, Transfer] = {}
        self.count = 0

    def send(self, call: Call, source: Client, target: Client, now: int) -> None:
        """Start moving a call's cache."""
        links, latency = self.way(source, target)
        size = source.site.kv_bytes(call.computed)
        if self.layerwise and source.site.layers > 1:
            least = size / source.site.layers
            early = self._slowest(links) * (now - source.step_start_ns) / 1e9
            size = max(least, size - early)
        self.count += 1

        def arrived(then: int) -> None:
            del self._moving[call]
            self.cluster.handed(call, source, target, then)

        self._moving[call] = self.links.send(links, size, latency, now, arrived)

    def cancel(self, call: Call) -> None:
        """Stop moving it; its blocks are freed."""
        now = self.cluster.events.now_ns
        self.links.cancel(self._moving.pop(call), now)
        self.cluster.clients[call.client].let_go(call, now)

    def way(self, source: Client, target: Client) -> Way:
        """The links between two clients."""
        places = source.site.place, target.site.place
        if self.topology is not None and None not in places and places[0] != places[1]:
            route = self.topology.route(str(places[0]), str(places[1]))
            links = tuple(zip(route.nodes, route.nodes[1:], strict=False))
            for a, b in links:
                self.links.capacity.setdefault((a, b), self.topology.neighbours[a][b].bytes_per_s)
            return links, route.latency_s
        if source.site.place is not None and source.site.place == target.site.place:
            return (), 0.0
        link = ("out of", source.name)
        self.links.capacity.setdefault(link, self.rate)
        return (link,), 0.0

    def _slowest(self, links: tuple[Hashable, ...]) -> float:
        return min((self.links.capacity[link] for link in links), default=float("inf"))
