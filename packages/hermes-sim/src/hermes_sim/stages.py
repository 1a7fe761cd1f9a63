"""Stages that are no model call: first come first served by a number of servers.

A search through an IVF-PQ index reads all centroids and the codes of the lists that it probes, so
it takes (lists x dimensions x 4 + vectors x probes / lists x code_bytes) / bandwidth (the form that
RAGO, arXiv 2503.14649, uses).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from crosslayer.contracts.calls import Stage, nanoseconds
from crosslayer.errors import InputError
from hermes_sim.events import END, Events

if TYPE_CHECKING:
    from hermes_sim.params import StageParams

Done = Callable[[int], None]


def stage_seconds(params: StageParams, tokens: int) -> float:
    """Seconds of one request of so many prompt tokens on one server."""
    seconds = params.seconds + params.token_s * tokens
    if params.vectors:
        scanned = params.vectors * min(1.0, params.probes / params.lists) * params.code_bytes
        scanned += params.lists * params.dimensions * 4
        seconds += scanned / params.scan_bytes_per_s
    return seconds


class StageTimes:
    """Times the stages of a policy loop, whose stages have servers enough. spent_ns: of all of a
    kind together.
    """

    def __init__(self, stages: Mapping[str, StageParams]) -> None:
        self.stages = stages
        self.spent_ns: Counter[str] = Counter()

    def __call__(self, stage: Stage) -> float | None:
        """Seconds of one stage; None: nobody knows. Errors: InputError for one that would need the
        prompt.
        """
        params, seconds = self.stages.get(stage.kind), stage.seconds
        if params is not None and seconds is None:
            if params.client is not None or params.token_s or params.adds_tokens:
                raise InputError(
                    f"stage {stage.kind!r}: with a policy nothing says what its request's prompt"
                    " holds, so client, token_s and adds_tokens cannot be used; give it `seconds`"
                )
            seconds = stage_seconds(params, 0)
        if seconds is not None:
            self.spent_ns[stage.kind] += nanoseconds(seconds)
        return seconds


class StageServers:
    """The servers of one stage."""

    def __init__(self, name: str, servers: int, events: Events) -> None:
        self.name, self.servers, self.events = name, servers, events
        self.waiting: deque[tuple[int, Done, list[int]]] = deque()
        self.serving = 0
        self.served = self.busy_ns = 0

    def serve(self, duration_ns: int, now: int, done: Done) -> list[int]:
        """Serve for so long, then call `done(now)`. The list gets the instant it starts."""
        started: list[int] = []
        if self.serving < self.servers:
            self._start(duration_ns, now, done, started)
        else:
            self.waiting.append((duration_ns, done, started))
        return started

    def _start(self, duration_ns: int, now: int, done: Done, started: list[int]) -> None:
        self.serving += 1
        self.busy_ns += duration_ns
        started.append(now)
        self.events.push(now + duration_ns, END, self._end, done)

    def _end(self, now: int, done: Done) -> None:
        self.serving -= 1
        self.served += 1
        if self.waiting:
            self._start(self.waiting[0][0], now, *self.waiting.popleft()[1:])
        done(now)
