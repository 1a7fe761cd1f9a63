"""The decoding calls of a client as a few numbers that an iteration changes in no time.

Each iteration feeds every call one token. So a call keeps only its difference to a counter of
iterations, and the sum of contexts, the next end and the blocks that are needed follow from sums.
"""

from __future__ import annotations

import heapq

from hermes_sim.calls import Call


class Decodes:
    """n calls whose contexts (cached tokens and the one that is fed) sum to `context`.

    counter: iterations so far. phases[p]: calls that need a new block in iterations with counter %
    block_tokens = p. paged False: blocks are reserved, none is needed while decoding. left: calls
    of a batch that is drained that have not ended. changes: how often somebody joined or left.
    """

    def __init__(self, block_tokens: int, paged: bool) -> None:
        self.n = self.context = self.counter = 0
        self.block_tokens, self.paged = block_tokens, paged
        self.phases = [0] * block_tokens
        self.left = self.changes = 0
        self._ends: list[tuple[int, int, Call]] = []
        self._pushed = 0

    def join(self, call: Call) -> None:
        """From the next iteration on it decodes; call.computed tokens are in the cache."""
        call.state, call.lane = "decoding", self
        self.changes += 1
        call.base = call.computed - self.counter
        call.ends_at = self.counter + call.output - call.generated
        self._pushed += 1
        heapq.heappush(self._ends, (call.ends_at, self._pushed, call))
        self.n += 1
        self.context += call.computed + 1
        if self.paged:
            self.phases[-call.base % self.block_tokens] += 1

    def leave(self, call: Call) -> None:
        """It decodes no longer. Brings its computed and generated tokens up to date."""
        call.computed = call.base + self.counter
        call.generated = call.output - (call.ends_at - self.counter)
        call.state = ""
        self.changes += 1
        self.n -= 1
        self.context -= call.computed + 1
        if self.paged:
            self.phases[-call.base % self.block_tokens] -= 1

    def made(self, call: Call, steps: int) -> int:
        """Output tokens of a call that decodes, so many iterations from here."""
        return call.output - (call.ends_at - self.counter) + steps

    def clear(self) -> None:
        """Nobody decodes."""
        self.n = self.context = 0
        self.changes += 1
        self.phases = [0] * self.block_tokens
        self._ends.clear()

    def advance(self, steps: int) -> None:
        """So many iterations are over."""
        self.counter += steps
        self.context += steps * self.n

    def ended(self) -> Call | None:
        """A call that has fed its last token; None when there is no more."""
        ends = self._ends
        while ends and ends[0][0] <= self.counter:
            ends_at, _, call = heapq.heappop(ends)
            if self._is(call, ends_at):
                return call
        return None

    def _is(self, call: Call, ends_at: int) -> bool:
        """Whether what was pushed for a call still holds."""
        return call.ends_at == ends_at and call.state == "decoding" and call.lane is self

    def steps_to_an_end(self) -> int:
        """Iterations up to the first in which a call ends."""
        ends = self._ends
        while not self._is(ends[0][2], ends[0][0]):
            heapq.heappop(ends)
        return ends[0][0] - self.counter

    def needs_block(self, call: Call) -> bool:
        """Whether the next iteration opens a block for it."""
        return self.paged and (call.base + self.counter) % self.block_tokens == 0

    def blocks_needed(self) -> int:
        """Blocks that the next iteration opens."""
        return self.phases[self.counter % self.block_tokens]

    def growth(self, steps: int) -> int:
        """Blocks that so many iterations need, the first one not counted."""
        if not self.paged or steps < 2:
            return 0
        size, first = self.block_tokens, self.counter + 1
        cycles, rest = divmod(steps - 1, size)
        phases = self.phases
        return cycles * self.n + sum(phases[(first + j) % size] for j in range(rest))

    def steps_with_blocks(self, steps: int, free: int) -> int:
        """How many of these iterations find their blocks; the first one has them already."""
        n, size = self.n, self.block_tokens
        if not self.paged or (steps // size + 1) * n <= free:
            return steps
        cycles = free // n
        left, j = free - cycles * n, 1 + cycles * size
        while j < steps:
            left -= self.phases[(self.counter + j) % size]
            if left < 0:
                break
            j += 1
        return min(j, steps)
