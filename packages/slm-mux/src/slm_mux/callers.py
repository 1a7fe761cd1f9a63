"""Members that an event loop can ask: an endpoint directly, everything else in a thread.

An endpoint's request ends when its task is cancelled. A model in this process decodes what waits
together, in one batch after another; a batch that has begun runs to its end, unread if need be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

from crosslayer.backends.protocol import BackendError, Generation, Prompt, TextBackend
from crosslayer.contracts.calls import Message
from crosslayer.errors import CrosslayerError


class Caller(Protocol):
    """Asks one member."""

    async def ask(self, prompt: Prompt) -> Generation: ...


class Callers:
    """`async with Callers(backends) as ask:` and `ask.by_name[member].ask(prompt)`.

    Backends that are one object are asked by one thread: variants of a model share its batches.
    rows: prompts of a batch.
    """

    def __init__(self, backends: Mapping[str, TextBackend], *, rows: int = 32) -> None:
        self._backends, self._rows = dict(backends), rows
        self.by_name: dict[str, Caller] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Callers:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _open(self) -> None:
        made: dict[int, Caller] = {}
        for name, backend in self._backends.items():
            variant = backend if isinstance(backend, Prompted) else None
            inner: Any = variant.inner if variant else backend
            if id(inner) not in made:
                if hasattr(inner, "agenerate"):
                    made[id(inner)] = _Remote(await self._stack.enter_async_context(inner))
                else:
                    made[id(inner)] = await self._stack.enter_async_context(
                        _InThread(inner, self._rows)
                    )
            caller = made[id(inner)]
            self.by_name[name] = _Before(variant, caller) if variant else caller

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


class Prompted:
    """A backend that hears a system message before the conversation: a variant of a model."""

    def __init__(self, inner: TextBackend, system: str, model: str) -> None:
        self.inner, self.system, self.model = inner, system, model

    def changed(self, prompt: Prompt) -> Prompt:
        """The prompt with the system message; a conversation's own one follows it."""
        first = Message(role="system", content=self.system)
        rest = prompt.messages
        if rest[0].role == "system":
            both = f"{self.system}\n\n{rest[0].content}"
            first, rest = Message(role="system", content=both), rest[1:]
        return prompt.replace(messages=(first, *rest))

    def generate(self, prompts: Any, done: Any = None) -> tuple[Generation, ...]:
        """As the inner backend."""
        return self.inner.generate([self.changed(one) for one in prompts], done)

    def usage(self) -> Any:
        """Of the inner backend, all its variants together."""
        return self.inner.usage()


class _Before:
    def __init__(self, variant: Prompted, caller: Caller) -> None:
        self._variant, self._caller = variant, caller

    async def ask(self, prompt: Prompt) -> Generation:
        return await self._caller.ask(self._variant.changed(prompt))


class _Remote:
    def __init__(self, backend: Any) -> None:
        self._backend = backend

    async def ask(self, prompt: Prompt) -> Generation:
        made: tuple[Generation, ...] = await self._backend.agenerate([prompt])
        return made[0]


class _InThread:
    """One batch at a time; what is cancelled while it waits is never decoded. A model is opened
    before the first question, whose deadline that is no part of.
    """

    def __init__(self, backend: TextBackend, rows: int) -> None:
        self._backend, self._rows = backend, rows
        self._waiting: asyncio.Queue[tuple[Prompt, asyncio.Future[Generation]]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _InThread:
        try:
            await asyncio.to_thread(self._backend.generate, [])
        except Exception as error:
            raise self._known(error) from error
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._worker is not None
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)

    async def ask(self, prompt: Prompt) -> Generation:
        answer: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((prompt, answer))
        return await answer

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._rows and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [one for one in batch if not one[1].done()]
            if batch:
                await self._decode(batch)

    async def _decode(self, batch: list[tuple[Prompt, asyncio.Future[Generation]]]) -> None:
        try:
            made = await asyncio.to_thread(self._backend.generate, [prompt for prompt, _ in batch])
        except Exception as error:
            if len(batch) > 1:  # one bad prompt must not cost the others their answers
                for one in batch:
                    await self._decode([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(self._known(error))
            return
        for (_, answer), generation in zip(batch, made, strict=True):
            if not answer.done():
                answer.set_result(generation)

    def _known(self, error: Exception) -> CrosslayerError:
        if isinstance(error, CrosslayerError):
            return error
        return BackendError(f"{self._backend.model} failed: {error!r}")
