"""What a client asks of a step model, and the simplest one: a linear formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Contexts = Callable[[], list[tuple[int, int]]]
Floats = NDArray[np.float64]


class StepModel(Protocol):
    """Seconds, and joules (None: not known), of steps of one client.

    prefills: (new tokens, tokens in the cache) of each prompt or chunk in the step. rows: sequences
    that reach the LM head. n: calls that decode, one token each. context: sum over them of the
    tokens that attention reads, the fed one included. contexts: (cached prompt tokens, generated
    tokens in the cache) of each of them, for models to which the sum is not enough.

    name: for reports. context_limit, decode_limit: the largest mean context and n that it has data
    for. beyond: mixed steps that it has extrapolated.
    """

    name: str
    context_limit: float
    decode_limit: float
    beyond: int

    def mixed(
        self,
        prefills: Sequence[tuple[int, int]],
        rows: int,
        n: int,
        context: int,
        contexts: Contexts,
    ) -> tuple[float, Sequence[float] | None]:
        """One step: (seconds, (joules,))."""
        ...

    def decodes(self, n: int, context: int, steps: int, contexts: Contexts) -> tuple[Floats, Any]:
        """Successive decode steps of the same calls: (seconds [steps], joules [steps])."""
        ...


@dataclass
class Linear:
    """fixed_s, and seconds a prompt token, a query-key pair of prompts, a decoding call and a token
    of their contexts. watts: while it computes; None: not known.
    """

    fixed_s: float = 0.0
    prompt_token_s: float = 0.0
    pair_s: float = 0.0
    decode_s: float = 0.0
    context_token_s: float = 0.0
    watts: float | None = None
    name: str = "linear formula"
    context_limit: float = float("inf")
    decode_limit: float = float("inf")
    beyond: int = 0

    def mixed(
        self,
        prefills: Sequence[tuple[int, int]],
        rows: int,
        n: int,
        context: int,
        contexts: Contexts,
    ) -> tuple[float, Sequence[float] | None]:
        """See `StepModel`."""
        seconds = self.fixed_s + self.decode_s * n + self.context_token_s * (context if n else 0)
        for new, cached in prefills:
            seconds += self.prompt_token_s * new
            seconds += self.pair_s * (new * cached + new * (new + 1) // 2)
        return seconds, None if self.watts is None else (seconds * self.watts,)

    def decodes(self, n: int, context: int, steps: int, contexts: Contexts) -> tuple[Floats, Any]:
        """See `StepModel`."""
        contexts_sum = context + n * np.arange(steps, dtype=np.float64)
        seconds: Floats = self.fixed_s + self.decode_s * n + self.context_token_s * contexts_sum
        return seconds, None if self.watts is None else seconds * self.watts
