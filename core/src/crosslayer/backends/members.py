"""Backends as the pool members of a policy loop: a call to a member becomes a prompt to its
backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pydantic import ValidationError

from crosslayer.backends.protocol import Generation, Prompt, Sampling, TextBackend
from crosslayer.contracts.calls import LLMCall
from crosslayer.contracts.serving import Answer
from crosslayer.errors import InputError, nearest

SETTABLE = tuple(name for name in Sampling.model_fields if name not in ("n", "seed"))


class MemberBackend:
    """A `crosslayer.serve.Backend` over named text backends.

    sampling: for what a call does not say itself. A call's `parameters` set temperature, stop (one
    text), max_tokens or logprobs; its max_tokens its limit; the policy loop its seed. Errors:
    InputError for a call without messages, to no member, or with a parameter that is none of these.
    """

    def __init__(
        self, backends: Mapping[str, TextBackend], sampling: Sampling | None = None
    ) -> None:
        self._backends = dict(backends)
        self._sampling = sampling or Sampling()
        self._ahead: dict[tuple[str, Prompt], Generation] = {}

    def answer(self, call: LLMCall, seed: int) -> Answer:
        """What the call's member says."""
        member, prompt = self._asked(call, seed)
        made = self._ahead.pop((member, prompt), None)
        if made is None:
            made = self._backends[member].generate([prompt])[0]
        sample = made.samples[0]
        return Answer(
            output_tokens=sample.tokens,
            prompt_tokens=made.prompt_tokens,
            text=sample.text,
            finish_reason="length" if sample.finish_reason == "length" else "stop",
        )

    def ask_ahead(
        self, calls: Iterable[tuple[LLMCall, int]], done: Callable[[], object] = lambda: None
    ) -> None:
        """Ask for these calls (with their seeds) together, for `answer` to find: the loop itself
        asks one by one. done is called after each.
        """

        def answered(_: int, __: Generation) -> None:
            done()

        asked: dict[str, dict[Prompt, None]] = {}
        for call, seed in calls:
            member, prompt = self._asked(call, seed)
            asked.setdefault(member, {})[prompt] = None
        for member, prompts in asked.items():
            made = self._backends[member].generate(list(prompts), answered)
            self._ahead |= {
                (member, prompt): one for prompt, one in zip(prompts, made, strict=True)
            }

    def _asked(self, call: LLMCall, seed: int) -> tuple[str, Prompt]:
        if call.model not in self._backends:
            hint = nearest(call.model or "", self._backends)
            raise InputError(f"call {call.id!r} names {call.model!r}, which has no backend; {hint}")
        if not call.messages:
            raise InputError(
                f"call {call.id!r} has no messages, so there is nothing to ask {call.model!r};"
                " use requests with messages, or lengths only"
            )
        values: dict[str, object] = {"seed": seed}
        for name, value in call.parameters:
            if name not in SETTABLE:
                raise InputError(
                    f"call {call.id!r} sets {name!r}, which no backend knows;"
                    f" {nearest(name, SETTABLE)}"
                )
            values[name] = (value,) if name == "stop" else value
        if call.max_tokens is not None:
            values["max_tokens"] = call.max_tokens
        given = {name: getattr(self._sampling, name) for name in SETTABLE}
        try:
            sampling = Sampling.model_validate(given | values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(
                f"call {call.id!r} sets {where} = {first['input']!r}: {first['msg']}"
            ) from None
        return call.model, Prompt(messages=call.messages, sampling=sampling)
