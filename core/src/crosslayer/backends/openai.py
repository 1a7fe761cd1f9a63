"""An OpenAI-compatible endpoint, through the official client.

Each sample is a request of its own: an endpoint reports the tokens of a request, not of a choice,
so only then is every sample's count real and every seed its own. What failed in a way that may pass
(no connection, too slow, 408, 409, 429, 5xx, a broken body) is asked again after a wait that
doubles and is drawn at random between its half and its whole, or as long as Retry-After says.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import mktime_tz, parsedate_tz
from typing import Any

from crosslayer.backends.params import OpenAIParams
from crosslayer.backends.protocol import (
    BackendError,
    FinishReason,
    Generation,
    OnDone,
    Prompt,
    Sample,
    Sampling,
    TokenLogprob,
    Usage,
)
from crosslayer.errors import DependencyError, InputError

INSTALL = "python -m pip install 'openai>=2,<4'"
PASSING = (408, 409, 429)  # and 5xx
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "content_filter": "filter"}


class _Failure(Exception):
    """One attempt without an answer. passing: another may have one. wait_s: what the endpoint asked
    for.
    """

    def __init__(self, what: str, passing: bool, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.passing, self.wait_s = passing, wait_s


class OpenAIBackend:
    """Chat completions of one model; may be used from inside a running event loop too.

    `agenerate` is `generate` for code that runs in a loop itself: cancelled, it ends its requests.
    Within `async with backend` all its calls share one client, its connections and its slots. The
    key is read from the environment when a client is made, and only the client keeps it. Errors:
    InputError where its variable is not set, DependencyError without the client.
    """

    outside = True  # nobody knows that it says the same the next time

    def __init__(self, params: OpenAIParams) -> None:
        self.params = params
        self.asks_always = params.ask == "always"
        self.model = params.model
        self._usage: dict[str, int] = dict.fromkeys(Usage.model_fields, 0)
        self._jitter = random.Random()  # waits are no results: processes must not wait in step
        self._held: tuple[asyncio.AbstractEventLoop, Any, asyncio.Semaphore] | None = None

    async def __aenter__(self) -> OpenAIBackend:
        slots = asyncio.Semaphore(self.params.concurrency)
        self._held = asyncio.get_running_loop(), self._client(), slots
        return self

    async def __aexit__(self, *_: object) -> None:
        held, self._held = self._held, None
        if held is not None:
            await held[1].close()

    def usage(self) -> Usage:
        """What was sent and what came back so far."""
        return Usage(**self._usage)

    def generate(
        self, prompts: Sequence[Prompt], done: OnDone | None = None
    ) -> tuple[Generation, ...]:
        """The answers, at most `concurrency` requests at once."""
        return _run(self.agenerate(prompts, done))

    def _key(self) -> str:
        name = self.params.api_key_env
        if name is None:
            return "none"  # the client insists on one, and would take OPENAI_API_KEY by itself
        key = os.environ.get(name, "")
        if not key:
            raise InputError(f"the environment variable {name} is not set; it must hold the key")
        if not all("!" <= letter <= "~" for letter in key):
            raise InputError(
                f"the environment variable {name} holds what no key has: a space, a line end or a"
                " letter outside ASCII; set it to the key alone"
            )
        return key

    def _client(self) -> Any:
        try:
            from openai import AsyncOpenAI
        except ModuleNotFoundError as error:
            raise DependencyError(f"the openai backend needs its client: {INSTALL}") from error
        client = AsyncOpenAI(
            api_key=self._key(),
            base_url=self.params.base_url,
            timeout=self.params.timeout_s,
            max_retries=0,  # ours are counted
        )
        # Taken from the environment by the client; this endpoint may be somebody else's.
        client.organization = client.project = None
        return client

    async def agenerate(
        self, prompts: Sequence[Prompt], done: OnDone | None = None
    ) -> tuple[Generation, ...]:
        """The same, in a running event loop."""
        held = self._held
        if held is not None and held[0] is asyncio.get_running_loop():
            return await self._generate(held[1], held[2], prompts, done)
        async with self._client() as client:
            slots = asyncio.Semaphore(self.params.concurrency)
            return await self._generate(client, slots, prompts, done)

    async def _generate(
        self,
        client: Any,
        slots: asyncio.Semaphore,
        prompts: Sequence[Prompt],
        done: OnDone | None,
    ) -> tuple[Generation, ...]:
        async def one(i: int) -> Generation:
            prompt = prompts[i]
            work = [self._sample(client, slots, prompt, one) for one in prompt.sampling.singly()]
            # One that fails leaves the others to finish: they are paid for and counted.
            ended = await asyncio.gather(*work, return_exceptions=True)
            found = [sample for sample in ended if not isinstance(sample, BaseException)]
            if len(found) < len(ended):
                raise next(sample for sample in ended if isinstance(sample, BaseException))
            made = Generation(
                prompt_tokens=found[0][0], samples=tuple(sample for _, sample in found)
            )
            if done is not None:
                done(i, made)
            return made

        ended = await asyncio.gather(*map(one, range(len(prompts))), return_exceptions=True)
        failed = [(i, e) for i, e in enumerate(ended) if isinstance(e, BaseException)]
        if failed:
            raise self._failure(failed, len(prompts), client.api_key)
        return tuple(one for one in ended if isinstance(one, Generation))

    def _failure(self, failed: list[tuple[int, BaseException]], of: int, key: str) -> Exception:
        """One error for all; anything but a failed attempt is a defect and goes on as it is."""
        reasons = []
        for i, error in failed:
            if not isinstance(error, _Failure):
                return error if isinstance(error, Exception) else RuntimeError(str(error))
            reasons.append(f"prompt {i}: {error}")
        sentence = (
            f"{self.model} at {self.params.base_url} gave no answer to {len(failed)} of {of}"
            f" prompts; {reasons[0]}"
        )
        return BackendError(_without(key, sentence) if self.params.api_key_env else sentence)

    async def _sample(
        self, client: Any, slots: asyncio.Semaphore, prompt: Prompt, sampling: Sampling
    ) -> tuple[int, Sample]:
        """(prompt tokens, the sample)."""
        async with slots:
            for attempt in range(self.params.attempts):
                self._usage["attempts"] += 1
                self._usage["retries"] += attempt > 0
                try:
                    prompt_tokens, sample = await self._attempt(client, prompt, sampling)
                except _Failure as failure:
                    last = failure
                    wait = self._wait(failure, attempt)
                    if wait is None:
                        break
                    await asyncio.sleep(wait)
                    continue
                self._usage["samples"] += 1
                self._usage["prompt_tokens"] += prompt_tokens
                self._usage["output_tokens"] += sample.tokens
                return prompt_tokens, sample
        self._usage["failed"] += 1
        raise _Failure(f"{last}, after {attempt + 1} of {self.params.attempts} attempts", False)

    def _wait(self, failure: _Failure, attempt: int) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        longest = self.params.longest_wait_s
        if not failure.passing or attempt + 1 >= self.params.attempts:
            return None
        if failure.wait_s is not None and failure.wait_s > longest:
            return None
        doubled = min(self.params.wait_s * 2.0 ** min(attempt, 60), longest)
        return max(failure.wait_s or 0.0, doubled * self._jitter.uniform(0.5, 1.0))

    async def _attempt(self, client: Any, prompt: Prompt, sampling: Sampling) -> tuple[int, Sample]:
        import openai

        given: dict[str, Any] = {
            "model": self.model,
            "messages": [message.model_dump() for message in prompt.messages],
            "temperature": sampling.temperature,
            self.params.limit_key: sampling.max_tokens,
        }
        given |= {"stop": list(sampling.stop)} if sampling.stop else {}
        given |= {} if sampling.seed is None else {"seed": sampling.seed}
        given |= {"logprobs": True} if sampling.logprobs else {}
        limit = self.params.timeout_s
        try:
            # The client's own time-out begins anew with every byte.
            async with asyncio.timeout(limit):
                answer = await client.chat.completions.create(**given)
        except (TimeoutError, openai.APITimeoutError):
            failure = _Failure(f"no answer within {limit:g} s", True)
        except openai.APIStatusError as error:
            failure = _refused(error, self.params.api_key_env, client.api_key)
        except openai.APIConnectionError as error:
            cause = type(error.__cause__).__name__ if error.__cause__ else "no reason given"
            failure = _Failure(f"no connection ({cause})", True)
        except (openai.APIError, ValueError):  # a cut body is no JSON
            failure = _Failure("its answer is no whole JSON", True)
        else:
            return _read(answer, sampling)
        # Outside of the handler, so that no traceback shows what the endpoint wrote about the key.
        raise failure


def _without(key: str, text: str) -> str:
    """The text with the key blotted out, as it is and as Python quotes it."""
    return text.replace(key, "***").replace(repr(key)[1:-1], "***")


def _refused(error: Any, variable: str | None, key: str) -> _Failure:
    """A status that is no success, with what the endpoint says about it on one short line."""
    status = int(error.status_code)
    if status in (401, 403):
        hint = f"the key in {variable}" if variable else "api_key_env, which names no key"
        return _Failure(f"status {status}; check {hint}", False)
    said = str(error.message)
    said = _without(key, said) if variable else said  # before the cut, which could fall inside it
    said = " ".join(_whole(said).split())[:200]
    passing = status in PASSING or status >= 500
    wait = _retry_after(error.response.headers)
    asks = f", asks to wait {wait:g} s" if wait is not None else ""
    return _Failure(f"status {status}{asks}: {said}", passing, wait)


def _retry_after(headers: Any) -> float | None:
    """Seconds that Retry-After asks for, as a number or a date; None for none and for nonsense."""
    value = str(headers.get("retry-after", ""))
    try:
        seconds = float(value)
    except ValueError:
        until, now = parsedate_tz(value), parsedate_tz(str(headers.get("date", "")))
        if until is None:
            return None
        seconds = max(0.0, mktime_tz(until) - (mktime_tz(now) if now else time.time()))
    return seconds if 0 <= seconds < math.inf else None


def _whole(text: str) -> str:
    """Text that UTF-8 can write: half of a surrogate pair (an emoji that was cut) is replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read(answer: Any, sampling: Sampling) -> tuple[int, Sample]:
    """An answer's first choice; a body without one, or without its token counts, is broken."""
    try:
        choice, usage = answer.choices[0], answer.usage
        reason = _FINISH.get(choice.finish_reason or "")
        content = choice.logprobs.content if sampling.logprobs else None
        logprobs = content and tuple(
            TokenLogprob(token=_whole(one.token), logprob=min(one.logprob, 0.0)) for one in content
        )
        sample = Sample(
            text=_whole(choice.message.content or ""),
            tokens=int(usage.completion_tokens),
            finish_reason=reason or "stop",
            logprobs=logprobs or None,
        )
        made = Generation(prompt_tokens=int(usage.prompt_tokens), samples=(sample,))
    except (AttributeError, IndexError, TypeError, ValueError):
        what = "logprobs" if sampling.logprobs else "usage"
        raise _Failure(
            f"its answer lacks the text or the token counts ({what}), or they are none", True
        ) from None
    if reason is None:
        raise _Failure(f"it finished for {choice.finish_reason!r}, which is no text", False)
    return made.prompt_tokens, sample


def _run(work: Coroutine[Any, Any, tuple[Generation, ...]]) -> tuple[Generation, ...]:
    """Runs to the end, in a thread of its own where this one runs a loop (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
