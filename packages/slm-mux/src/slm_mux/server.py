"""The OpenAI-compatible endpoint (extra `server`): chat completions, models, health.

Requests share nothing but the members. Beyond `most_waiting` answers at one time a request gets 429
at once; while the server starts or stops, 503. A client that goes away ends its calls.
"""

from __future__ import annotations

import asyncio
import hmac
import string
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from crosslayer.backends.protocol import BackendError, TextBackend
from crosslayer.errors import CrosslayerError, DependencyError, InputError
from slm_mux.callers import Callers
from slm_mux.engine import Answered, DeadlineError, Engine, Settings
from slm_mux.wire import NAME, ChatRequest, Refused, completion, events, read_request

INSTALL = "the server needs FastAPI and uvicorn: python -m pip install 'fastapi<1' 'uvicorn<1'"
PATHS = "POST /v1/chat/completions, GET /v1/models and GET /health"
LARGEST_BODY = 4_000_000  # bytes
LOOKS_S = 0.5  # between two looks whether an answer is still waited for


class Service:
    """What the endpoint serves: an engine, the names of pools, how many answers at one time.

    grace_s: seconds that answers under way have left when the server is told to stop. `stopping`
    says that it was; `server_of` sets it.
    """

    def __init__(
        self,
        backends: Mapping[str, TextBackend],
        settings: Settings,
        pools: Mapping[str, tuple[str, ...]] | None = None,
        *,
        most_waiting: int = 64,
        rows: int = 32,
        key: str | None = None,
        grace_s: float = 5.0,
    ) -> None:
        self.settings, self.pools = settings, dict(pools or {})
        self.most_waiting, self.key, self.grace_s = most_waiting, key, grace_s
        self.waiting = 0
        self.stopping: Callable[[], bool] = lambda: False
        self._backends, self._rows = backends, rows
        self._engine: Engine | None = None

    @asynccontextmanager
    async def running(self, _: Any = None) -> AsyncIterator[None]:
        """While it can answer."""
        async with Callers(self._backends, rows=self._rows) as callers:
            self._engine = Engine(callers, self.settings)
            try:
                yield
            finally:
                self._engine = None

    @property
    def models(self) -> list[str]:
        """What a request's `model` may be."""
        return [NAME, *(f"{NAME}:{pool}" for pool in self.pools)]

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._engine is not None

    async def chat(self, asked: ChatRequest) -> Answered:
        """One answer. Refused: with the status that a client understands."""
        if asked.model not in self.models:
            known = ", ".join(self.models)
            raise Refused(404, f"the model {asked.model!r} does not exist; there are: {known}",
                          code="model_not_found", param="model")  # fmt: skip
        if self._engine is None or self.stopping():
            raise Refused(503, "the server is starting or stopping; try again", code="unavailable")
        if self.waiting >= self.most_waiting:
            raise Refused(429, f"{self.waiting} answers are being made, the most at one time; try "
                          "again later", code="overloaded")  # fmt: skip
        pool = self.pools.get(asked.model.removeprefix(f"{NAME}:"), ())
        self.waiting += 1
        try:
            return await self._engine.answer(
                asked.conversation(),
                settings=self.settings.changed(**asked.changes()),
                members=asked.slm_mux.models or pool,
            )
        except InputError as error:
            raise Refused(400, str(error)) from error
        except DeadlineError as error:
            raise Refused(504, str(error), code="timeout") from error
        except BackendError as error:
            raise Refused(502, str(error), code="upstream_error") from error
        except CrosslayerError as error:
            raise Refused(500, str(error), code="component_error") from error
        finally:
            self.waiting -= 1


def create_app(service: Service) -> Any:
    """The FastAPI application. Errors: DependencyError without FastAPI."""
    try:
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse, Response, StreamingResponse
    except ModuleNotFoundError as error:
        raise DependencyError(INSTALL) from error
    app = FastAPI(title=NAME, lifespan=service.running)

    def refusal(error: Refused) -> Response:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
        return JSONResponse(error.body(), error.status, headers)

    async def refused(_: Any, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return refusal(error)

    async def no_path(request: Request, _: Exception) -> Response:
        return refusal(Refused(404, f"there is no {request.url.path}; there are {PATHS}"))

    async def no_method(request: Request, _: Exception) -> Response:
        what = f"{request.method} {request.url.path}"
        return refusal(Refused(405, f"{what} is not answered; there are {PATHS}"))

    async def defect(_: Any, error: Exception) -> Response:
        return refusal(Refused(500, f"a defect of the server: {type(error).__name__}"))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(Exception, defect)  # which is logged with its traceback
    app.add_exception_handler(404, no_path)
    app.add_exception_handler(405, no_method)

    def allowed(request: Any) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if service.key is not None and not hmac.compare_digest(given, service.key.encode()):
            raise Refused(401, "the API key is missing or wrong", code="invalid_api_key")

    async def health() -> dict[str, Any]:
        members = list(service.settings.accuracies)
        return {"status": "ok" if service.ready else "starting", "members": members,
                "waiting": service.waiting, "most_waiting": service.most_waiting}  # fmt: skip

    async def models(request: Request) -> dict[str, Any]:
        allowed(request)
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": NAME}
            for name in service.models
        ]
        return {"object": "list", "data": rows}

    async def chat(request: Request) -> Response:
        allowed(request)
        asked = read_request(await _body(request))
        answered = await _while_wanted(request, service, service.chat(asked))
        body = completion(asked.model, answered, asked.slm_mux.return_votes)
        headers = {
            # A header is ASCII; a member's name need not be.
            "X-SLM-Mux-Model": quote(answered.choice.model or "", safe=string.printable),
            "X-SLM-Mux-Confidence": f"{float(answered.choice.confidence):.4f}",
            "X-SLM-Mux-Calls": str(answered.calls),
        }
        if not asked.stream:
            return JSONResponse(body, headers=headers)
        options = (asked.model_extra or {}).get("stream_options") or {}
        with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        return StreamingResponse(
            events(body, with_usage), media_type="text/event-stream", headers=headers
        )

    # The types are names of this function only, so FastAPI is told what they are.
    for handler in (models, chat):
        handler.__annotations__["request"] = Request
    app.get("/health")(health)
    app.get("/v1/models")(models)
    app.post("/v1/chat/completions", response_model=None)(chat)
    return app


def server_of(service: Service) -> Any:
    """uvicorn's server of it, to be run on sockets. Errors: DependencyError without uvicorn."""
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise DependencyError(INSTALL) from error
    config = uvicorn.Config(create_app(service), log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    service.stopping = lambda: server.should_exit
    return server


async def _body(request: Any) -> bytes:
    made = bytearray()
    async for part in request.stream():
        made += part
        if len(made) > LARGEST_BODY:
            raise Refused(413, f"the body is larger than {LARGEST_BODY:,} bytes")
    return bytes(made)


async def _while_wanted(request: Any, service: Service, work: Any) -> Answered:
    """The result of `work`, which is cancelled when the client goes away or the server stops."""
    task: asyncio.Task[Answered] = asyncio.ensure_future(work)

    async def unwanted() -> Refused:
        left = service.grace_s
        while left > 0:
            if await request.is_disconnected():
                return Refused(499, "the client went away")
            await asyncio.sleep(LOOKS_S)
            left -= LOOKS_S if service.stopping() else 0.0
        return Refused(503, "the server stops; ask another, or try again", code="unavailable")

    watch = asyncio.create_task(unwanted())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise watch.result()
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
