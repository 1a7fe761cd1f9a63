"""What is asked of a language model and what it says: messages in, samples out.

Token counts are real ones, counted by the model's own tokenizer or by the endpoint, never estimated
from the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from pydantic import Field, model_validator

from crosslayer.contracts.base import Value
from crosslayer.contracts.calls import Message
from crosslayer.errors import ComponentError

FinishReason = Literal["stop", "length", "filter"]


class BackendError(ComponentError):
    """A backend got no answer; the message says from whom, after how many attempts, and why."""


class Sampling(Value):
    """How an answer is drawn.

    temperature: 0 is greedy. max_tokens: of one sample. stop: texts that end a sample, left out of
    it. seed: of the first sample, see `seeds`; None: the backend draws one. n: samples of the one
    prompt. logprobs: whether those of the chosen tokens are wanted.
    """

    temperature: float = Field(default=0.0, ge=0, le=100)
    max_tokens: int = Field(default=256, ge=1, le=2**31)
    stop: tuple[str, ...] = ()
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    n: int = Field(default=1, ge=1, le=10_000)
    logprobs: bool = False

    @model_validator(mode="after")
    def _a_stop_has_letters(self) -> Sampling:
        if "" in self.stop:
            raise ValueError("a stop text must not be empty: every sample would end at once")
        return self

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seed of each sample: a single call (n = 1) with it gives the same sample again."""
        if self.seed is None:
            return (None,) * self.n
        return (self.seed, *(_derived(self.seed, i) for i in range(1, self.n)))

    def singly(self) -> tuple[Sampling, ...]:
        """The calls of one sample each that together are this one."""
        return tuple(self.model_copy(update={"n": 1, "seed": seed}) for seed in self.seeds)


def _derived(seed: int, sample: int) -> int:
    """Some endpoints take 31 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample}".encode()).digest()[:4], "big") >> 1


class Prompt(Value):
    """A conversation that a model is to continue, and how."""

    messages: tuple[Message, ...] = Field(min_length=1)
    sampling: Sampling = Sampling()


def prompt(text: str, *, system: str | None = None, **sampling: object) -> Prompt:
    """A prompt of one user message: `prompt("2 + 2 =", temperature=0.7, seed=1, n=4)`."""
    first = () if system is None else (Message(role="system", content=system),)
    messages = (*first, Message(role="user", content=text))
    return Prompt(messages=messages, sampling=Sampling.model_validate(sampling))


class TokenLogprob(Value):
    """A chosen token and its natural log-probability under the model, at temperature 1."""

    token: str
    logprob: float = Field(le=0)


class Sample(Value):
    """One completion. tokens: all that the model made, an end token and a stop text's included.

    finish_reason: stop (an end token or a stop text), length (max_tokens, or the model's context
    was full), filter (the endpoint withheld something). logprobs: one a token where asked for.
    """

    text: str
    tokens: int = Field(ge=0)
    finish_reason: FinishReason = "stop"
    logprobs: tuple[TokenLogprob, ...] | None = None


class Generation(Value):
    """The samples of one prompt, in the order of their seeds; `prompt_tokens` counts it once."""

    prompt_tokens: int = Field(ge=0)
    samples: tuple[Sample, ...] = Field(min_length=1)

    @property
    def text(self) -> str:
        """What the first sample says."""
        return self.samples[0].text


class Usage(Value):
    """What a backend did so far. attempts: requests that were really sent; retries are those after
    the first. prompt_tokens, output_tokens: of the answers, as they were counted.
    """

    samples: int = 0
    attempts: int = 0
    retries: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


OnDone = Callable[[int, Generation], None]


class TextBackend(Protocol):
    """A language model that answers.

    model: what answers, as recordings name it. `generate` gives one Generation a prompt, in the
    order of the prompts; done(position, generation) is called as each finishes, in any order, never
    from two threads at once. Where some prompts get no answer the others are finished first, then
    BackendError is raised.
    """

    model: str

    def generate(
        self, prompts: Sequence[Prompt], done: OnDone | None = None
    ) -> tuple[Generation, ...]: ...
    def usage(self) -> Usage: ...
