"""What became of requests, in columns, whatever they were made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.requests import RequestTrace
from hermes_sim.calls import FINISHED
from hermes_sim.metrics import Calls, Floats

Ints = NDArray[np.int64]
LABELS = {
    "fetch": "KV fetch", "queue": "queue", "prefill": "prefill", "hand_off": "KV hand-off",
    "decode_queue": "decode queue", "decode": "decode", "preempted": "preempted",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Requests that ended, in order of arrival. Instants in nanoseconds; first_ns -1: no token.

    first_ns: the first token of a request's last call. breakdown: nanoseconds of each request by
    what they went to; they add up to last_ns - arrival_ns. classes: SLO class of each, None for
    none. censored: requests that had not ended at the end of the simulation. reasons: why requests
    failed, how often. after_ns: what came after the last token of the last call; None: nothing.
    output_tokens: of the last call; prompt_tokens, cached_tokens, preemptions: of all calls, like
    calls, how many, and made_tokens, what they made (None: one, and its output_tokens), of which
    those that were cancelled count with what they had made by then. stage_ns: for how long servers
    of each kind of stage served.
    """

    rows: Ints
    arrival_ns: Ints
    first_ns: Ints
    last_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    status: Ints
    preemptions: Ints
    cached_tokens: Ints
    breakdown: Mapping[str, Ints]
    classes: Sequence[str | None] | None = None
    censored: int = 0
    reasons: Mapping[str, int] = field(default_factory=Counter)
    ids: Sequence[str] | None = None
    after_ns: Ints | None = None
    calls: Ints | None = None
    made_tokens: Ints | None = None
    stage_ns: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Which of them were answered."""
        found: NDArray[np.bool_] = self.status == FINISHED
        return found

    def counted(self, skip_s: float) -> NDArray[np.bool_]:
        """Which of them count in latencies: answered, and no part of the warm-up."""
        return self.finished & (self.arrival_ns >= round(skip_s * 1e9))

    def latencies(self) -> dict[str, Floats]:
        """ttft, tpot (NaN for a request of one token) and e2e of each request, in seconds."""
        nan = np.full(len(self), np.nan)
        some = self.first_ns >= 0
        ttft, tpot = nan.copy(), nan.copy()
        ttft[some] = (self.first_ns - self.arrival_ns)[some] / 1e9
        gaps = self.output_tokens - 1
        many = some & (gaps > 0)
        # The last token is the end of decoding; what comes after it is no part of TPOT.
        decoded = self.decoded_ns - self.first_ns
        tpot[many] = decoded[many] / 1e9 / gaps[many]
        return {"ttft": ttft, "tpot": tpot, "e2e": (self.last_ns - self.arrival_ns) / 1e9}

    @property
    def all_calls(self) -> Ints:
        """Calls of each request."""
        return np.ones(len(self), dtype=np.int64) if self.calls is None else self.calls

    @property
    def all_tokens(self) -> Ints:
        """Output tokens of all calls of each request."""
        return self.output_tokens if self.made_tokens is None else self.made_tokens

    @property
    def decoded_ns(self) -> Ints:
        """The last token of each request's last call."""
        return self.last_ns if self.after_ns is None else self.last_ns - self.after_ns

    @property
    def span_s(self) -> float:
        """First arrival to last end."""
        return float(self.last_ns.max() - self.arrival_ns.min()) / 1e9 if len(self) else 0.0


def of_calls(calls: Calls, trace: RequestTrace, reasons: Mapping[str, int]) -> Outcome:
    """Requests that were one call each."""
    rows = calls["row"]
    label = trace.slo_class
    classes = None if label is None else [label.at(int(row)) for row in rows]
    return Outcome(
        rows=rows,
        arrival_ns=calls["arrival_ns"],
        first_ns=calls["first_ns"],
        last_ns=calls["last_ns"],
        prompt_tokens=calls["prompt_tokens"],
        output_tokens=calls["output_tokens"],
        status=calls["status"],
        preemptions=calls["preemptions"],
        cached_tokens=calls["cached_tokens"],
        breakdown={text: calls[f"{name}_ns"] for name, text in LABELS.items()},
        classes=classes,
        censored=len(trace) - len(calls),
        reasons=reasons,
        ids=None if trace.ids is None else [trace.ids[int(row)] for row in rows],
    )
