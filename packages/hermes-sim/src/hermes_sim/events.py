"""The event queue: integer nanoseconds, a stable order at one instant.

At one instant ends come first (of steps, transfers, stages), then arrivals, then begins of steps,
so that whatever an end causes can join the step that begins at that instant. Equals go in the order
in which they were pushed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

END, ARRIVE, BEGIN = 0, 1, 2
Action = Callable[[int, Any], None]


class Events:
    """What happens when. `now_ns` is the instant of the last event taken."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.heap: list[tuple[int, int, int, Action, Any]] = []
        self._pushed = 0
        self.stepwise = False  # whether others may add something at the instant of an end

    def push(self, at_ns: int, order: int, action: Action, what: Any = None) -> None:
        """`action(at_ns, what)` is called at that instant."""
        self._pushed += 1
        heapq.heappush(self.heap, (at_ns, order, self._pushed, action, what))

    def busy_now(self) -> bool:
        """Whether something else happens at this instant."""
        return bool(self.heap) and self.heap[0][0] == self.now_ns

    def run(self, until_ns: int) -> None:
        """Everything up to and including `until_ns`."""
        heap, pop = self.heap, heapq.heappop
        while heap and heap[0][0] <= until_ns:
            at_ns, _, _, action, what = pop(heap)
            self.now_ns = at_ns
            action(at_ns, what)

    def run_instant(self) -> bool:
        """The ends and arrivals of the next instant; False if there are only begins.

        Begins wait, so that what an end causes elsewhere can arrive before them.
        """
        heap = self.heap
        at_ns = self.now_ns = heap[0][0]
        some = False
        while heap and heap[0][0] == at_ns and heap[0][1] != BEGIN:
            some = True
            _, _, _, action, what = heapq.heappop(heap)
            action(at_ns, what)
        return some

    def run_begins(self) -> None:
        """The begins of this instant, up to the first event that is none."""
        heap, at_ns = self.heap, self.now_ns
        while heap and heap[0][0] == at_ns and heap[0][1] == BEGIN:
            _, _, _, action, what = heapq.heappop(heap)
            action(at_ns, what)
