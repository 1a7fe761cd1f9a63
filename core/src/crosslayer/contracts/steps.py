"""The shape of one forward pass over a mixed batch: all that its cost depends on.

A batch is a list of sequences, each `(new, cached_prompt, generated)`: tokens fed in this pass,
prompt tokens already in the cache, generated tokens already in the cache. Prefill, decode, chunked
prefill and any mixture are just steps. A sequence decodes if it has generated tokens, or feeds one
token onto a cached prompt; else it prefills: attention over the two kinds is too different to be
averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crosslayer.contracts.kv import AttentionClass
from crosslayer.contracts.model import ModelSpec

LOADS = ("sequences", "queries", "pairs", "kv_tokens", "kv_bytes")
PHASES = ("prefill", "decode")
SequenceState = tuple[int, int, int]
Logits = Literal["last", "all", "none"]


@dataclass(frozen=True, slots=True)
class StepShape:
    """tokens, rows that reach the LM head, sequences; loads[class][phase] = the five numbers of
    `LOADS`.

    Classes are `spec.attention_classes`, in order; phases are `PHASES`. kv_bytes are one layer's.
    """

    tokens: float
    logits_rows: float
    sequences: float
    loads: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()

    @classmethod
    def from_sequences(
        cls, spec: ModelSpec, sequences: Sequence[SequenceState], logits: Logits = "last"
    ) -> StepShape:
        """The shape of one batch; see the module's first lines for the triple."""
        columns = np.array(sequences, dtype=np.int64).reshape(-1, 3)
        table = StepTable.from_sequences(
            spec,
            columns[:, 0],
            columns[:, 1],
            columns[:, 2],
            np.zeros(len(columns), np.int64),
            steps=1,
            logits=logits,
        )
        return table.row(0)

    def load(self, attention_class: int, phase: str) -> dict[str, float]:
        """The load of one attention class in one phase, by name."""
        return dict(zip(LOADS, self.loads[attention_class][PHASES.index(phase)], strict=True))


@dataclass(frozen=True, slots=True)
class StepTable:
    """Many steps in columns: tokens, logits_rows, sequences [steps]; loads [classes, phases, loads,
    steps].
    """

    tokens: NDArray[np.float64]
    logits_rows: NDArray[np.float64]
    sequences: NDArray[np.float64]
    loads: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def from_sequences(
        cls,
        spec: ModelSpec,
        new: ArrayLike,
        cached_prompt: ArrayLike,
        generated: ArrayLike,
        step: ArrayLike | None = None,
        *,
        steps: int | None = None,
        logits: Logits | ArrayLike = "last",
    ) -> StepTable:
        """Columns over sequences [n]; `step[i]` says in which step sequence i takes part (None: one
        step each).

        A sequence without new tokens takes no part. logits: one row for each sequence ("last"), for
        each token ("all"), none, or rows for each sequence [n]. Errors: ValueError for negative
        counts or columns of different length.
        """
        new_, cached, made = (
            np.asarray(column, dtype=np.int64) for column in (new, cached_prompt, generated)
        )
        if not len(new_) == len(cached) == len(made):
            raise ValueError(
                f"columns differ in length: {len(new_)} new, {len(cached)} cached, {len(made)} "
                "generated"
            )
        if len(new_) and min(new_.min(), cached.min(), made.min()) < 0:
            raise ValueError("token counts of a step cannot be negative")
        where = None if step is None else np.asarray(step, dtype=np.int64)
        count = (
            len(new_)
            if where is None
            else (steps if steps is not None else int(where.max(initial=-1)) + 1)
        )

        def total(column: Any) -> NDArray[np.float64]:
            if where is None:
                return np.asarray(column, dtype=np.float64)
            return np.bincount(where, weights=column, minlength=count).astype(np.float64)

        takes_part = new_ > 0
        rows: Any
        if isinstance(logits, str):
            rows = {"last": takes_part, "all": new_, "none": np.zeros_like(new_)}[logits]
        else:
            rows = np.where(takes_part, np.asarray(logits, dtype=np.int64), 0)
        decoding = (made > 0) | ((new_ == 1) & (cached > 0))
        classes = spec.attention_classes
        loads = np.zeros((len(classes), len(PHASES), len(LOADS), count))
        for c, attention_class in enumerate(classes):
            columns = (takes_part, *attention_load(attention_class, new_, cached, made))
            for p, chosen in enumerate((~decoding, decoding)):
                for f, column in enumerate(columns):
                    loads[c, p, f] = total(np.where(chosen, column, 0))
        return cls(total(new_), total(rows), total(takes_part), loads)

    @classmethod
    def from_shapes(cls, shapes: Sequence[StepShape]) -> StepTable:
        """Columns from single shapes."""
        loads = np.array([shape.loads for shape in shapes], dtype=np.float64)
        if loads.ndim < 4:  # a model without attention
            loads = np.zeros((len(shapes), 0, len(PHASES), len(LOADS)))
        return cls(
            np.array([shape.tokens for shape in shapes], dtype=np.float64),
            np.array([shape.logits_rows for shape in shapes], dtype=np.float64),
            np.array([shape.sequences for shape in shapes], dtype=np.float64),
            np.ascontiguousarray(np.moveaxis(loads, 0, -1)),
        )

    def row(self, index: int) -> StepShape:
        """One step."""
        loads = tuple(
            tuple(tuple(float(x) for x in self.loads[c, p, :, index]) for p in range(len(PHASES)))
            for c in range(self.loads.shape[0])
        )
        return StepShape(
            float(self.tokens[index]),
            float(self.logits_rows[index]),
            float(self.sequences[index]),
            loads,  # type: ignore[arg-type]
        )


def attention_load(
    attention_class: AttentionClass, new: Any, cached: Any, generated: Any
) -> tuple[Any, Any, Any, Any]:
    """(queries, pairs, KV tokens read, KV bytes read) of sequences in one layer; numbers or
    columns.

    Query i of n (from 1) sees the live cache and the new keys up to its own, at most `window` of
    them; without a causal mask every query sees all. Eviction acts between passes, never inside
    one.
    """
    live, live_bytes = attention_class.live(cached, generated)
    per_token = attention_class.kv_bytes_per_token
    window = attention_class.window
    if not attention_class.causal:
        pairs, read, read_bytes = new * (live + new), live + new, live_bytes + new * per_token
    elif window is None:
        pairs = new * live + new * (new + 1) // 2
        read, read_bytes = live + new, live_bytes + new * per_token
    else:
        growing = np.clip(window - live, 0, new)  # queries that do not fill the window yet
        pairs = growing * live + growing * (growing + 1) // 2 + (new - growing) * window
        read = np.minimum(live, window - 1) + new
        if attention_class.kv_curve is None:
            read_bytes = read * per_token
        else:
            read_bytes = live_bytes + new * per_token
    idle = np.asarray(new) == 0
    return new, pairs, np.where(idle, 0, read), np.where(idle, 0, read_bytes)
