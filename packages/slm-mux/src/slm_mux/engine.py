"""Asks live models: all calls at once or in rounds, with deadline, retries, budget and early stop.

The choice is Algorithm 1's and does not depend on the order in which calls end: samples have
numbers, seeds and tie rules of their own. A call that fails or comes too late is a sample without
an answer (`degrade`), or an error (`strict`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from crosslayer.backends.protocol import BackendError, Prompt, Sample, Sampling
from crosslayer.contracts.base import Value
from crosslayer.contracts.calls import Message
from crosslayer.errors import CrosslayerError, InputError, nearest
from slm_mux.algorithm import Choice
from slm_mux.callers import Caller, Callers
from slm_mux.early_stop import Schedule, current, rounds, settled, shortcut, unanimous
from slm_mux.extract import Extractor, Found, extractor

Stopped = Literal["all samples", "settled", "unanimous", "deadline", "budget"]


class Settings(Value):
    """How questions are asked and decided. accuracies: a_i of every member that may be asked.

    deadline_s: of a whole answer. retries: of a call that failed, beyond those of its backend.
    most_tokens: read and written by all calls of an answer; when they are spent, what has ended
    decides. seed: of all samples, where a question brings none.
    """

    accuracies: Mapping[str, float] = Field(min_length=1)
    k: int = Field(default=3, ge=1, le=100)
    temperature: float = Field(default=0.3, ge=0, le=2)
    max_tokens: int = Field(default=256, ge=1, le=2**20)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    extractor: str = "number"
    early_stop: Literal["lossless", "unanimous", "never"] = "lossless"
    schedule: Schedule = "parallel"
    on_failure: Literal["degrade", "strict"] = "degrade"
    deadline_s: float | None = Field(default=60.0, gt=0)
    retries: int = Field(default=0, ge=0, le=10)
    most_calls: int = Field(default=100, ge=1)
    most_tokens: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @field_validator("extractor")
    @classmethod
    def _an_extractor_is_known(cls, value: str) -> str:
        try:
            extractor(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value

    def changed(self, **changes: object) -> Settings:
        """With other values. Errors: InputError for one that is not allowed."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        try:
            return Settings.model_validate(given | changes)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where, what = ".".join(map(str, first["loc"])), first["msg"]
            raise InputError(f"{where}: {what.removeprefix('Value error, ')}") from None


@dataclass(frozen=True)
class Answered:
    """An answer and what it took.

    text: the whole text of the winner's first sample with the answer; where no sample has one, the
    first sample of the most accurate model that said anything. sampled: (model, number, key,
    sample) of every call that ended well. prompt_tokens, output_tokens: summed over them.
    """

    choice: Choice
    answer: str | None
    text: str
    finish_reason: str
    sampled: tuple[tuple[str, int, str | None, Sample], ...]
    prompt_tokens: int
    output_tokens: int
    planned: int
    failures: tuple[str, ...]
    stopped: Stopped
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def calls(self) -> int:
        """Calls that ended, well or not."""
        return len(self.sampled) + len(self.failures)

    @property
    def saved(self) -> int:
        """Calls that were not made, or ended before their end."""
        return self.planned - self.calls


class DeadlineError(BackendError):
    """No answer in time."""


class Engine:
    """Answers questions; any number at one time. Nothing of one question is kept for another."""

    def __init__(self, callers: Callers, settings: Settings) -> None:
        self.settings = settings
        self._callers = callers.by_name
        missing = [name for name in settings.accuracies if name not in self._callers]
        if missing:
            hint = nearest(missing[0], self._callers)
            raise InputError(f"an accuracy is given for {missing[0]!r}, who is no member; {hint}")

    async def answer(
        self,
        messages: Sequence[Message],
        *,
        settings: Settings | None = None,
        members: Sequence[str] = (),
        extract: Extractor | None = None,
    ) -> Answered:
        """One question. settings: instead of the engine's. members: who is asked, all if empty.
        extract: instead of the settings' named extractor.

        Errors: InputError for an unknown member or too many calls; BackendError where nobody
        answered, or one failed and that is strict; DeadlineError where that was for lack of time.
        """
        asked = _Question(self._callers, settings or self.settings, members, extract)
        return await asked.run(tuple(messages))


