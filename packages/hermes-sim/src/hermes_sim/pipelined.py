"""A client whose model is cut in pipeline stages: while one batch is in the last of them, others
are in those before it.

As many batches as stages are on their way. Each is a lane: calls that decode together, and with
them prompts that join. A batch goes through stages and the links between them first come first
served; its next iteration begins when its tokens are known and the first stage is free. Queue and
KV blocks are common to all lanes; chunks of one prompt go one behind the other through the stages.
Who needs a block takes it from the call that was admitted last; is that one on its way, the first
stage waits for it.

Steps of lanes that only decode are planned ahead, up to the first that could change anything, and
what is planned but has not begun is dropped when something comes in between.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from hermes_sim.admission import Prefill
from hermes_sim.batching import Batching
from hermes_sim.blocks import Blocks
from hermes_sim.calls import Call
from hermes_sim.client import Client, Sink
from hermes_sim.events import BEGIN, END, Events
from hermes_sim.lanes import Entry, Lane, LanesOfSteps
from hermes_sim.step_models.protocol import StepModel
from hermes_sim.step_models.staged import Staged
from hermes_sim.tape import Tape


class PipelinedClient(LanesOfSteps):
    """Serves calls with overlapping batches. See `Client`; `busy_ns` is the mean over stages."""

    # What comes from outside

    def arrive(self, call: Call, now_ns: int) -> None:
        """A call joins the queue."""
        self.enqueue(call)
        if self.waiting[0] is call and len(self.running) < self.rules.max_calls:
            self._try_again()
            self.interrupt(now_ns)

    def wake(self, now_ns: int) -> None:
        """Look for work at this instant, after what else arrives at it."""
        self._try_again()
        self.interrupt(now_ns)

    def interrupt(self, now_ns: int) -> None:
        """Drop what is planned and has not begun."""
        self._settle(now_ns)
        if self._plan:
            for entry in self._plan:
                entry.dead = True
                entry.lane.entries -= 1
            lanes = {id(entry.lane): entry.lane for entry in self._plan}.values()
            idle = [lane for lane in lanes if not lane.entries]
            self._ready = deque(sorted([*self._ready, *idle], key=lambda lane: lane.ended_ns))
            self._plan.clear()
            self._free = self._flight[-1].free if self._flight else self._free_before
        self._next(now_ns)

    def cancel(self, call: Call, now_ns: int) -> None:
        """The call leaves: at once if it is not on its way, else when its step ends."""
        self.interrupt(now_ns)
        if call.state == "waiting":
            self.waiting.remove(call)
            self.queued_tokens -= call.prompt + call.generated
            call.state = ""
        else:
            if call is self.partial:
                self.partial = None
            self._gone.append(call)
            for entry in self._flight:
                if entry.quiet and entry.lane is call.lane and call.state == "decoding":
                    entry.quiet = False
                    self.events.push(entry.end, END, self._leave, entry)
            self._drop_gone()
        self.wake(now_ns)

    def load(self, what: str, now_ns: int) -> int:
        """See `Client.load`."""
        if what == "requests":
            return len(self.waiting) + len(self.running)
        self._settle(now_ns)
        if what == "kv":
            return self.blocks.total - self.blocks.free
        partial = 0 if self.partial is None else self.partial.prompt + self.partial.generated
        return self.queued_tokens + sum(lane.context for lane in self.lanes) + partial

    def made(self, call: Call, now_ns: int) -> int:
        """Output tokens of an open call of this client by now."""
        self._settle(now_ns)
        return call.generated if call.state != "decoding" else int(call.lane.made(call, 0))

    # Steps

    def room(self) -> int:
        """Calls that may join the lane at hand."""
        return min(super().room(), self.lane_calls - self.decodes.n)

    def evict(self, call: Call, now: int) -> None:
        """See `Admission.evict`; its lane may be left without calls."""
        super().evict(call, now)
        self._try_again()
        if call.lane in self._ready and not call.lane.n:
            self._ready.remove(call.lane)

    def _try_again(self) -> None:
        self._stuck = False
        for lane in self.lanes:
            lane.tried = False

    def _empty(self) -> Lane | None:
        """A lane without calls."""
        return next((lane for lane in self.lanes if not lane.n and not lane.entries), None)

    def _startable(self) -> bool:
        """Whether a lane without calls may start with some."""
        return bool(self.waiting or self.partial) and not self._stuck and self._empty() is not None

    def _next(self, now: int) -> None:
        """The next look at the queue, as far as it follows from what is known."""
        flight = self._flight
        if self._stalled and flight:
            at = flight[0].end
        elif self._ready or self._startable():
            at = self._free[0]
        elif flight and flight[0].quiet:
            at = max(flight[0].end, self._free[0])
        else:
            return
        self._begins += 1
        self.events.push(max(now, at), BEGIN, self._begin, self._begins)

    def _begin(self, now: int, version: int) -> None:
        if version != self._begins:
            return
        self._settle(now)
        self._stalled = False
        lane = self._ready[0] if self._ready else self._empty() if self._startable() else None
        if lane is None:
            self._next(now)
            return
        self.decodes = lane
        entry = self._step(lane, now)
        if entry is None:
            self._stuck = self._stuck or (lane.tried and not lane.n)
            self._next(now)
            return
        if lane in self._ready:
            self._ready.remove(lane)
        self._flight.append(entry)
        if not entry.quiet:
            self.events.push(entry.end, END, self._leave, entry)
        if not (self.run_ahead and self._plan_ahead()):
            self._next(now)

    def _step(self, lane: Lane, now: int) -> Entry | None:
        """The next step of a lane; None if it has to wait."""
        rules = self.rules
        prefills: list[Prefill] = []
        preempted = held = False
        if rules.alone and self.waiting and not (rules.drain and lane.n):
            prefills = self.admit(now, rules.token_budget)
        if lane.n and not prefills and lane.paged:
            before = self.preemptions
            while lane.blocks_needed() > self.blocks.free:
                last = self.last()
                if self._flying(last):
                    self._stalled = True
                    return None
                self.evict(last, now)
            self.blocks.take(lane.blocks_needed())
            preempted = self.preemptions > before
        if not rules.alone:
            budget, call = rules.token_budget - lane.n, self.partial
            if call is not None:
                new = min(call.prompt + call.generated - call.computed, budget)
                if self.grow(call, call.computed + new):
                    prefills.append((call, new))
                    budget -= new
                elif call.flying:
                    held = True
                else:
                    self.evict(call, now)
                    preempted = True
            if self.waiting and not preempted and not held and budget > 0:
                prefills += self.admit(now, budget)
        lane.tried = not preempted
        if prefills:
            return self._mixed(lane, prefills, lane.n if not rules.alone else 0, now)
        return self._decode(lane, 0, now) if lane.n else None

    def _flying(self, call: Call) -> bool:
        decoding = call.state in ("decoding", "padding")
        return call.flying > 0 or (decoding and call.lane.entries > 0)

    def _plan_ahead(self) -> bool:
        """Decode steps up to the first that could change something; whether there are any."""
        if self.partial is not None or (self.waiting and self._startable()):
            return False
        free_blocks = self.blocks.free
        stop = min((entry.end for entry in self._flight if not entry.quiet), default=1 << 62)
        quiet = [(entry.lane, entry.end) for entry in self._flight if entry.quiet]
        turns = deque([*((lane, 0) for lane in self._ready), *quiet])
        begin = 0
        while turns:
            lane, ready = turns[0]
            begin = max(self._free[0], ready)
            if begin >= stop or (self.waiting and not lane.tried):
                break
            need = 0
            if lane.paged:
                need = lane.phases[(lane.counter + lane.entries) % lane.block_tokens]
            if need > free_blocks:
                break
            entry = self._decode(lane, lane.entries, begin)
            if entry is None:
                break
            turns.popleft()
            free_blocks -= need
            entry.need = need
            self._plan.append(entry)
            if entry.quiet:
                turns.append((lane, entry.end))
            else:
                stop = min(stop, entry.end)
                self.events.push(entry.end, END, self._leave, entry)
        if not self._plan:
            return False
        planned = {id(entry.lane) for entry in self._plan}
        self._ready = deque(lane for lane in self._ready if id(lane) not in planned)
        if turns and begin < stop:
            self._begins += 1
            self.events.push(begin, BEGIN, self._begin, self._begins)
        return True

    def _leave(self, now: int, entry: Entry) -> None:
        if entry.dead:
            return
        self._settle(now)
        if not self._flight or self._flight[0] is not entry:
            return  # it had two ends to be told of
        self._flight.popleft()
        lane = self.decodes = entry.lane
        self.step_start_ns = entry.begin
        self._stalled = False
        self._over(entry)
        self._row(entry.begin, now, 1, sum(new for _, new, _ in entry.prefills))
        if entry.decodes:
            while (call := lane.ended()) is not None:
                self._last_token(call, now)
        for call, _, whole in entry.prefills:
            call.flying -= 1
            if whole:
                self._prompt_over(call, now)
        self._drop_gone()
        if lane.n and not lane.entries and lane not in self._ready:
            self._ready.append(lane)
        self._try_again()
        self._next(now)

    def _drop_gone(self) -> None:
        for call in [call for call in self._gone if not self._flying(call)]:
            self._gone.remove(call)
            if call.state == "waiting":
                self.waiting.remove(call)
                self.queued_tokens -= call.prompt + call.generated
            elif call in self.running and call.state != "padding":
                lane = call.lane if call.state == "decoding" else self.decodes
                if call.state == "decoding":
                    lane.leave(call)
                    if not self.rules.reserve:
                        call.private = -(-call.computed // self.blocks.tokens) - call.held
                    if lane in self._ready and not lane.n:
                        self._ready.remove(lane)
                del self.running[call]
                self.blocks.release(call, keep=False)
                lane.left -= 1
                if self.rules.drain and not lane.left:
                    self.decodes = lane
                    self._drain()
            if call.state != "padding":
                call.state = ""


def client_of(
    index: int, name: str, model: StepModel, rules: Batching, blocks: Blocks, events: Events,
    sink: Sink, tape: Tape, **more: Any,
) -> Client:  # fmt: skip
    """The client for a step model: with overlapping batches if that has stages."""
    if isinstance(model, Staged):
        return PipelinedClient(index, name, model, rules, blocks, events, sink, tape, **more)
    return Client(index, name, model, rules, blocks, events, sink, tape, **more)
