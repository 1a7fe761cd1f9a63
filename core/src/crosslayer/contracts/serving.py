"""What a serving policy sees and says, how calls end, and what serving a request came to."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from crosslayer.contracts.base import Value
from crosslayer.contracts.calls import LLMCall, Request
from crosslayer.contracts.model import ModelSpec
from crosslayer.errors import InputError, nearest


class Quality(Value):
    """A measured share of right answers, over how many samples, on which data."""

    value: float = Field(ge=0, le=1)
    samples: int = Field(ge=1)
    data: str = Field(min_length=1)


class CallSeconds(Value):
    """Seconds of a call alone on an idle instance: a grid over prompt and output tokens.

    seconds[i][j]: at prompt_tokens[i] and output_tokens[j], both axes rising. source: what priced
    it.
    """

    prompt_tokens: tuple[int, ...] = Field(min_length=1)
    output_tokens: tuple[int, ...] = Field(min_length=1)
    seconds: tuple[tuple[float, ...], ...]
    source: str = ""

    @model_validator(mode="after")
    def _the_grid_is_whole(self) -> CallSeconds:
        for name, axis in (("prompt", self.prompt_tokens), ("output", self.output_tokens)):
            if axis[0] < 0 or any(b <= a for a, b in pairwise(axis)):
                raise ValueError(f"call seconds: {name}_tokens {axis} must rise from 0 or more")
        shape = (len(self.prompt_tokens), len(self.output_tokens))
        if len(self.seconds) != shape[0] or any(len(row) != shape[1] for row in self.seconds):
            raise ValueError(f"call seconds: a grid of {shape[0]} rows of {shape[1]} is needed")
        if min(min(row) for row in self.seconds) < 0:
            raise ValueError("call seconds: durations must not be negative")
        return self

    def at(self, prompt_tokens: Any, output_tokens: Any) -> Any:
        """Seconds at any lengths (numbers or columns): linear between the grid's points.

        Beyond the grid it is an extrapolation, see `covers`; an axis of one point counts as flat.
        """
        grid = np.array(self.seconds)
        i, u = _cell(self.prompt_tokens, prompt_tokens)
        j, v = _cell(self.output_tokens, output_tokens)
        k, m = np.minimum(i + 1, grid.shape[0] - 1), np.minimum(j + 1, grid.shape[1] - 1)
        low = grid[i, j] * (1 - v) + grid[i, m] * v
        high = grid[k, j] * (1 - v) + grid[k, m] * v
        seconds = np.maximum(low * (1 - u) + high * u, 0.0)
        return seconds if np.ndim(seconds) else float(seconds)

    def covers(self, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether these lengths lie inside the grid."""
        prompt, output = self.prompt_tokens, self.output_tokens
        inside = prompt[0] <= prompt_tokens <= prompt[-1]
        return inside and output[0] <= output_tokens <= output[-1]


def _cell(axis: tuple[int, ...], at: Any) -> tuple[Any, Any]:
    """(the point below, how far to the next); beyond the ends the last cell goes on."""
    points, at = np.array(axis, dtype=np.float64), np.asarray(at, dtype=np.float64)
    if len(points) == 1:
        return np.zeros(at.shape, dtype=np.intp), np.zeros(at.shape)
    below = np.clip(np.searchsorted(points, at, side="right") - 1, 0, len(points) - 2)
    return below, (at - points[below]) / (points[below + 1] - points[below])


class PoolMember(Value):
    """A model that calls may name; a precision or a pruned variant is a member of its own.

    spec, quality, call_seconds: None where nobody knows. outstanding_*: calls of this policy that
    have not ended, and their prompts' tokens (not their outputs': how long an answer gets is not
    known before it ends).
    """

    name: str = Field(min_length=1)
    spec: ModelSpec | None = None
    quality: Quality | None = None
    call_seconds: CallSeconds | None = None
    outstanding_calls: int = Field(default=0, ge=0)
    outstanding_prompt_tokens: int = Field(default=0, ge=0)

    def predicted_seconds(self, prompt_tokens: int, output_tokens: int) -> float:
        """Seconds of one call on an idle instance. Errors: InputError without `call_seconds`."""
        if self.call_seconds is None:
            raise InputError(
                f"pool member {self.name!r} has no predicted seconds; give it `call_seconds`"
            )
        return float(self.call_seconds.at(prompt_tokens, output_tokens))