class _Question:
    """One question on its way."""

    def __init__(
        self,
        callers: Mapping[str, Caller],
        settings: Settings,
        members: Sequence[str],
        extract: Extractor | None,
    ) -> None:
        self.settings = settings
        names = list(dict.fromkeys(members)) or list(settings.accuracies)
        for name in names:
            if name not in settings.accuracies:
                raise InputError(
                    f"no member {name!r} with a validation accuracy;"
                    f" {nearest(name, settings.accuracies)}"
                )
        self.accuracies = {name: settings.accuracies[name] for name in names}
        if len(names) * settings.k > settings.most_calls:
            raise InputError(
                f"{len(names)} members at k = {settings.k} are {len(names) * settings.k} calls,"
                f" over the limit of {settings.most_calls} (most_calls)"
            )
        self.callers = callers
        self.extract = extract or extractor(settings.extractor)
        self.seen: dict[str, dict[int, str | None]] = {name: {} for name in names}
        self.samples: dict[tuple[str, int], tuple[Found | None, Sample, int]] = {}
        self.failures: dict[tuple[str, int], str] = {}
        self.choice: Choice | None = None  # once it is certain

    async def run(self, messages: tuple[Message, ...]) -> Answered:
        loop = asyncio.get_running_loop()
        start = loop.time()
        limit = self.settings.deadline_s
        end = None if limit is None else start + limit
        tasks: dict[asyncio.Task[tuple[int, Sample]], tuple[str, int]] = {}
        stopped: Stopped | None = None
        plan = rounds(list(self.seen), self.settings.k, self.accuracies, self.settings.schedule)
        try:
            for calls in plan:
                for name, number in calls:
                    work = self._call(name, number, messages)
                    tasks[asyncio.create_task(work)] = (name, number)
                while tasks and stopped is None:
                    left = None if end is None else max(0.0, end - loop.time())
                    done, _ = await asyncio.wait(
                        tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in sorted(done, key=lambda task: tasks[task]):
                        self._ended(tasks.pop(task), task)
                    stopped = self._why_stop(bool(done))
                if stopped is not None:
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self._answered(stopped or "all samples", loop.time() - start)

    async def _call(
        self, name: str, number: int, messages: tuple[Message, ...]
    ) -> tuple[int, Sample]:
        settings = self.settings
        for attempt in range(settings.retries + 1):
            seed = sample_seed(question_seed(settings.seed, messages), name, number)
            sampling = Sampling(
                temperature=settings.temperature,
                max_tokens=settings.max_tokens,
                stop=settings.stop,
                seed=seed,
            )
            try:
                made = await self.callers[name].ask(Prompt(messages=messages, sampling=sampling))
                return made.prompt_tokens, made.samples[0]
            except BackendError:
                if attempt == settings.retries:
                    raise
        raise AssertionError("unreachable")

    def _ended(self, which: tuple[str, int], task: asyncio.Task[tuple[int, Sample]]) -> None:
        name, number = which
        error = task.exception()
        if error is not None:
            if not isinstance(error, CrosslayerError):
                raise error
            self.failures[which] = f"{name}, sample {number}: {error}"
            self.seen[name][number] = None
            if self.settings.on_failure == "strict":
                raise BackendError(self.failures[which]) from error
            return
        prompt_tokens, sample = task.result()
        found = self.extract(sample.text)
        self.seen[name][number] = found and found.key
        self.samples[which] = (found, sample, prompt_tokens)

    def _why_stop(self, any_ended: bool) -> Stopped | None:
        settings = self.settings
        whole = len(self.samples) + len(self.failures) == len(self.seen) * settings.k
        if settings.early_stop == "unanimous":
            self.choice = shortcut(self.seen, settings.k, self.accuracies)
        elif settings.early_stop == "lossless" and not whole:
            self.choice = settled(self.seen, settings.k, self.accuracies)
        if self.choice is not None and not whole:
            agreed = settings.early_stop == "unanimous" and unanimous(self.seen)
            return "unanimous" if agreed else "settled"
        if not any_ended:
            return "deadline"
        spent = sum(tokens + one.tokens for _, one, tokens in self.samples.values())
        if settings.most_tokens is not None and spent >= settings.most_tokens and not whole:
            return "budget"
        return None

    def _answered(self, stopped: Stopped, seconds: float) -> Answered:
        settings = self.settings
        late = stopped in ("deadline", "budget")
        if late and settings.on_failure == "strict":
            raise DeadlineError(f"not all samples ended within the {stopped}")
        if not self.samples:
            reasons = "; ".join(list(self.failures.values())[:2])
            kind = DeadlineError if stopped == "deadline" else BackendError
            raise kind(f"no member answered ({stopped}){': ' + reasons if reasons else ''}")
        choice = self.choice or current(self.seen, settings.k, self.accuracies)
        found, sample = self._winner(choice)
        warnings = []
        if not settings.temperature and settings.k > 1:
            warnings.append(
                "temperature 0 makes all samples of a model equal: every confidence is 1, and the"
                " validation accuracies alone decide"
            )
        return Answered(
            choice=choice,
            answer=found and found.text,
            text=sample.text,
            finish_reason=sample.finish_reason,
            sampled=tuple(
                (name, number, one and one.key, said)
                for (name, number), (one, said, _) in sorted(self.samples.items())
            ),
            prompt_tokens=sum(tokens for _, _, tokens in self.samples.values()),
            output_tokens=sum(one.tokens for _, one, _ in self.samples.values()),
            planned=len(self.seen) * settings.k,
            failures=tuple(self.failures[which] for which in sorted(self.failures)),
            stopped=stopped,
            seconds=seconds,
            warnings=tuple(warnings),
        )

    def _winner(self, choice: Choice) -> tuple[Found | None, Sample]:
        """The first sample that gives the chosen answer."""
        ranked: Iterable[str] = sorted(self.seen, key=lambda name: -self.accuracies[name])
        if choice.model is not None:
            ranked = [choice.model]
        for name in ranked:
            for number in range(self.settings.k):
                found, sample, _ = self.samples.get((name, number), (None, None, 0))
                if sample is not None and (found and found.key) == choice.answer:
                    return found, sample
        raise AssertionError("a choice without a sample")


def question_seed(seed: int, messages: Sequence[Message]) -> int:
    """A seed of its own for every question, so that a draw that is unlucky in one is not in all;
    the same question gets the same answer again.
    """
    text = json.dumps([message.model_dump() for message in messages])
    return int.from_bytes(hashlib.sha256(f"{seed}/{text}".encode()).digest()[:4], "big")


def sample_seed(seed: int, member: str, number: int) -> int:
    """A seed of its own for every sample of every member; 31 bits, which all endpoints take.

    One seed for all would make an endpoint's k samples equal.
    """
    name = f"{seed}/{member}/{number}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:4], "big") >> 1
