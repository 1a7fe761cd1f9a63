"""Batches of a client with pipeline stages: how long their steps are at each station, and what is
booked when they end.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from hermes_sim.admission import Prefill, Site
from hermes_sim.batching import Batching
from hermes_sim.blocks import Blocks
from hermes_sim.calls import Call
from hermes_sim.client import Client, Sink
from hermes_sim.decodes import Decodes
from hermes_sim.events import Events
from hermes_sim.step_models.staged import Staged
from hermes_sim.tape import Tape

AHEAD = 128  # steps of a lane that are priced at once


class Lane(Decodes):
    """The decoding calls of one batch. entries: its steps that are planned or on their way.
    tried: no call of the queue can join it as things are.
    """

    def __init__(self, block_tokens: int, paged: bool) -> None:
        super().__init__(block_tokens, paged)
        self.entries = self.ended_ns = 0
        self.tried = False
        self.rows: list[list[int]] = []  # nanoseconds at each station, from `rows_from` on
        self.joules: Any = None
        self.rows_from = self.rows_changes = -1


class Entry:
    """A step: of which lane, when it enters the first stage and leaves the last, when each station
    is free after it. quiet: nobody ends or joins with it.
    """

    __slots__ = (
        "begin", "beyond", "busy_ns", "context", "dead", "decodes", "end", "free", "joules",
        "lane", "n", "need", "prefills", "quiet",
    )  # fmt: skip

    def __init__(self, lane: Lane, decodes: bool, beyond: int, joules: float | None) -> None:
        self.lane, self.decodes, self.beyond, self.joules = lane, decodes, beyond, joules
        self.n, self.context = (lane.n, lane.context) if decodes else (0, 0)
        self.prefills: list[tuple[Call, int, bool]] = []
        self.begin = self.end = self.need = self.busy_ns = 0
        self.free: tuple[int, ...] = ()
        self.quiet, self.dead = True, False


class LanesOfSteps(Client):
    """Steps that are planned and on their way; who decides which they are is `PipelinedClient`."""

    def __init__(
        self, index: int, name: str, model: Staged, rules: Batching, blocks: Blocks,
        events: Events, sink: Sink, tape: Tape, *, site: Site | None = None,
        prefill_only: bool = False, run_ahead: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            index, name, model, rules, blocks, events, sink, tape, site=site,
            prefill_only=prefill_only, run_ahead=run_ahead,
        )  # fmt: skip
        self.staged = model
        self.lanes = [Lane(blocks.tokens, not rules.reserve) for _ in range(model.stages)]
        self.decodes: Lane = self.lanes[0]  # the lane at hand
        self.lane_calls = -(-rules.max_calls // model.stages)
        self._free: tuple[int, ...] = (0,) * model.stations
        self._free_before = self._free  # by the steps that are over
        self._flight: deque[Entry] = deque()  # begun
        self._plan: deque[Entry] = deque()  # not begun
        self._ready: deque[Lane] = deque()  # lanes with calls and no step, in order of their ends
        self._stalled = self._stuck = False  # a lane lacks blocks; nobody can start a lane
        self._begins = self._station_ns = 0

    def _mixed(self, lane: Lane, prefills: list[Prefill], n: int, now: int) -> Entry:
        rows, shapes = n, []
        for call, new in prefills:
            rows += call.computed + new == call.prompt + call.generated
            shapes.append((new, call.computed))
        beyond = self.staged.beyond
        seconds, joules = self.staged.mixed_stations(
            shapes, rows, n, lane.context if n else 0, self.contexts
        )
        entry = Entry(lane, n > 0, self.staged.beyond - beyond, joules)
        entry.quiet = False
        for call, new in prefills:
            call.computed += new
            call.flying += 1
            whole = call.computed == call.prompt + call.generated
            entry.prefills.append((call, new, whole))
            if not whole:
                self.partial = call
            elif call is self.partial:
                self.partial = None
        self._pass(entry, _whole_ns(np.array(seconds)).tolist(), now)
        return entry

    def _decode(self, lane: Lane, ahead: int, now: int) -> Entry | None:
        """A decode step of a lane, so many after its next one; None where its times are not known
        yet.
        """
        at = lane.counter + ahead - lane.rows_from
        if lane.rows_changes != lane.changes or at >= len(lane.rows):
            if ahead:
                return None
            self.decodes = lane
            steps = min(lane.steps_to_an_end(), AHEAD) if self.run_ahead else 1
            seconds, lane.joules = self.staged.decode_stations(
                lane.n, lane.context, steps, self.contexts
            )
            lane.rows = _whole_ns(seconds).T.tolist()
            lane.rows_from, lane.rows_changes, at = lane.counter, lane.changes, 0
        model, context = self.staged, lane.context + ahead * lane.n
        over = lane.n > model.decode_limit or context / lane.n > model.context_limit
        joules = None if lane.joules is None else float(lane.joules[at])
        entry = Entry(lane, True, int(over), joules)
        entry.context = context
        entry.quiet = ahead + 1 < lane.steps_to_an_end()
        self._pass(entry, lane.rows[at], now)
        return entry

    def _pass(self, entry: Entry, stations: list[int], now: int) -> None:
        """Through all stations, each first come first served."""
        entry.begin = at = now
        free = []
        for until, duration in zip(self._free, stations, strict=True):
            at = max(at, until) + duration
            free.append(at)
        entry.end = at
        entry.busy_ns = sum(stations[::2])
        self._free = entry.free = tuple(free)
        entry.lane.entries += 1

    def _settle(self, now: int) -> None:
        """What has begun and what has ended by now, as far as nobody ends or joins with it."""
        plan, flight = self._plan, self._flight
        need = 0
        while plan and plan[0].begin < now:
            need += plan[0].need
            flight.append(plan.popleft())
        if need:
            self.blocks.take(need)
        start, steps = -1, 0
        while flight and flight[0].quiet and flight[0].end <= now:
            entry = flight.popleft()
            start, steps = entry.begin if start < 0 else start, steps + 1
            end = entry.end
            self._over(entry)
            if not entry.lane.entries:
                self._ready.append(entry.lane)
        if steps:
            self._row(start, end, steps, 0)

    def _over(self, entry: Entry) -> None:
        """Book a step that has ended."""
        lane = entry.lane
        lane.entries -= 1
        lane.ended_ns = entry.end
        self._free_before = entry.free
        self.iterations += 1
        self._decoded += entry.n
        self.beyond += entry.beyond
        self._station_ns += entry.busy_ns
        self.busy_ns = self._station_ns // self.staged.stages
        if entry.joules is None or self.joules is None:
            self.joules = None
        else:
            self.joules += entry.joules
        if entry.decodes:
            lane.advance(1)

    def _row(self, start: int, end: int, steps: int, prompt_tokens: int) -> None:
        lanes = self.lanes
        self.tape.step(
            self.index, start, end, steps, sum(lane.n for lane in lanes),
            sum(lane.context for lane in lanes), prompt_tokens, len(self.waiting),
            self.blocks.total - self.blocks.free,
        )  # fmt: skip


def _whole_ns(seconds: Any) -> Any:
    """Whole nanoseconds at stations; a stage takes at least one, a link may take none."""
    found = np.rint(seconds * 1e9).astype(np.int64)
    np.maximum(found[::2], 1, out=found[::2])
    return found
