"""A client: a model on its devices, with its queue, its scheduler and its KV blocks.

It advances in iterations. Where nothing that its scheduler looks at changes from one iteration to
the next (nobody ends, joins or lacks a block) it takes all of them in one event, and stops early
where something comes in between. The result is that of single iterations, exactly.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crosslayer.errors import InputError
from hermes_sim.admission import Admission, Prefill, Site
from hermes_sim.batching import Batching
from hermes_sim.blocks import Blocks
from hermes_sim.calls import DECODE, Call
from hermes_sim.events import BEGIN, END, Events
from hermes_sim.step_models.protocol import StepModel
from hermes_sim.tape import Tape

LONGEST_STEP_S = 1e9  # beyond that the instants of a run would not fit their columns


class Sink(Protocol):
    """Who is told what becomes of calls."""

    def finished(self, call: Call, now_ns: int) -> None: ...
    def prefilled(self, call: Call, now_ns: int) -> None: ...


class Client(Admission):
    """Serves calls. Times in nanoseconds.

    prefill_only: calls are handed on with their first token. run_ahead False: an event for each
    iteration.
    """

    def __init__(
        self, index: int, name: str, model: StepModel, rules: Batching, blocks: Blocks,
        events: Events, sink: Sink, tape: Tape, *, site: Site | None = None,
        prefill_only: bool = False, run_ahead: bool = True,
    ) -> None:  # fmt: skip
        if prefill_only:  # all of a static batch leave it with their prompts
            rules = replace(rules, drain=False)
        super().__init__(index, rules, blocks, site or Site(), prefill_only)
        self.name, self.model = name, model
        self.events, self.sink, self.tape = events, sink, tape
        self.run_ahead = run_ahead
        self.iterations = self.busy_ns = self._decoded = 0
        self.beyond = 0  # iterations outside what the step model has data for
        self.joules: float | None = 0.0
        self._busy = self._begin_pushed = False
        self._version = self._steps = self.step_start_ns = 0
        self._prefills: list[Prefill] | None = None
        self._decoding = False  # whether this step decodes
        self._until: NDArray[np.int64] | None = None  # ends of the iterations of a run
        self._joules: Any = None
        self._gone: list[Call] = []

    # What comes from outside

    def arrive(self, call: Call, now_ns: int) -> None:
        """A call joins the queue."""
        self.enqueue(call)
        behind = self.waiting[0] is not call
        blocked = behind or (self.rules.drain and bool(self.running))
        if not self._busy:
            self.wake(now_ns)
        elif not blocked and len(self.running) < self.rules.max_calls:
            self.interrupt(now_ns)

    def wake(self, now_ns: int) -> None:
        """Look for work at this instant, after what else arrives at it."""
        if not self._busy and not self._begin_pushed:
            self._begin_pushed = True
            self.events.push(now_ns, BEGIN, self._begin)

    def interrupt(self, now_ns: int) -> None:
        """End a run of iterations with the one that is on its way."""
        if self._until is None or self._steps < 2:
            return
        steps = int(np.searchsorted(self._until, now_ns, side="left")) + 1
        if steps < self._steps:
            self._steps = steps
            self._version += 1
            self.events.push(int(self._until[steps - 1]), END, self._end, self._version)

    def cancel(self, call: Call, now_ns: int) -> None:
        """The call leaves: at once between iterations and from the queue, else when this one
        ends.
        """
        if call.state == "waiting":
            self.waiting.remove(call)
            self.queued_tokens -= call.prompt + call.generated
            call.state = ""
        else:
            self._gone.append(call)
        if self._busy:
            self.interrupt(now_ns)
        else:
            self._drop_gone()
            self.wake(now_ns)

    @property
    def mean_batch(self) -> float:
        """Decoding calls of an iteration, in the mean."""
        return self._decoded / self.iterations if self.iterations else 0.0

    def let_go(self, call: Call, now_ns: int) -> None:
        """Free the blocks of a call whose cache has arrived elsewhere."""
        self.blocks.release(call, keep=False)
        self.wake(now_ns)

    def load(self, what: str, now_ns: int) -> int:
        """Outstanding "requests", "tokens" (queued ones and those in the cache), or "kv" blocks."""
        if what == "requests":
            return len(self.waiting) + len(self.running)
        done = self._done(now_ns)
        if what == "kv":
            return self.blocks.total - self.blocks.free + self.decodes.growth(done)
        partial = 0 if self.partial is None else self.partial.prompt + self.partial.generated
        return self.queued_tokens + self.decodes.context + done * self.decodes.n + partial

    def made(self, call: Call, now_ns: int) -> int:
        """Output tokens of an open call of this client by now."""
        if call.state != "decoding":
            return call.generated
        return self.decodes.made(call, self._done(now_ns))

    def _done(self, now_ns: int) -> int:
        """Iterations of the run on its way that are over."""
        if self._until is None:
            return 0
        return int(np.searchsorted(self._until[: self._steps], now_ns, side="right"))

    # Iterations

    def _begin(self, now: int, _: Any) -> None:
        self._begin_pushed = False
        rules, decodes = self.rules, self.decodes
        prefills: list[Prefill] = []
        preempted = False
        if rules.alone and self.waiting and not (rules.drain and self.running):
            prefills = self.admit(now, rules.token_budget)
        if decodes.n and not prefills and decodes.paged:
            preempted = self.blocks_for_decodes(now)
        if not rules.alone:
            budget, call = rules.token_budget - decodes.n, self.partial
            if call is not None:
                new = min(call.prompt + call.generated - call.computed, budget)
                if self.grow(call, call.computed + new):
                    prefills.append((call, new))
                    budget -= new
                else:
                    self.evict(call, now)
                    preempted = True
            if self.waiting and not preempted and budget > 0:
                prefills += self.admit(now, budget)
        self._decoding = decodes.n > 0 and not (rules.alone and bool(prefills))
        self._busy = bool(prefills) or self._decoding
        if self._busy:
            self.step_start_ns = now
            self._version += 1
            if prefills:
                self._start_mixed(now, prefills)
            else:
                self._start_run(now, self.run_ahead and not preempted)

    def _start_mixed(self, now: int, prefills: list[Prefill]) -> None:
        n, context = (self.decodes.n, self.decodes.context) if self._decoding else (0, 0)
        rows, shapes = n, []
        for call, new in prefills:
            rows += call.computed + new == call.prompt + call.generated
            shapes.append((new, call.computed))
        beyond = self.model.beyond
        seconds, self._joules = self.model.mixed(shapes, rows, n, context, self.contexts)
        if not seconds < LONGEST_STEP_S:
            self._refuse(seconds)
        self.beyond += self.model.beyond - beyond
        self._prefills, self._steps, self._until = prefills, 1, None
        self.events.push(now + max(1, round(seconds * 1e9)), END, self._end, self._version)

    def _start_run(self, now: int, ahead: bool) -> None:
        decodes, steps = self.decodes, 1
        if ahead:
            steps = decodes.steps_to_an_end()
            if steps > 1:
                steps = decodes.steps_with_blocks(steps, self.blocks.free)
        seconds, self._joules = self.model.decodes(decodes.n, decodes.context, steps, self.contexts)
        if not seconds[0] + seconds[-1] < LONGEST_STEP_S:
            self._refuse(max(seconds[0], seconds[-1]))
        until = np.rint(seconds * 1e9).astype(np.int64)
        np.maximum(until, 1, out=until)
        np.cumsum(until, out=until)
        until += now
        self._prefills, self._steps, self._until = None, steps, until
        self.events.push(int(until[-1]), END, self._end, self._version)

    def _refuse(self, seconds: float) -> None:
        raise InputError(
            f"{self.name}: a step would take {seconds:.3g} s by its step model"
            f" ({self.model.name}), which cannot be right; look at its times"
        )

    def _end(self, now: int, version: int) -> None:
        if version != self._version:
            return
        prefills, steps, decodes = self._prefills, self._steps, self.decodes
        self._record(now, prefills, steps)
        self._until = self._prefills = None  # what is told of an end may ask for the load
        if self._decoding:
            if steps > 1:
                self.blocks.take(decodes.growth(steps))
            decodes.advance(steps)
            while (call := decodes.ended()) is not None:
                self._last_token(call, now)
        for call, new in prefills or ():
            self._computed(call, new, now)
        if self._gone:
            self._drop_gone()
        self._busy = False
        if self.waiting or self.running:
            if self.events.stepwise or self.events.busy_now():
                self.wake(now)
            else:
                self._begin(now, None)

    def _record(self, now: int, prefills: list[Prefill] | None, steps: int) -> None:
        decodes = self.decodes
        self.iterations += steps
        self.busy_ns += now - self.step_start_ns
        if self._decoding:
            self._decoded += steps * decodes.n
        self.tape.step(
            self.index, self.step_start_ns, now, steps, decodes.n if self._decoding else 0,
            decodes.context, 0 if prefills is None else sum(new for _, new in prefills),
            len(self.waiting), self.blocks.total - self.blocks.free,
        )  # fmt: skip
        if prefills is None:
            if decodes.n > self.model.decode_limit:
                self.beyond += steps
            else:
                over = decodes.context / decodes.n + steps - 1 - self.model.context_limit
                self.beyond += max(0, min(steps, math.ceil(over))) if over > 0 else 0
        if self._joules is None or self.joules is None:
            self.joules = None
        else:
            self.joules += float(np.sum(self._joules[:steps]))

    def _computed(self, call: Call, new: int, now: int) -> None:
        """A prompt, or a chunk of it, has been computed."""
        call.computed += new
        if call.computed < call.prompt + call.generated:
            self.partial = call
            return
        if call is self.partial:
            self.partial = None
        self._prompt_over(call, now)

    def _prompt_over(self, call: Call, now: int) -> None:
        """The first token after a prompt, or after one computed anew."""
        call.generated += 1
        if call.first_ns < 0:
            call.first_ns = now
        call.enter(DECODE, now)
        if call.generated < call.output and not self.prefill_only:
            self.decodes.join(call)
        elif call.generated < call.output:
            del self.running[call]
            call.state = "handing"
            self.sink.prefilled(call, now)
        else:
            self._last_token(call, now)

    def _last_token(self, call: Call, now: int) -> None:
        decoded = call.state == "decoding"
        call.last_ns = now
        if self.rules.drain:  # its slot and its blocks stay taken, and it is computed as padding
            call.generated = call.output
            if not decoded:
                self.decodes.join(call)
            call.state = "padding"
            self.decodes.left -= 1
            if not self.decodes.left:
                self._drain()
        else:
            if decoded:
                self.decodes.leave(call)
            call.generated, call.state = call.output, ""
            del self.running[call]
            self.release(call, keep=False)
        self.sink.finished(call, now)

    def _drain(self) -> None:
        """The last call of a static batch has ended: all slots and blocks are free."""
        for call in [call for call in self.running if call.lane is self.decodes]:
            self.blocks.release(call, keep=False)
            del self.running[call]
        self.decodes.clear()

    def contexts(self) -> list[tuple[int, int]]:
        """(cached prompt tokens, generated tokens in the cache) of each decoding call."""
        found = []
        for call in self.running:
            if call.lane is self.decodes and call.state in ("decoding", "padding"):
                cached = call.base + self.decodes.counter
                found.append((min(cached, call.prompt), max(0, cached - call.prompt)))
        return found

    def _drop_gone(self) -> None:
        for call in self._gone:
            if call.state == "waiting":
                self.waiting.remove(call)
                self.queued_tokens -= call.prompt + call.generated
            elif call is self.partial or call.state == "decoding":
                if call is self.partial:
                    self.partial = None
                else:
                    self.decodes.leave(call)
                    if not self.rules.reserve:
                        call.private = -(-call.computed // self.blocks.tokens) - call.held
                del self.running[call]
                self.blocks.release(call, keep=False)
                self.decodes.left -= 1
            call.state = ""
        self._gone.clear()
        if self.rules.drain and not self.decodes.left:
            self._drain()