class Pool(Value):
    """The members that a policy chooses from, in the order of the pipeline file."""

    members: tuple[PoolMember, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Pool:
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"pool: two members are called {twice!r}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names."""
        return tuple(member.name for member in self.members)

    def member(self, name: str | None) -> PoolMember:
        """The member of that name. Errors: InputError with the nearest name."""
        for member in self.members:
            if member.name == name:
                return member
        raise InputError(f"the pool has no member {name!r}; {nearest(name or '', self.names)}")


class Wait(Value):
    """Decide again when the next call ends."""


class More(Value):
    """Submit these calls now as well."""

    calls: tuple[LLMCall, ...] = Field(min_length=1)


class Done(Value):
    """The answer is settled now. cancel: end what is outstanding (else it runs on, unread)."""

    answer: str | None = None
    cancel: bool = True


Decision = Wait | More | Done


class ServePlan(Value):
    """The calls that a request starts with; `done` instead where no call is needed.

    Every call names a pool member and has an id of its own within the request.
    """

    calls: tuple[LLMCall, ...] = ()
    done: Done | None = None


class Answer(Value):
    """What a backend says to a call. Token counts are real ones; None: the call's own.

    text: what the model wrote; answer: what is extracted from it, where the backend knows (recorded
    data).
    """

    output_tokens: int = Field(ge=0)
    prompt_tokens: int | None = Field(default=None, ge=0)
    text: str | None = None
    answer: str | None = None
    finish_reason: Literal["stop", "length"] = "stop"


class FinishedCall(Value):
    """When a call went through a service: instants in nanoseconds, in this order.

    failed: the service gave up on it, and `reason` says why. cancelled: written by the policy loop
    only, a service never reports such a call. Both may have no start and no first token.
    """

    call_id: str
    submitted_ns: int
    started_ns: int | None = None
    first_token_ns: int | None = None
    finished_ns: int
    output_tokens: int = Field(default=0, ge=0)
    instance: str = ""
    status: Literal["finished", "failed", "cancelled"] = "finished"
    reason: str = ""

    @model_validator(mode="after")
    def _time_runs_forwards(self) -> FinishedCall:
        instants = (self.submitted_ns, self.started_ns, self.first_token_ns, self.finished_ns)
        known = [instant for instant in instants if instant is not None]
        if self.status == "finished" and len(known) < len(instants):
            raise ValueError(f"call {self.call_id!r} finished without a start or a first token")
        if known != sorted(known):
            raise ValueError(f"call {self.call_id!r}: instants {known} run backwards")
        return self

    @property
    def cancelled(self) -> bool:
        """Whether the policy loop ended it."""
        return self.status == "cancelled"


class CallResult(Value):
    """A call that has ended: what it said (from the backend) and when (from the service).

    call: as the policy wrote it. A failed or cancelled call has no text, that word as its
    finish_reason, and as output_tokens those that the service made before it ended.
    """

    call: LLMCall
    finished: FinishedCall
    prompt_tokens: int
    output_tokens: int
    text: str | None = None
    answer: str | None = None
    finish_reason: Literal["stop", "length", "failed", "cancelled"] = "stop"


class NodeTimes(Value):
    """One node of a request: ready when all it waits for is over; kind "call" or the stage's."""

    id: str
    kind: str
    ready_ns: int
    finished_ns: int
    answer: str | None = None


class ServedRequest(Value):
    """What became of a request.

    nodes: in order of finishing; results: of its calls, in order of ending. cancelled: calls that
    the policy's answer made needless. left_running: calls that still ran when the request was over,
    because the policy or the service did not end them, as the service got them: with the lengths
    that they come to.
    """

    request: Request
    finished_ns: int
    nodes: tuple[NodeTimes, ...]
    results: tuple[CallResult, ...] = ()
    cancelled: tuple[CallResult, ...] = ()
    left_running: tuple[LLMCall, ...] = ()

    @property
    def answer(self) -> str | None:
        """The answer of the call node that finished last; None if there is none."""
        calls = {call.id for call in self.request.calls}
        answers = [node.answer for node in self.nodes if node.id in calls]
        return answers[-1] if answers else None

    @property
    def seconds(self) -> float:
        """From arrival to the end of its last node."""
        return (self.finished_ns - self.request.arrival_ns) / 1e9

    @property
    def missed_deadline(self) -> bool:
        """Whether it ended after its deadline; a request without one never does."""
        deadline = self.request.deadline_ns
        return deadline is not None and self.finished_ns > deadline
