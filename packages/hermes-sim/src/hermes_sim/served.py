"""What a policy loop served, as columns: a row a request, so that a million of them fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from crosslayer.contracts.calls import LLMCall
from crosslayer.contracts.serving import CallResult, ServedRequest
from hermes_sim.calls import FAILED, FINISHED
from hermes_sim.outcome import Outcome

PARTS = ("to the first token of any call", "from there")


class ServedRows:
    """Requests as they end. A call counts with its prompt and the tokens it made, up to its
    cancellation if it had one; one that is left running, with all it comes to.
    """

    def __init__(self, books: dict[str, tuple[int, int]]) -> None:
        """books: the service's own, of (cached tokens, preemptions) of calls that have ended."""
        self._books = books
        self._rows: list[tuple[int, ...]] = []
        self._labels: list[tuple[str, str | None]] = []
        self._reasons: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, one: ServedRequest) -> None:
        """Keep what is needed of a request that is over."""
        arrival, end = one.request.arrival_ns, one.finished_ns
        last = max(one.results, key=lambda result: result.finished.finished_ns, default=None)
        firsts = [
            result.finished.first_token_ns
            for result in one.results
            if result.finished.first_token_ns is not None
        ]
        failed = [result for result in one.results if result.finish_reason == "failed"]
        bad = bool(failed) and len(failed) == len(one.results)
        if bad:
            self._reasons[failed[0].finished.reason] += 1
        first = last.finished.first_token_ns if last is not None else None
        first = first if first is not None else min(firsts, default=-1)
        after = max(0, end - last.finished.finished_ns) if last is not None else 0
        ended = one.results + one.cancelled
        spent: tuple[CallResult | LLMCall, ...] = (*ended, *one.left_running)
        booked = [self._books.pop(result.finished.call_id, (0, 0)) for result in ended]
        start = min(firsts) if firsts else end
        self._labels.append((one.request.id, one.request.slo_class))
        self._rows.append(
            (
                arrival, first, end, sum(call.prompt_tokens for call in spent),
                last.output_tokens if last is not None else 0, FAILED if bad else FINISHED,
                sum(preemptions for _, preemptions in booked), sum(cached for cached, _ in booked),
                after, len(spent), sum(call.output_tokens or 0 for call in spent),
                start - arrival, end - start,
            )
        )  # fmt: skip

    def outcome(self, position: Mapping[str, int], censored: int = 0) -> Outcome:
        """All of them in order of arrival, equals by their position (by id)."""
        order = sorted(
            range(len(self._rows)),
            key=lambda i: (self._rows[i][0], position.get(self._labels[i][0], i)),
        )
        table = np.array([self._rows[i] for i in order], dtype=np.int64).reshape(-1, 13)
        arrival, first, last, prompt, output, status, preemptions, cached, *more = table.T
        after, calls, made, *parts = more
        return Outcome(
            np.arange(len(order)), arrival, first, last, prompt, output, status, preemptions,
            cached, dict(zip(PARTS, parts, strict=True)), censored=censored,
            classes=[self._labels[i][1] for i in order], reasons=self._reasons,
            ids=[self._labels[i][0] for i in order], after_ns=after, calls=calls,
            made_tokens=made,
        )  # fmt: skip
