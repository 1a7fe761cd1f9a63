"""Continuous Thinking without a model: blocks, slots, groups and bytes of one layer, in counts.

A timeline of thoughts drives the same ladder and the same allocation as the real store; which
tokens of a segment survive is a model (evenly spread, or random with a seed). It gives the KV curve
of a spec, the bytes alive over a context, and what eviction by gathering would have moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thinkv.layout import GROUP, CacheFormat, Layout
from thinkv.thoughts import PROMPT, Rules, Shrink, Thought, Timeline

FREE = -1


@dataclass
class Trajectory:
    """One row each time a group of 16 generated tokens has been stored.

    alive: generated tokens that are alive. bytes_: allocated, of one layer, prompt and tables
    included. payload: of live slots alone. moved: bytes that eviction by gathering would have
    copied so far; Continuous Thinking copies none.
    """

    generated: list[int] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)
    bytes_: list[int] = field(default_factory=list)
    payload: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)


class SimulatedPool:
    """Slots of one format: which are live, in which block, of which segment and group."""

    def __init__(self, format: CacheFormat, layout: Layout) -> None:
        self.format, self.layout = format, layout
        self.thought = np.empty(0, dtype=np.int8)  # [blocks]
        self.live = np.empty(0, dtype=bool)  # [slots]
        self.written = np.empty(0, dtype=bool)
        self.segment = np.empty(0, dtype=np.int64)
        self.group = np.empty(0, dtype=np.int64)
        self.references = np.empty(0, dtype=np.int64)
        self.reused = self.fresh = 0

    @property
    def bytes(self) -> int:
        """Allocated bytes: slots, blocks, groups."""
        return (
            len(self.live) * self.layout.slot_bytes(self.format)
            + len(self.thought)
            + len(self.references) * self.layout.group_bytes(self.format)
        )

    def write(self, tokens: int, thought: Thought, segment: int) -> None:
        """Store tokens of one segment in groups of 16."""
        for start in range(0, tokens, GROUP):
            count = min(GROUP, tokens - start)
            slots = self._take(count, thought)
            self.live[slots] = self.written[slots] = True
            self.segment[slots] = segment
            if self.format.scaled:
                free = np.flatnonzero(self.references == 0)
                if not len(free):
                    self.references = np.append(self.references, 0)
                    free = np.array([len(self.references) - 1])
                self.group[slots] = free[0]
                self.references[free[0]] = count

    def keep(self, shrink: Shrink, rng: np.random.Generator | None) -> int:
        """Evict all but some slots of a segment, evenly spread or drawn; returns how many went."""
        slots = np.flatnonzero(self.live & (self.segment == shrink.start))
        if rng is None:
            kept = slots[np.arange(shrink.tokens) * len(slots) // shrink.tokens]
        else:
            kept = rng.choice(slots, shrink.tokens, replace=False)
        gone = np.setdiff1d(slots, kept)
        self.live[gone] = False
        if self.format.scaled:
            np.subtract.at(self.references, self.group[gone], 1)
        dead = ~self.live.reshape(-1, self.layout.block_tokens).any(1)
        self.thought[dead] = FREE
        self.written.reshape(-1, self.layout.block_tokens)[dead] = False
        return len(gone)

    def _take(self, tokens: int, thought: Thought) -> NDArray[np.int64]:
        size = self.layout.block_tokens
        free = np.flatnonzero(np.repeat(self.thought == thought, size) & ~self.live)[:tokens]
        reused = int(self.written[free].sum())
        self.reused += reused
        self.fresh += tokens - reused
        missing = tokens - len(free)
        if missing:
            blocks = -(-missing // size)
            empty = np.flatnonzero(self.thought == FREE)[:blocks]
            more = blocks - len(empty)
            if more:
                empty = np.append(empty, np.arange(len(self.thought), len(self.thought) + more))
                self._grow(more)
            self.thought[empty] = int(thought)
            offsets = (empty[:, None] * size + np.arange(size)).ravel()
            free = np.append(free, offsets[:missing])
        return free

    def _grow(self, blocks: int) -> None:
        slots = blocks * self.layout.block_tokens
        self.thought = np.append(self.thought, np.full(blocks, FREE, dtype=np.int8))
        self.live = np.append(self.live, np.zeros(slots, dtype=bool))
        self.written = np.append(self.written, np.zeros(slots, dtype=bool))
        self.segment = np.append(self.segment, np.zeros(slots, dtype=np.int64))
        self.group = np.append(self.group, np.zeros(slots, dtype=np.int64))


class LayerSimulation:
    """One layer of one sequence. rng None: survivors are evenly spread over their segment."""

    def __init__(
        self, layout: Layout, rules: Rules, rng: np.random.Generator | None = None
    ) -> None:
        self.layout, self.rng = layout, rng
        self.timeline = Timeline(rules)
        self.pools: dict[str, SimulatedPool] = {}
        self.evicted = self.moved = 0

    def pool(self, thought: Thought) -> SimulatedPool:
        """The pool of a type's format."""
        format = self.layout.formats[thought]
        return self.pools.setdefault(format.name, SimulatedPool(format, self.layout))

    def prompt(self, tokens: int) -> None:
        """Store a prompt: type R, never evicted."""
        self.pool(Thought.REASONING).write(tokens, Thought.REASONING, PROMPT)

    def generate(self, labels: Sequence[Thought], tokens: int, counted: int = 0) -> Trajectory:
        """Generate tokens (a multiple of 16 is stored); segment i has label labels[i % len].

        counted: prompt tokens that take their share of the budget.
        """
        found = Trajectory()
        for _ in range(tokens // GROUP):
            current = self.timeline.current
            self.timeline.add(GROUP)
            self.pool(current.thought).write(GROUP, current.thought, current.start)
            if self.timeline.room == 0:
                label = labels[len(self.timeline.segments) % len(labels)]
                self._apply(self.timeline.open(label))
            self._apply(self.timeline.fit(counted))
            found.generated.append(self.timeline.generated)
            found.alive.append(self.timeline.alive)
            found.bytes_.append(self.bytes)
            found.payload.append(self.payload)
            found.moved.append(self.moved)
        return found

    @property
    def bytes(self) -> int:
        """Allocated bytes, without the buffer (it holds 0 to 15 tokens between passes)."""
        return sum(pool.bytes for pool in self.pools.values())

    @property
    def payload(self) -> int:
        """Codes of live slots."""
        return sum(
            int(pool.live.sum())
            * 2
            * self.layout.kv_heads
            * pool.format.row_bytes(self.layout.head_dim)
            for pool in self.pools.values()
        )

    @property
    def reused(self) -> int:
        """Slots that were overwritten in place."""
        return sum(pool.reused for pool in self.pools.values())

    @property
    def dead(self) -> int:
        """Allocated slots that hold nothing alive: what is lost to fragmentation now."""
        return sum(int((~pool.live).sum()) for pool in self.pools.values())

    def _apply(self, shrinks: Sequence[Shrink]) -> None:
        thoughts = {segment.start: segment.thought for segment in self.timeline.segments}
        for shrink in shrinks:
            self.evicted += self.pool(thoughts[shrink.start]).keep(shrink, self.rng)
        if shrinks:
            self.moved += self.payload  # gathering rewrites every survivor
