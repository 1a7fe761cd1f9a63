"""A chat-completions endpoint on 127.0.0.1 that answers, delays, fails and truncates as told.

What happens to a request follows from its prompt, "fault: words", and from how often it came, so a
test knows every count. The server takes a bounded number of requests and stops with its `with`.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

MOST_REQUESTS = 2000
# For each fault, how often a request fails before it is answered.
FAILS = {"429": 1, "500": 2, "drop": 1, "cut": 1, "half": 1, "nousage": 1}


class ChatServer:
    """`with ChatServer() as server:`; base_url; seen: every request's body; peak: most at once.

    replies: status, body and headers that a prompt "word: ..." gets instead, by its word. hold: so
    many requests are answered only when all of them are there.
    """

    def __init__(self, delay_s: float = 0.0, secret: str | None = None, hold: int = 0) -> None:
        self.delay_s, self.secret = delay_s, secret
        self.replies: dict[str, tuple[int, dict[str, Any], dict[str, str]]] = {}
        self.held = threading.Barrier(hold) if hold else None
        self.hold = hold
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: dict[str, list[float]] = {}
        self.came: Counter[str] = Counter()
        self.now, self.peak = 0, 0
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        assert not self._thread.is_alive()


def said(content: str, seed: int | None) -> str:
    """What the endpoint answers to a prompt."""
    return f"you said {content} with seed {seed}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # with the default of 5, a burst of connections loses some


class _Handler(BaseHTTPRequestHandler):
    owner: ChatServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        owner = self.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        fault = content.partition(":")[0]
        with owner.lock:
            owner.seen.append(body)
            owner.headers.append({k.lower(): v for k, v in self.headers.items()})
            owner.now += 1
            owner.peak = max(owner.peak, owner.now)
            key = f"{content} {body.get('seed')}"
            owner.times.setdefault(key, []).append(time.monotonic())
            owner.came[key] += 1
            failing = owner.came[key] <= FAILS.get(fault, 0)
            refused = len(owner.seen) > MOST_REQUESTS
            held = owner.held if len(owner.seen) <= owner.hold else None
        try:
            if held is not None:
                held.wait(30)
            time.sleep(owner.delay_s * (3 if fault == "slow" else 1))
            if refused:
                self._send(400, {"error": {"message": "too many requests for one test"}})
            elif owner.secret and self.headers["Authorization"] != f"Bearer {owner.secret}":
                self._send(401, {"error": {"message": f"bad key {self.headers['Authorization']}"}})
            elif fault == "echo":
                self._send(400, {"error": {"message": f"no: {self.headers['Authorization']}"}})
            elif fault in owner.replies:
                self._send(*owner.replies[fault])
            elif failing:
                self._fail(fault, body)
            else:
                self._send(200, answer(body, content, fault))
        finally:
            with owner.lock:
                owner.now -= 1

    def _fail(self, fault: str, body: dict[str, Any]) -> None:
        whole = json.dumps(answer(body, body["messages"][-1]["content"], "")).encode()
        if fault == "429":
            self._send(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.1"})
        elif fault == "500":
            self._send(500, {"error": {"message": "out of order"}})
        elif fault == "cut":  # a whole HTTP body that is no whole JSON
            self._raw(200, whole[: len(whole) // 2], len(whole) // 2)
        elif fault == "half":  # the connection ends in the middle of the body
            self._raw(200, whole[: len(whole) // 2], len(whole))
            self.close_connection = True
        elif fault == "nousage":
            broken = answer(body, body["messages"][-1]["content"], "")
            self._send(200, {**broken, "usage": None})
        else:
            self.close_connection = True  # no answer at all

    def _send(
        self, status: int, answer: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        raw = json.dumps(answer).encode()
        self._raw(status, raw, len(raw), headers)

    def _raw(
        self, status: int, raw: bytes, length: int, headers: dict[str, str] | None = None
    ) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(length))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)
        except OSError:  # the client gave up
            self.close_connection = True


def answer(body: dict[str, Any], content: str, fault: str) -> dict[str, Any]:
    words = said(content, body.get("seed")).split(" ")
    if fault == "sum":
        words = [f"{sum(map(int, content.split()[1:]))}."]
    reason = "stop"
    if fault == "long" or len(words) > body.get("max_tokens", 10**6):
        words, reason = words[: body["max_tokens"]], "length"
    logprobs = None
    if body.get("logprobs"):
        logprobs = {"content": [_logprob(word) for word in words]}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": " ".join(words)},
        "finish_reason": "tool_calls" if fault == "tool" else reason,
        "logprobs": logprobs,
    }
    usage = {"prompt_tokens": len(content.split(" ")), "completion_tokens": len(words)}
    usage["total_tokens"] = sum(usage.values())
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [choice], "usage": usage,
    }  # fmt: skip


def _logprob(word: str) -> dict[str, Any]:
    return {"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []}
