"""What clients did: a row a step, or a run of equal ones, in columns of 8 bytes a number."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

FIELDS = (
    *("client", "start_ns", "end_ns", "iterations", "decoding", "context", "prompt_tokens"),
    *("waiting", "kv_blocks"),
)


class Tape:
    """Rows of `FIELDS`: decoding calls and the sum of their contexts at the start, prompt tokens
    computed, calls that wait and blocks that are taken at the end. limit: rows kept; further ones
    are counted only.
    """

    def __init__(self, limit: int = 2_000_000) -> None:
        self.limit = limit
        self.rows = self.iterations = self.busy_ns = 0
        self._values = array("q")

    def step(self, *values: int) -> None:
        """Keep a row."""
        self.rows += 1
        self.iterations += values[3]
        self.busy_ns += values[2] - values[1]
        if self.rows <= self.limit:
            self._values.extend(values)

    def columns(self) -> dict[str, NDArray[np.int64]]:
        """The rows that were kept, by field."""
        flat = np.frombuffer(self._values, dtype=np.int64) if self._values else np.zeros(0, "i8")
        table = flat.reshape(-1, len(FIELDS))
        return {name: table[:, i] for i, name in enumerate(FIELDS)}
