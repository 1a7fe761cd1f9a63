"""A model call on its way through clients, and the columns that are kept of every call."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEVER = -1
# What a call's time is spent on; the shares add up to its end-to-end time exactly.
PHASES = ("fetch", "queue", "prefill", "hand_off", "decode_queue", "decode", "preempted")
COLUMNS = (
    *("row", "arrival_ns", "started_ns", "first_ns", "last_ns", "prompt_tokens", "output_tokens"),
    *("cached_tokens", "recomputed_tokens", "preemptions", "client", "decode_client", "status"),
    *(f"{phase}_ns" for phase in PHASES),
)
FINISHED, FAILED, CANCELLED = 0, 1, 2


class Call:
    """One model call. Instants in nanoseconds; -1 where something has not happened.

    computed: tokens whose keys and values are in the cache while it does not decode. base: while it
    decodes, computed less the client's decode counter. chunks: hashes of the prompt, one a chunk of
    `chunk_tokens`; keys: of its blocks, for clients with blocks of `key_tokens`. held: blocks that
    it shares now, private: blocks of its own. carried: tokens whose keys and values come along from
    elsewhere. lane: the decodes that it is one of, or was last. flying: steps on their way that
    compute its prompt. rank: lower ones are served first, where priorities count.
    own_from: position of the first block of its own that was kept when it was preempted.
    """

    __slots__ = (
        "arrival_ns", "base", "cached_tokens", "cancelled", "carried", "chunk_tokens", "chunks",
        "client", "computed", "decode_client", "ends_at", "first_ns", "flying", "generated", "held",
        "id", "key_tokens", "keys", "lane", "last_ns", "mark_ns", "model", "output", "own_from",
        "phase", "preemptions", "private", "prompt", "rank", "recomputed_tokens", "row", "session",
        "spent", "started_ns", "state", "tag",
    )  # fmt: skip

    def __init__(self, row: int, arrival_ns: int, prompt: int, output: int) -> None:
        self.row, self.arrival_ns, self.prompt, self.output = row, arrival_ns, prompt, output
        self.id: Any = row
        self.model = ""
        self.session: Any = None
        self.chunks: Sequence[int] = ()
        self.keys: Sequence[int] = ()
        self.chunk_tokens = self.key_tokens = 0
        self.computed = self.generated = self.base = self.ends_at = 0
        self.cached_tokens = self.recomputed_tokens = self.preemptions = self.carried = 0
        self.held = self.private = self.flying = self.rank = 0
        self.own_from = 0
        self.lane: Any = None
        self.started_ns = self.first_ns = self.last_ns = NEVER
        self.client = self.decode_client = NEVER
        self.phase, self.mark_ns = 1, arrival_ns
        self.spent = [0, 0, 0, 0, 0, 0, 0]
        self.state, self.cancelled = "", False
        self.tag: Any = None

    def enter(self, phase: int, now_ns: int) -> None:
        """From now on its time goes to another of `PHASES`."""
        self.spent[self.phase] += now_ns - self.mark_ns
        self.phase, self.mark_ns = phase, now_ns


FETCH, QUEUE, PREFILL, HAND_OFF, DECODE_QUEUE, DECODE, PREEMPTED = range(7)


class Ledger:
    """What became of each call, a column each, in order of ending: 8 bytes a number."""

    def __init__(self) -> None:
        self._columns = [array("q") for _ in COLUMNS]
        self._append = [column.append for column in self._columns]

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(self, call: Call, status: int) -> None:
        """Keep a call that has ended."""
        values = (
            *(call.row, call.arrival_ns, call.started_ns, call.first_ns, call.last_ns),
            *(call.prompt, call.generated, call.cached_tokens, call.recomputed_tokens),
            *(call.preemptions, call.client, call.decode_client, status),
            *call.spent,
        )
        for append, value in zip(self._append, values, strict=True):
            append(value)

    def columns(self) -> dict[str, NDArray[np.int64]]:
        """The columns by name, in order of the calls' rows."""
        made = {
            name: np.frombuffer(column, dtype=np.int64) if len(column) else np.zeros(0, np.int64)
            for name, column in zip(COLUMNS, self._columns, strict=True)
        }
        order = np.argsort(made["row"], kind="stable")
        return {name: column[order] for name, column in made.items()}
