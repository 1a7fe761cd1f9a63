"""Who gets slots and KV blocks of a client: admission, growth, preemption."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hermes_sim.batching import Batching
from hermes_sim.blocks import Blocks
from hermes_sim.calls import DECODE, PREEMPTED, PREFILL, Call
from hermes_sim.decodes import Decodes

Prefill = tuple[Call, int]


@dataclass(frozen=True, slots=True)
class Site:
    """What a client is beside its model of time.

    kv_bytes: of a sequence of so many tokens. layers: over which they are spread. place: node of
    the network. devices: that it takes. demand: tokens whose blocks a call of (prompt, output)
    needs at most, where a cache does not grow by the token; None: prompt and output.
    """

    kv_bytes: Callable[[int], float] = float
    layers: int = 1
    place: str | None = None
    devices: int = 1
    demand: Callable[[int, int], int] | None = None


class Admission:
    """The queue, the running calls and their blocks.

    running: in order of admission; a prompt that is computed in part comes last.
    """

    def __init__(
        self, index: int, rules: Batching, blocks: Blocks, site: Site, prefill_only: bool = False
    ) -> None:
        self.prefill_only = prefill_only
        self.index, self.rules, self.blocks, self.site = index, rules, blocks, site
        self.waiting: deque[Call] = deque()
        self.running: dict[Call, None] = {}
        self.partial: Call | None = None
        self.decodes = Decodes(blocks.tokens, not rules.reserve)
        self.queued_tokens = 0  # of waiting calls, to be computed
        self.preemptions = 0

    def holds(self, prompt: int, output: int) -> bool:
        """Whether a call can run alone. The last token of an output is never in the cache."""
        if self.rules.reserve:
            tokens = self.reserved(prompt, output)
        else:
            tokens = prompt + max(1, output) - 1
        return -(-tokens // self.blocks.tokens) <= self.blocks.total

    def reserved(self, prompt: int, output: int) -> int:
        """Tokens whose blocks a call takes at admission, where its whole length is reserved."""
        if self.prefill_only:
            output = 1
        return prompt + output if self.site.demand is None else self.site.demand(prompt, output)

    def enqueue(self, call: Call, first: bool = False) -> None:
        """Into the queue, behind its equals, or before them."""
        call.state = "waiting"
        self.queued_tokens += call.prompt + call.generated
        waiting, at = self.waiting, 0
        if self.rules.queue == "fcfs":
            (waiting.appendleft if first else waiting.append)(call)
            return
        rank = self._rank(call)
        if first:
            at = next((i for i, one in enumerate(waiting) if self._rank(one) >= rank), len(waiting))
        else:
            at = len(waiting)
            while at and self._rank(waiting[at - 1]) > rank:
                at -= 1
        waiting.insert(at, call)

    def _rank(self, call: Call) -> int:
        return call.rank if self.rules.queue == "priority" else call.prompt + call.output

    def in_turn(self) -> list[Call]:
        """The running calls in the order in which they get blocks; the last one loses its own."""
        calls = list(self.running)
        if self.rules.queue == "priority":
            calls.sort(key=lambda call: call.rank)
        return calls

    def last(self) -> Call:
        """Who loses its blocks first."""
        if self.rules.queue == "priority":
            return self.in_turn()[-1]
        return next(reversed(self.running))

    def room(self) -> int:
        """Calls that may join now."""
        return self.rules.max_calls - len(self.running)

    def admit(self, now: int, budget: int) -> list[Prefill]:
        """Calls from the queue, one after the other, while tokens, slots and blocks last."""
        rules, blocks, waiting, running = self.rules, self.blocks, self.waiting, self.running
        size = blocks.tokens
        made: list[Prefill] = []
        room = self.room()
        while waiting and budget > 0 and room > 0:
            call = waiting[0]
            total = call.prompt + call.generated
            shared, hit, unused = blocks.found(call)
            cached = max(hit * size, call.carried)
            new = total - cached
            if new > budget:
                if rules.chunks:
                    new = budget
                elif made or (self.decodes.n and not rules.alone):
                    break
            ask = total if rules.whole_prompt_fits else cached + new
            if rules.reserve:
                ask = self.reserved(call.prompt, call.output)
            if -(-ask // size) - hit > blocks.free - unused:
                break
            waiting.popleft()
            self.queued_tokens -= total
            running[call] = None
            call.state = "prefill"
            if hit:
                blocks.reuse(call, shared, hit)
            joins = bool(call.carried and call.generated and cached == total - 1)
            need = ask if rules.reserve else cached + new
            if joins and rules.alone and not rules.reserve:
                need = cached  # its decode step takes the block for the next token
            take = -(-need // size) - hit
            blocks.take(take)
            call.private += take
            call.computed = cached
            self.decodes.left += 1
            room -= 1
            self._admitted(call, cached, total, now)
            budget -= new
            if joins:
                call.enter(DECODE, now)
                self.decodes.join(call)
                continue
            if call.chunks:
                blocks.share(call, cached + new)
            call.enter(PREFILL, now)
            made.append((call, new))
            if cached + new < total:
                break
        return made

    def _admitted(self, call: Call, cached: int, total: int, now: int) -> None:
        if call.started_ns < 0:
            call.started_ns = now
            call.client = self.index
            call.cached_tokens = min(cached, call.prompt)
        elif call.preemptions:
            call.recomputed_tokens += total - cached
        call.decode_client = self.index

    def grow(self, call: Call, tokens: int) -> bool:
        """Blocks for so many tokens of a prompt computed in part, if there are enough."""
        take = max(0, -(-tokens // self.blocks.tokens) - call.private - call.held)
        if take > self.blocks.free:
            return False
        self.blocks.take(take)
        call.private += take
        if call.chunks:
            self.blocks.share(call, tokens)
        return True

    def release(self, call: Call, keep: bool) -> None:
        """Free the blocks of a call that has decoded: it has grown since it joined."""
        if not self.rules.reserve:
            call.private = -(-call.computed // self.blocks.tokens) - call.held
        self.blocks.release(call, keep)

    def blocks_for_decodes(self, now: int) -> bool:
        """Blocks for the next decode iteration; True if calls had to be preempted for them.

        As vLLM does it: in order of admission, or of rank; who lacks a block takes the last one's.
        """
        decodes, blocks = self.decodes, self.blocks
        need = decodes.blocks_needed()
        if need <= blocks.free:
            blocks.take(need)
            return False
        for call in self.in_turn():
            if call.state != "decoding" or not decodes.needs_block(call):
                continue  # it has been preempted, it is a prompt computed in part, or it has room
            while not blocks.free:
                last = self.last()
                self.evict(last, now)
                if last is call:
                    return True
            blocks.take(1)
        return True

    def evict(self, call: Call, now: int) -> None:
        """Preempt: its blocks are freed, it waits first in the queue and is computed anew."""
        if call is self.partial:
            self.partial = None
            self.blocks.release(call, keep=True)
        else:
            call.lane.leave(call)
            self.release(call, keep=True)
        del self.running[call]
        call.computed = call.carried = 0
        call.preemptions += 1
        self.preemptions += 1
        call.enter(PREEMPTED, now)
        self.enqueue(call, first=True)
