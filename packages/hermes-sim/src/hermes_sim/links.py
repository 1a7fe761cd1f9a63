"""Transfers that share links: each gets its max-min fair share of every link on its way.

Fluid model (D. Bertsekas, R. Gallager, Data Networks, section 6.5.2): rates are filled up evenly
until a link is full, transfers over that link are done, the others go on. Rates change when a
transfer begins or ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from hermes_sim.events import END, Events

Arrived = Callable[[int], None]


@dataclass(eq=False)
class Transfer:
    """Bytes on their way over links, by name; `rate` in bytes per second."""

    links: tuple[Hashable, ...]
    left: float
    arrived: Arrived
    latency_ns: int = 0
    rate: float = 0.0
    done: bool = False


def fair_rates(
    routes: Iterable[tuple[Hashable, ...]], capacity: Mapping[Hashable, float]
) -> list[float]:
    """Max-min fair rates of transfers over these links, in their order."""
    ways = list(routes)
    rates = [0.0] * len(ways)
    open_ = {i for i, way in enumerate(ways) if way}
    for i, way in enumerate(ways):
        if not way:
            rates[i] = math.inf
    left = dict(capacity)
    while open_:
        users: dict[Hashable, int] = {}
        for i in sorted(open_):
            for link in ways[i]:
                users[link] = users.get(link, 0) + 1
        share = {link: left[link] / count for link, count in users.items()}
        least = min(share.values())
        full = {link for link, value in share.items() if value <= least * (1 + 1e-12)}
        for i in sorted(open_):
            if any(link in full for link in ways[i]):
                rates[i] = least
                open_.discard(i)
                for link in ways[i]:
                    left[link] = max(0.0, left[link] - least)
    return rates


@dataclass
class SharedLinks:
    """Links by name with bytes per second, and what is on its way."""

    events: Events
    capacity: dict[Hashable, float] = field(default_factory=dict)
    on_way: list[Transfer] = field(default_factory=list)
    moved_bytes: float = 0.0
    _at_ns: int = 0
    _version: int = 0

    def send(
        self, links: tuple[Hashable, ...], size: float, latency_s: float, now: int,
        arrived: Arrived,
    ) -> Transfer:  # fmt: skip
        """Move bytes; `arrived(now)` is called when the last one is there."""
        transfer = Transfer(links, max(0.0, size), arrived, round(latency_s * 1e9))
        self.moved_bytes += transfer.left
        self._progress(now)
        self.on_way.append(transfer)
        self._plan(now)
        return transfer

    def cancel(self, transfer: Transfer, now: int) -> None:
        """Take a transfer off its links; nobody is told."""
        if not transfer.done and transfer in self.on_way:
            self._progress(now)
            self.on_way.remove(transfer)
            self._plan(now)
        transfer.done = True

    def seconds_alone(self, links: tuple[Hashable, ...], size: float, latency_s: float) -> float:
        """What a transfer takes while nothing else is on its way."""
        return latency_s + (size / min(self.capacity[link] for link in links) if links else 0.0)

    def _progress(self, now: int) -> None:
        elapsed = (now - self._at_ns) / 1e9
        for transfer in self.on_way:
            if transfer.rate == math.inf:
                transfer.left = 0.0
            else:
                transfer.left = max(0.0, transfer.left - transfer.rate * elapsed)
        self._at_ns = now

    def _plan(self, now: int) -> None:
        """New rates, and the instant at which the next transfer ends."""
        self._version += 1
        rates = fair_rates((one.links for one in self.on_way), self.capacity)
        soonest = None
        for transfer, rate in zip(self.on_way, rates, strict=True):
            transfer.rate = rate
            wait = 0 if rate == math.inf else math.ceil(transfer.left / rate * 1e9)
            soonest = wait if soonest is None else min(soonest, wait)
        if soonest is not None:
            self.events.push(now + soonest, END, self._end, self._version)

    def _end(self, now: int, version: int) -> None:
        if version != self._version:
            return
        self._progress(now)
        over = [one for one in self.on_way if one.left <= one.rate * 1e-9 or one.rate == math.inf]
        for transfer in over:
            self.on_way.remove(transfer)
        for transfer in over:
            self.events.push(now + transfer.latency_ns, END, self._arrive, transfer)
        self._plan(now)

    def _arrive(self, now: int, transfer: Transfer) -> None:
        if not transfer.done:
            transfer.done = True
            transfer.arrived(now)
