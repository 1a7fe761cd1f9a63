"""The endpoint through the official client: answers, streams, errors, overload, nothing shared."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from talkers import Talker, Upstream

from crosslayer.backends.openai import OpenAIBackend
from crosslayer.backends.params import OpenAIParams
from slm_mux.cli import _listening
from slm_mux.engine import Settings
from slm_mux.server import Service, server_of

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """The address of a server in a thread of its own."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = server_of(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        end = time.monotonic() + 60
        while not server.started and time.monotonic() < end:
            time.sleep(0.01)
        assert server.started
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def service(**changes: Any) -> Service:
    settings = Settings.model_validate({"accuracies": {"a": 0.7, "b": 0.5}, "k": 3})
    backends: dict[str, Any] = {
        "a": Talker("a", lambda words, seed: f"I think it is {words.split()[-1]}"),
        "b": Talker("b", lambda words, seed: f"It is {(seed or 0) % 100}"),
    }
    given = {"pools": {"only-b": ("b",)}, "key": None} | changes
    return Service(given.pop("backends", backends), given.pop("settings", settings), **given)


def client(url: str, **changes: Any) -> Any:
    return openai.OpenAI(base_url=url, api_key=changes.pop("api_key", "none"), max_retries=0)


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_the_official_client_gets_the_whole_winning_text_and_the_tokens_of_all_calls() -> None:
    with serving(service()) as url:
        one = client(url).chat.completions.create(
            model="slm-mux",
            messages=[{"role": "system", "content": "x"}, *said("say 42")],
            extra_body={"slm_mux": {"early_stop": "never", "return_votes": True}},
        )
    assert one.choices[0].message.content == "I think it is 42"
    assert one.choices[0].finish_reason == "stop"
    assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (6 * 7, 6 * 3)
    told = one.model_extra["x_slm_mux"]
    assert (told["model"], told["answer"], told["confidence"], told["calls"]) == ("a", "42", 1.0, 6)
    assert told["votes"]["a"] == {"counts": {"42": 3}, "k": 3}
    assert len(told["samples"]) == 6


