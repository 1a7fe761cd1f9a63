"""What a KV cache keeps of a sequence in one layer: everything, a window, or what an eviction
policy leaves.

Live tokens and bytes are whole numbers, so that sums over any order of sequences are exact in
float64.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from crosslayer.contracts.base import Value

Knot = tuple[float, float, float]


class KVCurve(Value):
    """Live tokens and bytes over prompt tokens and over generated tokens; the two add up, then the
    caps hold.

    prompt, generated: knots (tokens, live tokens, live bytes) from (0, 0, 0) on, linear between
    them and beyond the last two. Bytes are those of one layer, scales, tables and buffers included.
    """

    prompt: tuple[Knot, ...] = Field(min_length=2)
    generated: tuple[Knot, ...] = Field(min_length=2)
    cap_tokens: float | None = Field(default=None, gt=0)
    cap_bytes: float | None = Field(default=None, gt=0)
    policy: str = ""

    @model_validator(mode="after")
    def _knots_start_at_nothing_and_grow(self) -> KVCurve:
        for name, knots in (("prompt", self.prompt), ("generated", self.generated)):
            if any(knots[0]):
                raise ValueError(f"KV curve: the first knot of {name} is {knots[0]}, not (0, 0, 0)")
            for a, b in pairwise(knots):
                if b[0] <= a[0] or b[1] < a[1] or b[2] < a[2] or b[1] > b[0]:
                    raise ValueError(
                        f"KV curve: {name} knots {a} and {b} shrink or keep more tokens than "
                        "there are"
                    )
        return self

    def live(self, prompt: Any, generated: Any) -> tuple[Any, Any]:
        """(live tokens, live bytes), whole numbers; takes numbers or arrays."""
        tokens = _along(self.prompt, prompt, 1) + _along(self.generated, generated, 1)
        stored = _along(self.prompt, prompt, 2) + _along(self.generated, generated, 2)
        if self.cap_tokens is not None:
            tokens = np.minimum(tokens, self.cap_tokens)
        if self.cap_bytes is not None:
            stored = np.minimum(stored, self.cap_bytes)
        return np.floor(tokens), np.ceil(stored)


def _along(knots: tuple[Knot, ...], at: Any, column: int) -> Any:
    x = np.array([knot[0] for knot in knots])
    y = np.array([knot[column] for knot in knots])
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.interp(at, x, y) + np.maximum(np.asarray(at) - x[-1], 0) * slope


class AttentionClass(Value):
    """Layers with one window, one cache policy and one KV width: their load is the same for any
    batch.
    """

    window: int | None = None
    causal: bool = True
    kv_curve: KVCurve | None = None
    kv_bytes_per_token: float

    def live(self, prompt: Any, generated: Any) -> tuple[Any, Any]:
        """(live tokens, live bytes) of one sequence in one layer; takes numbers or arrays."""
        if self.kv_curve is not None:
            return self.kv_curve.live(prompt, generated)
        tokens = np.asarray(prompt) + np.asarray(generated)
        if self.window is not None:
            tokens = np.minimum(tokens, self.window)
        return tokens, tokens * self.kv_bytes_per_token
