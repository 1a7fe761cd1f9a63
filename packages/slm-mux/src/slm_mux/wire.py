"""OpenAI's chat completions as they go over the wire: requests in, answers and errors out.

What cannot be done is refused by name, never ignored: one answer has one choice, no tools, no log
probabilities. Unknown keys that ask for nothing (user, metadata) are let through.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crosslayer.contracts.calls import Message
from slm_mux.engine import Answered

NAME = "slm-mux"
HARMLESS = frozenset(
    {
        *("user", "metadata", "store", "stream_options", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "parallel_tool_calls"),
    }
)
# What a client may send if it asks for nothing by it.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "top_p": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
}


class Refused(Exception):
    """A request that gets an error in OpenAI's shape."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        """{"error": {...}}."""
        kinds = {404: "not_found_error", 401: "authentication_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": str(self),
                "type": kinds.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }


class Extension(BaseModel):
    """The key "slm_mux" of a request."""

    model_config = ConfigDict(extra="forbid")

    k: int | None = Field(None, ge=1, le=100)
    models: list[str] | None = Field(None, min_length=1)
    extractor: str | None = None
    early_stop: Literal["lossless", "unanimous", "never"] | None = None
    return_votes: bool = False


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")
    type: str
    text: str | None = None


class _Turn(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: str = Field(min_length=1)
    content: str | list[_Part] | None = None


class ChatRequest(BaseModel):
    """What is read of a request."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[_Turn] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = False
    slm_mux: Extension = Extension()

    def conversation(self) -> tuple[Message, ...]:
        """All turns, roles as they are. Refused: turns without text."""
        made = []
        for i, turn in enumerate(self.messages):
            content = turn.content
            if isinstance(content, list):
                bad = [part.type for part in content if part.type != "text" or part.text is None]
                if bad:
                    raise Refused(400, f"messages[{i}]: part of type {bad[0]!r}; only text is read",
                                  param="messages")  # fmt: skip
                content = "".join(part.text or "" for part in content)
            if content is None:
                raise Refused(400, f"messages[{i}] has no content", param="messages")
            made.append(Message(role=turn.role, content=content))
        return tuple(made)

    def changes(self) -> dict[str, object]:
        """Settings of the engine that the request sets."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        given = {
            "temperature": self.temperature,
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "stop": tuple(stop) if stop else None,
            "seed": None if self.seed is None else self.seed % 2**31,
            "k": self.slm_mux.k,
            "extractor": self.slm_mux.extractor,
            "early_stop": self.slm_mux.early_stop,
        }
        return {name: value for name, value in given.items() if value is not None}


def read_request(raw: bytes) -> ChatRequest:
    """A request's body. Refused: what is no JSON, lacks something, or asks for what is not done."""
    try:
        data = json.loads(raw)
        json.dumps(data, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON in UTF-8") from None
    try:
        asked = ChatRequest.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(400, f"{where or 'body'}: {first['msg']}", param=where or None) from None
    for name, value in (asked.model_extra or {}).items():
        if name in NEUTRAL:
            if value not in NEUTRAL[name]:
                why = "an answer is one choice" if name == "n" else "members answer in plain text"
                raise Refused(400, f"{name} = {json.dumps(value)[:60]} is not supported: {why}",
                              code="unsupported_parameter", param=name)  # fmt: skip
        elif name not in HARMLESS:
            raise Refused(400, f"unknown parameter {name!r}", code="unknown_parameter", param=name)
    return asked


def usage(answered: Answered) -> dict[str, int]:
    """Tokens of all calls together."""
    return {
        "prompt_tokens": answered.prompt_tokens,
        "completion_tokens": answered.output_tokens,
        "total_tokens": answered.prompt_tokens + answered.output_tokens,
    }


def decision(answered: Answered, votes: bool) -> dict[str, Any]:
    """The key "x_slm_mux": who answered, how sure, at what cost."""
    choice = answered.choice
    made: dict[str, Any] = {
        "model": choice.model,
        "answer": answered.answer,
        "confidence": float(choice.confidence),
        "tied_models": list(choice.tied_models),
        "tied_inside": choice.tied_inside,
        "calls": answered.calls,
        "calls_saved": answered.saved,
        "stopped": answered.stopped,
        "failures": list(answered.failures),
        "seconds": round(answered.seconds, 6),
        "warnings": list(answered.warnings),
    }
    if votes:
        made["votes"] = {
            vote.model: {"counts": dict(vote.counts), "k": vote.k} for vote in choice.votes
        }
        made["samples"] = [
            {"model": name, "sample": number, "key": key, "text": sample.text}
            for name, number, key, sample in answered.sampled
        ]
    return made


def completion(model: str, answered: Answered, votes: bool) -> dict[str, Any]:
    """The body of an answer."""
    reason = {"filter": "content_filter"}.get(answered.finish_reason, answered.finish_reason)
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answered.text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
        ],
        "usage": usage(answered),
        "x_slm_mux": decision(answered, votes),
    }


def events(body: dict[str, Any], with_usage: bool) -> Iterator[str]:
    """The answer as server-sent events; it is known whole, because no sample may be shown before
    the choice.
    """
    common = {name: body[name] for name in ("id", "created", "model")}
    common["object"] = "chat.completion.chunk"

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps({**common, 'choices': choices, **more})}\n\n"

    def piece(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    first = body["choices"][0]
    text = first["message"]["content"]
    yield event(piece({"role": "assistant", "content": ""}))
    for start in range(0, len(text), 256):
        yield event(piece({"content": text[start : start + 256]}))
    yield event(piece({}, first["finish_reason"]), x_slm_mux=body["x_slm_mux"])
    if with_usage:
        yield event([], usage=body["usage"])
    yield "data: [DONE]\n\n"
