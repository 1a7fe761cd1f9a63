"""Backends and an HTTP upstream for tests: they say, delay, fail and break off as they are told."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from crosslayer.backends.protocol import Generation, OnDone, Prompt, Sample, Usage

Says = Callable[[str, int | None], str]


class Talker:
    """A TextBackend: `says(words of the last message, seed)`; what it raises goes on."""

    def __init__(self, model: str, says: Says, delay_s: float = 0.0) -> None:
        self.model, self._says, self._delay_s = model, says, delay_s
        self.asked: list[Prompt] = []
        self.batches: list[int] = []

    def generate(
        self, prompts: Sequence[Prompt], done: OnDone | None = None
    ) -> tuple[Generation, ...]:
        self.asked += prompts
        self.batches.append(len(prompts))
        if self._delay_s:
            time.sleep(self._delay_s)
        made = []
        for prompt in prompts:
            text = self._says(prompt.messages[-1].content, prompt.sampling.seed)
            made.append(Generation(prompt_tokens=7, samples=(Sample(text=text, tokens=3),)))
        return tuple(made)

    def usage(self) -> Usage:
        return Usage(samples=len(self.asked))


class Upstream:
    """`with Upstream() as up:` a chat endpoint on 127.0.0.1; a model's name says what it does.

    "say 4" answers 4; "wait 0.3 4" after so long; "hang" never; "fail" 500; "busy" 429 once a
    prompt; "garbage" no JSON; "half" half a body; "half-close" the same and holds the rest of the
    connection open; "drop" nothing at all; "echo" its prompt's last word; "wait-echo 0.3" the same
    after so long.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.open = self.peak = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self.base_url = ""

    def __enter__(self) -> Upstream:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        )
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._started.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].split("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                self.requests.append(body)
                self.open += 1
                self.peak = max(self.peak, self.open)
                try:
                    if not await self._answer(body, writer):
                        return
                finally:
                    self.open -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        does, *rest = body["model"].split(" ")
        words = body["messages"][-1]["content"]
        came = sum(1 for one in self.requests if one == body)
        said = words.split(" ")[-1] if does.endswith("echo") or not rest else rest[-1]
        whole = json.dumps(_completion(body, f"It is {said}")).encode()
        if does.startswith("wait"):
            await asyncio.sleep(float(rest[0]))
        elif does == "hang":
            await asyncio.sleep(3600)
        elif does == "fail":
            await _send(writer, 500, b'{"error": {"message": "out of order"}}')
            return True
        elif does == "busy" and came == 1:
            await _send(writer, 429, b'{"error": {"message": "slow down"}}')
            return True
        elif does == "garbage":
            whole = b"<html>not what you asked for"
        elif does.startswith("half"):
            await _send(writer, 200, whole[: len(whole) // 2], len(whole))
            if does == "half-close":
                writer.write_eof()
                await asyncio.sleep(3600)
            return False
        elif does == "drop":
            return False
        await _send(writer, 200, whole)
        return True


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, length: int | None = None
) -> None:
    size = len(body) if length is None else length
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


def _completion(body: dict[str, Any], text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }  # fmt: skip
