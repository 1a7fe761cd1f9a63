"""Thoughts and their segments: the ladder and the budget rule of TBE, in token counts alone.

ThinKV section 5 (think before you evict). No tensors: the cache asks a Timeline which segments to
shrink, and the simulator and the spec's KV curve ask the very same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

Trigger = Literal["segment", "entry", "end", "never"]
HeadReduce = Literal["max-logit", "mean"]  # how grouped heads become one attention row
PROMPT = -1  # the segment start of prompt tokens
CUT = 0.01  # below this share of its row's maximum a weight counts as unused


class Thought(IntEnum):
    """Types of thought by importance rho: transition < execution < reasoning."""

    TRANSITION = 0
    EXECUTION = 1
    REASONING = 2

    @property
    def letter(self) -> str:
        """T, E or R, as in "R4E4T2"."""
        return self.name[0]


def thought_of(sparsity: float | None, thresholds: tuple[float, float] | None) -> Thought:
    """Below theta 1: E; from there below theta 2: R; from theta 2 on: T. Nothing to go by: R."""
    if thresholds is None or sparsity is None:
        return Thought.REASONING
    low, high = thresholds
    if sparsity < low:
        return Thought.EXECUTION
    return Thought.REASONING if sparsity < high else Thought.TRANSITION


@dataclass(frozen=True)
class Rules:
    """segment_tokens: refresh interval tau. schedule: tokens that a segment keeps after its 1st,
    2nd, ... selection; the last one is the least that it ever keeps. budget_tokens: k, None for no
    budget. trigger: which transitions shrink what came before: every T segment, only one that
    follows another type ("entry"), the segment after a T ("end"), or none ("never").
    """

    segment_tokens: int = 128
    schedule: tuple[int, ...] = (64, 32, 16, 8, 4)
    budget_tokens: int | None = 1024
    trigger: Trigger = "segment"

    def floor(self, generated: int) -> int:
        """The fewest tokens that can be alive: k below it is unreachable, whatever is evicted."""
        whole, rest = divmod(generated, self.segment_tokens)
        if whole and not rest:  # the segment that is just full has no successor yet
            whole, rest = whole - 1, self.segment_tokens
        return whole * min(self.schedule[-1], self.segment_tokens) + rest


@dataclass
class Segment:
    """Generated tokens start .. start + segment_tokens: their type, how many are alive, how often
    the segment was selected."""

    start: int
    thought: Thought
    alive: int = 0
    selected: int = 0


@dataclass(frozen=True)
class Shrink:
    """Keep `tokens` of the segment that starts at `start`."""

    start: int
    tokens: int


@dataclass
class Timeline:
    """The segments of one sequence. The first is R; `open` begins the next with its label."""

    rules: Rules
    first: Thought = Thought.REASONING
    segments: list[Segment] = field(default_factory=list)
    calls: int = 0  # how often anything was shrunk

    def __post_init__(self) -> None:
        if not self.segments:
            self.segments.append(Segment(0, self.first))

    @property
    def current(self) -> Segment:
        """The segment that is filling; it is never shrunk."""
        return self.segments[-1]

    @property
    def generated(self) -> int:
        """Tokens seen since the prompt, alive or not."""
        return self.current.start + self.current.alive

    @property
    def alive(self) -> int:
        """Generated tokens that are alive."""
        return sum(segment.alive for segment in self.segments)

    @property
    def room(self) -> int:
        """Tokens until the next refresh."""
        return self.rules.segment_tokens - self.current.alive

    def add(self, tokens: int) -> None:
        """Tokens of the current segment; at most `room`."""
        if tokens > self.room:
            raise ValueError(f"{tokens} tokens in a segment that has room for {self.room}")
        self.current.alive += tokens

    def open(self, thought: Thought) -> list[Shrink]:
        """Begin the next segment; case 1: a transition lowers every segment before it by a rung."""
        if self.room:
            raise ValueError(f"the segment at {self.current.start} still has room for {self.room}")
        before = self.current.thought
        self.segments.append(Segment(self.generated, thought))
        transition, was = thought == Thought.TRANSITION, before == Thought.TRANSITION
        fires = {
            "segment": transition,
            "entry": transition and not was,
            "end": was and not transition,
            "never": False,
        }[self.rules.trigger]
        if not fires:
            return []
        return self._counted(shrink for one in self.segments[:-1] for shrink in self._lower(one))

    def fit(self, extra: int = 0) -> list[Shrink]:
        """Case 2: lower the oldest of the least important segments until all fits the budget.

        extra: tokens that count beside the generated ones. What no rung can reach stays.
        """
        if self.rules.budget_tokens is None:
            return []
        found: dict[int, Shrink] = {}
        while self.alive + extra > self.rules.budget_tokens:
            least = self.rules.schedule[-1]
            left = [s for s in self.segments[:-1] if s.alive > least]
            if not left:
                break
            chosen = min(left, key=lambda s: (s.thought, s.start))
            for shrink in self._lower(chosen):
                found[shrink.start] = shrink
        return self._counted(iter(found.values()))

    def unreachable(self, extra: int = 0) -> bool:
        """Whether the budget lies below what no eviction can go under. Tokens that wait for their
        group to be stored may exceed a budget that is reached once they are."""
        budget = self.rules.budget_tokens
        return budget is not None and self.rules.floor(self.generated) + extra > budget

    def _lower(self, segment: Segment) -> Iterator[Shrink]:
        rung = self.rules.schedule[min(segment.selected, len(self.rules.schedule) - 1)]
        segment.selected += 1
        if rung < segment.alive:
            segment.alive = rung
            yield Shrink(segment.start, rung)

    def _counted(self, shrinks: Iterator[Shrink]) -> list[Shrink]:
        found = list(shrinks)
        self.calls += bool(found)
        return found
