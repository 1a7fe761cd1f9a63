"""The core's own call service: each call alone on an idle instance of its model.

No queue, no batch, no prefix cache: the floor that any real service stays above, and the price list
that policies predict with.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from crosslayer.contracts.calls import LAST_NS, LONGEST_OUTPUT, LLMCall, nanoseconds
from crosslayer.contracts.serving import CallSeconds, FinishedCall, Pool, PoolMember, Quality
from crosslayer.errors import InputError

if TYPE_CHECKING:
    from crosslayer.kinds import Stack

SecondsOf = Callable[[LLMCall], tuple[float, float]]


class IsolatedService:
    """A `CallService` in which no call feels another; seconds_of: (to the first token, to the
    end) of a call.
    """

    def __init__(self, seconds_of: SecondsOf) -> None:
        self._seconds_of = seconds_of
        self._now_ns = 0
        self._ends: list[tuple[int, int, str]] = []  # (instant, number, call id)
        self._running: dict[str, FinishedCall] = {}
        self._submitted = 0

    @classmethod
    def for_stack(cls, stack: Stack) -> IsolatedService:
        """Prices calls with `stack.step_costs`; `call.model` is the name of an instance."""
        return cls(stack_seconds(stack))

    def submit(self, call: LLMCall, at_ns: int) -> None:
        """Errors: InputError for an instant that has passed, an id in use, or a call of unknown
        length.
        """
        if at_ns < self._now_ns:
            raise InputError(
                f"call {call.id!r} comes at {at_ns} ns, but it is {self._now_ns} ns already"
            )
        if call.id in self._running:
            raise InputError(f"call id {call.id!r} is in use")
        output_tokens = _output_tokens(call)
        first_s, total_s = self._seconds_of(call)
        end = at_ns + nanoseconds(total_s)
        if not 0 <= first_s <= total_s or end > LAST_NS:
            raise InputError(
                f"call {call.id!r} takes {first_s} s to its first token of {total_s} s"
            )
        self._running[call.id] = FinishedCall(
            call_id=call.id,
            submitted_ns=at_ns,
            started_ns=at_ns,
            first_token_ns=at_ns + nanoseconds(first_s),
            finished_ns=end,
            output_tokens=output_tokens,
            instance=call.model or "",
        )
        self._submitted += 1
        heapq.heappush(self._ends, (end, self._submitted, call.id))

    def cancel(self, call_id: str) -> bool:
        """Whether the call was running and will now never be reported."""
        return self._running.pop(call_id, None) is not None

    def made_tokens(self, call_id: str) -> int:
        """Output tokens of a running call by now, as if they came evenly after the first."""
        call = self._running.get(call_id)
        if call is None or call.first_token_ns is None or self._now_ns < call.first_token_ns:
            return 0
        gone, whole = self._now_ns - call.first_token_ns, call.finished_ns - call.first_token_ns
        more = (call.output_tokens - 1) * gone // whole if whole else call.output_tokens
        return min(1 + more, call.output_tokens)

    def advance(self, until_ns: int) -> tuple[int, tuple[FinishedCall, ...]]:
        """(now, what finished at now): the first instant with a finish, else `until_ns`."""
        finished: list[FinishedCall] = []
        while self._ends and self._ends[0][0] <= until_ns:
            if finished and self._ends[0][0] > finished[0].finished_ns:
                break
            end, _, call_id = heapq.heappop(self._ends)
            call = self._running.get(call_id)
            if call is not None and call.finished_ns == end:  # else it was cancelled
                finished.append(self._running.pop(call_id))
        self._now_ns = finished[0].finished_ns if finished else until_ns
        return self._now_ns, tuple(finished)


def stack_seconds(stack: Stack) -> SecondsOf:
    """(first token, end) in seconds of a call alone on the instance that it names.

    One prefill step of the whole prompt makes the first token; each further one is a decode step of
    one token onto prompt + g generated, g from 0. Errors: InputError for an unknown instance or
    length.
    """

    @lru_cache(maxsize=4096)
    def priced(name: str | None, prompt: int, output: int) -> tuple[float, float]:
        first, total = _prefill_and_decode(stack, name, prompt, output)
        return first, float(total[-1])

    return lambda call: priced(call.model, call.prompt_tokens, _output_tokens(call))


def stack_pool(
    stack: Stack,
    quality: Mapping[str, Quality] | None = None,
    prompt_tokens: Sequence[int] = (128, 512, 2048),
    output_tokens: Sequence[int] = (1, 128, 512),
) -> Pool:
    """A member for each instance, by its name, with predicted seconds where it has an accelerator.

    quality: measured elsewhere, by name. Errors: InputError for no instance, or one that only
    prefills or only decodes (which of them form a member is the simulator's to say).
    """
    if not stack.instances:
        raise InputError("the stack has no instance; add a [model] and an [accelerator]")
    members = []
    for instance in stack.instances:
        if instance.role != "any":
            raise InputError(
                f"instance {instance.name!r} has the role {instance.role!r}, so it serves no"
                " whole call; give `serve` a pool"
            )
        predicted = None
        if instance.accelerator is not None:
            rows = [
                _prefill_and_decode(stack, instance.name, prompt, max(output_tokens))[1]
                for prompt in prompt_tokens
            ]
            predicted = CallSeconds(
                prompt_tokens=tuple(prompt_tokens),
                output_tokens=tuple(output_tokens),
                seconds=tuple(tuple(float(row[o]) for o in output_tokens) for row in rows),
                source=f"step costs on {instance.accelerator.describe().name}, one call alone",
            )
        members.append(
            PoolMember(
                name=instance.name,
                spec=instance.model.spec,
                quality=(quality or {}).get(instance.name),
                call_seconds=predicted,
            )
        )
    return Pool(members=tuple(members))


def _prefill_and_decode(
    stack: Stack, name: str | None, prompt: int, output: int
) -> tuple[float, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """(seconds to the first token, seconds to the end for 0 to `output` tokens)."""
    from crosslayer.contracts.lowering import StepTable

    instance = stack.instance(name)
    if prompt < 1:
        raise InputError(
            "a call without a prompt cannot be priced; prompt_tokens must be at least 1"
        )
    if output > LONGEST_OUTPUT:
        raise InputError(
            f"a call of {output} output tokens cannot be priced; {LONGEST_OUTPUT} are the most"
        )
    decodes = max(output - 1, 0)
    steps = StepTable.from_sequences(
        instance.model.spec,
        new=np.concatenate([[prompt], np.ones(decodes, dtype=np.int64)]),
        cached_prompt=np.concatenate([[0], np.full(decodes, prompt, dtype=np.int64)]),
        generated=np.concatenate([[0], np.arange(decodes)]),
    )
    seconds = stack.step_costs(instance, steps).seconds
    # no output and one token both take the prefill alone
    return float(seconds[0]), np.concatenate([seconds[:1], np.cumsum(seconds)])[: output + 1]


def _output_tokens(call: LLMCall) -> int:
    if call.output_tokens is None:
        raise InputError(
            f"call {call.id!r} has no output_tokens, so nothing says how long it takes"
        )
    return call.output_tokens