def test_a_stream_is_the_same_text_in_valid_events() -> None:
    with serving(service()) as url:
        stream = client(url).chat.completions.create(
            model="slm-mux",
            messages=said("y" * 600 + " 7"),
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "I think it is 7"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_models_pools_and_health_are_told() -> None:
    with serving(service()) as url:
        listed = [model.id for model in client(url).models.list()]
        one = client(url).chat.completions.create(model="slm-mux:only-b", messages=said("1"))
        health = httpx_get(url.removesuffix("/v1") + "/health")
    assert listed == ["slm-mux", "slm-mux:only-b"]
    assert one.model_extra["x_slm_mux"]["model"] == "b"
    assert health["status"] == "ok" and health["members"] == ["a", "b"]


def httpx_get(url: str) -> dict[str, Any]:
    from urllib.request import ProxyHandler, build_opener

    with build_opener(ProxyHandler({})).open(url, timeout=10) as answer:
        data: dict[str, Any] = json.loads(answer.read())
    return data


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "gpt-9"}, "NotFoundError", "does not exist; there are: slm-mux"),
        ({"n": 2}, "BadRequestError", "n = 2 is not supported: an answer is one choice"),
        ({"tools": [{"type": "function"}]}, "BadRequestError", "tools"),
        ({"response_format": {"type": "json_object"}}, "BadRequestError", "response_format"),
        ({"logprobs": True}, "BadRequestError", "logprobs"),
        ({"messages": []}, "BadRequestError", "messages"),
        ({"temperature": 3}, "BadRequestError", "temperature"),
        ({"extra_body": {"slm_mux": {"kk": 1}}}, "BadRequestError", "slm_mux.kk"),
        ({"extra_body": {"slm_mux": {"models": ["c"]}}}, "BadRequestError", "no member 'c'"),
        ({"extra_body": {"slm_mux": {"extractor": "nmber"}}}, "BadRequestError", "number"),
        ({"extra_body": {"sead": 1}}, "BadRequestError", "unknown parameter 'sead'"),
        ({"stop": ["END", ""]}, "BadRequestError", "stop.1"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "BadRequestError",
            "only text is read",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_done_is_refused_in_openais_shape(
    shared: str, changes: dict[str, Any], error: str, words: str
) -> None:
    with pytest.raises(getattr(openai, error)) as caught:
        client(shared).chat.completions.create(
            **({"model": "slm-mux", "messages": said("1")} | changes)
        )
    assert words in str(caught.value)
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_half_of_a_surrogate_pair_is_refused_and_harms_nobody(shared: str) -> None:
    body = {"model": "slm-mux", "messages": said("\ud83d")}
    status, told = posted(shared, json.dumps(body).encode())
    assert (status, told["error"]["message"]) == (400, "the body is no JSON in UTF-8")


def test_a_wrong_path_and_a_wrong_method_are_told_in_openais_shape(shared: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client(shared).embeddings.create(model="slm-mux", input="x")
    assert "there is no /v1/embeddings" in str(caught.value)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    with pytest.raises(openai.APIStatusError) as refused:
        client(shared).get("/chat/completions", cast_to=object)
    assert refused.value.status_code == 405
    assert "GET /v1/chat/completions is not answered" in str(refused.value)


def posted(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(url + "/chat/completions", body, 30) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_name_outside_ascii_stands_in_the_header_percent_encoded() -> None:
    settings = Settings.model_validate({"accuracies": {"größe/1.5b": 0.7}, "k": 1})
    backends = {"größe/1.5b": Talker("m", lambda words, seed: "4")}
    with serving(service(backends=backends, settings=settings, pools={})) as url:
        raw = client(url).chat.completions.with_raw_response.create(
            model="slm-mux", messages=said("2 + 2")
        )
    assert raw.headers["X-SLM-Mux-Model"] == "gr%C3%B6%C3%9Fe/1.5b"
    assert raw.parse().model_extra["x_slm_mux"]["model"] == "größe/1.5b"


def test_a_defect_is_told_in_openais_shape_too() -> None:
    class Broken(Talker):
        async def __aenter__(self) -> Broken:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def agenerate(self, prompts: Any) -> Any:
            raise ZeroDivisionError

    backends = {name: Broken(name, lambda words, seed: "") for name in "ab"}
    with serving(service(backends=backends)) as url:
        body = json.dumps({"model": "slm-mux", "messages": said("1")}).encode()
        status, told = posted(url, body)
    assert status == 500 and set(told["error"]) == {"message", "type", "param", "code"}
    assert "ZeroDivisionError" in told["error"]["message"]


@pytest.fixture(scope="module")
def shared() -> Iterator[str]:
    with serving(service()) as url:
        yield url


def test_neutral_parameters_and_parts_of_text_are_taken(shared: str) -> None:
    one = client(shared).chat.completions.create(
        model="slm-mux",
        messages=[{"role": "user", "content": [{"type": "text", "text": "say 9"}]}],
        n=1,
        top_p=1,
        user="someone",
        temperature=0,
        max_tokens=5,
        stop="\n",
        seed=-1,
    )
    assert one.choices[0].message.content == "I think it is 9"
    assert "validation accuracies alone" in one.model_extra["x_slm_mux"]["warnings"][0]


def test_a_key_is_asked_for_where_one_is_set() -> None:
    with serving(service(key="secret")) as url:
        with pytest.raises(openai.AuthenticationError):
            client(url).models.list()
        assert client(url, api_key="secret").models.list().data


def test_too_many_at_once_get_429_at_once_and_the_rest_their_answers() -> None:
    with Upstream() as up:
        backends = {"a": remote(up, "wait 3 4"), "b": remote(up, "wait 3 5")}
        with serving(service(backends=backends, most_waiting=4)) as url:
            ended = asyncio.run(crowd(url, ["1"] * 12))
    codes = sorted(one if isinstance(one, int) else 200 for one in ended)
    assert codes == [200] * 4 + [429] * 8


def remote(up: Upstream, model: str) -> OpenAIBackend:
    return OpenAIBackend(
        OpenAIParams(base_url=up.base_url, model=model, wait_s=0.01, attempts=2, concurrency=512)
    )


async def crowd(url: str, words: list[str], **changes: Any) -> list[Any]:
    """Every one's (text, decision), or its status where it was refused; all at once."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as many:

        async def one(text: str) -> Any:
            try:
                made = await many.chat.completions.create(
                    model="slm-mux", messages=said(text), **changes
                )
            except openai.APIStatusError as error:
                return error.status_code
            return made.choices[0].message.content, made.model_extra["x_slm_mux"]

        return list(await asyncio.gather(*map(one, words)))


def test_a_crowd_gets_the_answers_of_one_by_one_though_upstreams_fail_and_hang() -> None:
    settings = Settings.model_validate(
        {"accuracies": {"good": 0.9, "busy": 0.8, "fail": 0.5, "half": 0.4}, "k": 2}
    )
    with Upstream() as up:
        backends = {
            "good": remote(up, "echo"),
            "busy": remote(up, "busy"),
            "fail": remote(up, "fail"),
            "half": remote(up, "half"),
        }
        words = [f"number {i}" for i in range(25)]
        with serving(service(backends=backends, settings=settings, pools={})) as url:
            together = asyncio.run(crowd(url, words))
            alone = [asyncio.run(crowd(url, [word]))[0] for word in words]
    for i, (crowded, single) in enumerate(zip(together, alone, strict=True)):
        assert crowded[0] == single[0] == f"It is {i}"  # nobody gets another's answer
        assert crowded[1]["answer"] == single[1]["answer"] == str(i)


def test_a_client_that_goes_away_ends_its_calls() -> None:
    settings = Settings.model_validate({"accuracies": {"hang": 0.5}, "k": 2})
    with Upstream() as up:
        made = service(backends={"hang": remote(up, "hang")}, settings=settings, pools={})
        with serving(made) as url:
            impatient = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=2.0)
            with pytest.raises(openai.APITimeoutError):
                impatient.chat.completions.create(model="slm-mux", messages=said("1"))
            end = time.monotonic() + 10
            while made.waiting and time.monotonic() < end:
                time.sleep(0.02)
            assert made.waiting == 0
        assert len(up.requests) == 2


def test_a_server_that_stops_tells_those_who_wait_and_ends() -> None:
    settings = Settings.model_validate({"accuracies": {"hang": 0.5}, "deadline_s": 600})
    with Upstream() as up, ThreadPoolExecutor(1) as pool:
        backends = {"hang": remote(up, "hang")}
        made = service(backends=backends, settings=settings, pools={}, grace_s=0.5)
        with serving(made) as url:
            body = json.dumps({"model": "slm-mux", "messages": said("1")}).encode()
            waits = pool.submit(posted, url, body)
            end = time.monotonic() + 30
            while not made.waiting and time.monotonic() < end:
                time.sleep(0.02)
        status, told = waits.result(60)  # the server's thread has ended before
    assert (status, told["error"]["code"]) == (503, "unavailable")


def test_an_upstream_that_hangs_costs_its_deadline_or_nothing() -> None:
    settings = Settings.model_validate(
        {"accuracies": {"good": 0.9, "hang": 0.5}, "k": 2, "deadline_s": 3.0}
    )
    with Upstream() as up:
        backends = {"good": remote(up, "say 4"), "hang": remote(up, "hang")}
        with serving(service(backends=backends, settings=settings, pools={})) as url:
            (one,) = asyncio.run(crowd(url, ["x"]))
            assert one[1]["stopped"] == "settled"
            (late,) = asyncio.run(crowd(url, ["x"], extra_body={"slm_mux": {"models": ["hang"]}}))
            assert late == 504
            (both,) = asyncio.run(
                crowd(url, ["x"], extra_body={"slm_mux": {"early_stop": "never"}})
            )
            assert (both[1]["stopped"], both[1]["answer"]) == ("deadline", "4")


def test_connections_send_at_once_what_is_written() -> None:
    with _listening("127.0.0.1", 0) as at, socket.create_connection(at.getsockname()):
        connection, _ = at.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
