"""How long prompts and outputs are: fixed, lognormal, or drawn from pairs of a recorded trace."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.calls import LONGEST_OUTPUT
from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import InputError

Ints = NDArray[np.int64]
LONGEST_PROMPT = 2**31


class Lengths(Protocol):
    """(prompt tokens, output tokens) of so many requests."""

    def __call__(self, requests: int, rng: np.random.Generator) -> tuple[Ints, Ints]: ...


def lognormal(
    mean: float, cv: float, count: int, rng: np.random.Generator, longest: int = LONGEST_PROMPT
) -> Ints:
    """Lengths with a lognormal distribution of that mean and coefficient of variation, rounded to
    whole tokens, 1 to `longest`; cv 0: all are the mean.
    """
    if cv == 0:
        return np.full(count, max(1, round(mean)), dtype=np.int64)
    variance = math.log(1 + cv**2)  # of the logarithm
    drawn = rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), count)
    return np.clip(np.rint(drawn), 1, longest).astype(np.int64)


def independent(
    prompt_tokens: float, output_tokens: float, prompt_cv: float = 0.0, output_cv: float = 0.0
) -> Lengths:
    """Prompt and output lengths drawn apart: fixed where the cv is 0, else lognormal."""

    def draw(requests: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        prompts = lognormal(prompt_tokens, prompt_cv, requests, rng)
        return prompts, lognormal(output_tokens, output_cv, requests, rng, LONGEST_OUTPUT)

    return draw


def empirical(trace: RequestTrace) -> Lengths:
    """Pairs of a recorded trace, drawn with replacement: a long prompt keeps its own output.

    Errors: InputError where no call of the trace has a known output length.
    """
    known = np.flatnonzero(trace.output_tokens >= 0)
    if not len(known):
        raise InputError("lengths: no call of the trace has a known output length to draw from")

    def draw(requests: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        rows = known[rng.integers(0, len(known), requests)]
        return trace.prompt_tokens[rows], trace.output_tokens[rows]

    return draw
