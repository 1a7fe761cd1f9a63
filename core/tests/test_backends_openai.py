"""The endpoint backend against a server of our own that delays, fails and truncates."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chat_server import FAILS, ChatServer, answer, said
from pydantic import ValidationError

from crosslayer.backends.openai import OpenAIBackend, _Failure, _refused, _retry_after
from crosslayer.backends.params import OpenAIParams
from crosslayer.backends.protocol import BackendError, Generation, Prompt, Usage, prompt
from crosslayer.backends.recording import Recorder
from crosslayer.backends.replay import ReplayBackend
from crosslayer.errors import InputError

pytest.importorskip("openai")
SECRET = "sk-very-secret-0123456789"
FAULTS = ("ok", "429", "500", "drop", "cut", "half", "slow", "long")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with ChatServer(delay_s=0.02) as running:
        yield running


def backend(server: ChatServer, **changes: object) -> OpenAIBackend:
    quick = {"base_url": server.base_url, "model": "toy", "wait_s": 0.01, "timeout_s": 10.0}
    return OpenAIBackend(OpenAIParams.model_validate(quick | changes))


def session() -> list[Prompt]:
    """64 prompts, eight of each fault, faults mixed."""
    return [
        prompt(f"{FAULTS[i % 8]}: number {i}", seed=i, temperature=0.5, max_tokens=6 + i % 2 * 10)
        for i in range(64)
    ]


def test_64_calls_to_a_faulty_endpoint_are_counted_retried_ordered_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = session()
    finished: list[int] = []
    file = tmp_path / "calls.jsonl"
    with (
        ChatServer(delay_s=0.02, hold=64) as server,
        Recorder(backend(server, concurrency=64), file) as recorder,
    ):
        made = recorder.generate(asked, lambda i, _: finished.append(i))
        usage = recorder.usage()
        sent, peak, times = len(server.seen), server.peak, dict(server.times)
    retries = 8 * sum(FAILS[fault] for fault in FAULTS if fault in FAILS)
    assert usage.attempts == sent == 64 + retries
    assert (usage.samples, usage.retries, usage.failed) == (64, retries, 0)
    assert usage.output_tokens == sum(one.samples[0].tokens for one in made)
    assert usage.prompt_tokens == 64 * 3
    assert peak == 64  # all at once
    tries = {key: len(at) for key, at in times.items()}
    assert tries == {
        f"{one.messages[0].content} {i}": 1 + FAILS.get(FAULTS[i % 8], 0)
        for i, one in enumerate(asked)
    }

    for i, (question, one) in enumerate(zip(asked, made, strict=True)):
        words = said(question.messages[0].content, i).split(" ")
        limit = question.sampling.max_tokens
        sample = one.samples[0]
        assert sample.text == " ".join(words[:limit])
        assert sample.tokens == min(len(words), limit)
        cut = len(words) > limit or FAULTS[i % 8] == "long"
        assert sample.finish_reason == ("length" if cut else "stop")
        assert one.prompt_tokens == 3
    assert sorted(finished) == list(range(64))
    assert finished != list(range(64))  # in order of finishing, the slow ones later

    # Retry-After is heeded: 0.1 s, where our own first wait would be 0.01.
    waits = [at[1] - at[0] for key, at in times.items() if key.startswith("429")]
    assert len(waits) == 8
    assert min(waits) >= 0.1

    # The server is gone, and so is every other; every byte is the same.
    def offline(*_: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr("socket.socket.connect", offline)
    replayed = ReplayBackend(file).generate(asked)
    assert [one.to_json() for one in replayed] == [one.to_json() for one in made]
    again = tmp_path / "again.jsonl"
    with Recorder(ReplayBackend(file), again) as copying:
        copying.generate(asked)
    # as they ended, and as they were asked
    assert sorted(again.read_bytes().splitlines()) == sorted(file.read_bytes().splitlines())
    third = tmp_path / "third.jsonl"
    with Recorder(ReplayBackend(again), third) as copying:
        copying.generate(asked)
    assert third.read_bytes() == again.read_bytes()


def test_no_more_requests_are_sent_at_once_than_are_allowed() -> None:
    with ChatServer(delay_s=0.02, hold=3) as server:
        backend(server, concurrency=3).generate([prompt("ok: x", seed=i) for i in range(12)])
        assert server.peak == 3


def test_a_call_says_what_was_asked_and_nothing_more(server: ChatServer) -> None:
    one = prompt(
        "ok: all", system="be brief", temperature=0.7, max_tokens=9, stop=("\n",), seed=3, n=2,
        logprobs=True,
    )  # fmt: skip
    made = backend(server).generate([one])[0]
    bodies = [body for body in server.seen if body["messages"][-1]["content"] == "ok: all"]
    seeds = list(one.sampling.seeds)
    assert sorted(body.pop("seed") for body in bodies) == sorted(s for s in seeds if s is not None)
    assert bodies[0] == bodies[1] == {
        "model": "toy", "temperature": 0.7, "max_tokens": 9, "stop": ["\n"], "logprobs": True,
        "messages": [
            {"role": "system", "content": "be brief"}, {"role": "user", "content": "ok: all"},
        ],
    }  # fmt: skip
    assert [sample.text for sample in made.samples] == [said("ok: all", seed) for seed in seeds]
    logprobs = made.samples[0].logprobs
    assert logprobs is not None
    assert [one.token for one in logprobs] == made.samples[0].text.split(" ")


def test_samples_that_were_answered_are_recorded_when_another_of_their_prompt_fails(
    server: ChatServer, tmp_path: Path
) -> None:
    # Each sample of "500" fails twice: with two attempts all fail, with a third they would not.
    asked = [prompt("500: n", seed=5, n=4, temperature=1.0)]
    ahead = prompt("500: n", seed=asked[0].sampling.seeds[2], temperature=1.0)
    with pytest.raises(BackendError):
        backend(server, attempts=2).generate([ahead])
    file = tmp_path / "calls.jsonl"
    first = backend(server, attempts=2)
    with Recorder(first, file) as recorder, pytest.raises(BackendError, match="to 3 of 4 prompts"):
        recorder.generate(asked)
    assert len(file.read_bytes().splitlines()) == 1
    usage = first.usage()
    assert (usage.samples, usage.failed, usage.attempts) == (1, 3, 1 + 3 * 2)
    second = backend(server)
    with Recorder(second, file) as recorder:
        made = recorder.generate(asked)[0]
    assert second.usage().attempts == 3
    assert [one.text for one in made.samples] == [
        said("500: n", seed) for seed in asked[0].sampling.seeds
    ]
    direct = backend(server, attempts=1, concurrency=1)  # the first fails before the others go
    with pytest.raises(BackendError):
        direct.generate([prompt("500: direct", seed=1, n=3)])
    assert (direct.usage().attempts, direct.usage().failed) == (3, 3)


def reply(text: Any = "fine", tokens: Any = 1) -> dict[str, Any]:
    made = answer({"model": "toy"}, "ok: x", "")
    made["choices"][0]["message"]["content"] = text
    made["usage"]["completion_tokens"] = tokens
    return made


def test_an_answer_of_the_wrong_kind_is_broken_and_asked_again(server: ChatServer) -> None:
    server.replies["negative"] = (200, reply(tokens=-1), {})
    server.replies["list"] = (200, reply([{"type": "text", "text": "a"}]), {})
    for fault in ("negative", "list"):
        asking = backend(server, attempts=2)
        with pytest.raises(BackendError, match=r"lacks the text or .*after 2 of 2"):
            asking.generate([prompt(f"{fault}: x")])


def test_half_an_emoji_is_replaced_so_that_the_answer_can_be_recorded(
    server: ChatServer, tmp_path: Path
) -> None:
    server.replies["emoji"] = (200, reply("so \ud83d"), {})
    with Recorder(backend(server), tmp_path / "calls.jsonl") as recorder:
        assert recorder.generate([prompt("emoji: x")])[0].text == "so \ufffd"


@pytest.mark.parametrize(
    ("asks", "seconds"),
    [
        ("2.5", 2.5), ("nan", None), ("-5", None), ("inf", None), ("soon", None),
        ("Sat, 06 Nov 2094 08:49:37 GMT", 37), ("Sat, 06 Nov 2094 08:48:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_of_seconds_or_a_date(asks: str, seconds: float | None) -> None:
    headers = {"retry-after": asks, "date": "Sat, 06 Nov 2094 08:49:00 GMT"}
    assert _retry_after(headers) == seconds


def test_waits_double_up_to_the_longest_and_are_drawn_between_the_half_and_the_whole(
    server: ChatServer,
) -> None:
    asking = backend(server, wait_s=1.0, longest_wait_s=5.0, attempts=9)
    for attempt, whole in enumerate((1.0, 2.0, 4.0, 5.0, 5.0)):
        waits = [asking._wait(_Failure("slow", True), attempt) or 0.0 for _ in range(200)]
        assert whole / 2 <= min(waits) < 0.6 * whole
        assert 0.9 * whole < max(waits) <= whole
    assert asking._wait(_Failure("slow", True, wait_s=4.5), 0) == 4.5
    assert asking._wait(_Failure("slow", True, wait_s=5.5), 0) is None
    assert asking._wait(_Failure("slow", True), 8) is None


def test_a_log_probability_that_rounding_lifts_above_zero_is_zero(server: ChatServer) -> None:
    made = reply()
    lifted = {"token": "fine", "logprob": 1e-7, "bytes": None, "top_logprobs": []}
    made["choices"][0]["logprobs"] = {"content": [lifted]}
    server.replies["lifted"] = (200, made, {})
    (sample,) = backend(server).generate([prompt("lifted: x", logprobs=True)])[0].samples
    assert sample.logprobs is not None
    assert sample.logprobs[0].logprob == 0.0


def test_a_key_that_the_endpoint_echoes_is_hidden_wherever_its_message_is_cut(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_KEY", SECRET)
    quoted = SECRET + "\\'"  # an endpoint's message is often the repr of a body
    for before in range(150, 200):
        for key, echo in ((SECRET, SECRET), (quoted, repr(quoted)[1:-1])):
            error = SimpleNamespace(
                status_code=400, message="." * before + echo, response=SimpleNamespace(headers={})
            )
            assert SECRET[:4] not in str(_refused(error, "TOY_KEY", key))
    server.replies["cut"] = (400, {"error": {"message": "." * 150 + SECRET}}, {})
    with pytest.raises(BackendError) as refused:
        backend(server, api_key_env="TOY_KEY").generate([prompt("cut: x")])
    del server.replies["cut"]
    assert "...***" in str(refused.value)
    assert SECRET[:4] not in str(refused.value)


@pytest.mark.parametrize("key", ["schl\u00fcssel", "sk-hunter2\n", "sk hunter2"])
def test_a_key_that_no_header_can_hold_is_refused_by_its_variable(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("TOY_KEY", key)
    before = len(server.seen)
    with pytest.raises(InputError, match="variable TOY_KEY holds what no key has") as refused:
        backend(server, api_key_env="TOY_KEY").generate([prompt("ok: x")])
    assert key.strip() not in str(refused.value)
    assert len(server.seen) == before


def test_what_does_not_pass_is_not_asked_again(server: ChatServer) -> None:
    asking = backend(server, attempts=5)
    with pytest.raises(BackendError, match=r"finished for 'tool_calls'.*after 1 of 5 attempts"):
        asking.generate([prompt("tool: x")])
    assert asking.usage() == Usage(attempts=1, failed=1)


def test_a_failing_call_lets_the_others_finish_and_is_named(server: ChatServer) -> None:
    asking = backend(server, attempts=2)
    done: dict[int, Generation] = {}
    asked = [prompt("ok: a"), prompt("500: b", seed=1), prompt("ok: c")]
    with pytest.raises(BackendError) as failed:
        asking.generate(asked, done.__setitem__)
    assert sorted(done) == [0, 2]
    sentence = str(failed.value)
    assert "no answer to 1 of 3 prompts; prompt 1: status 500" in sentence
    assert "out of order, after 2 of 2 attempts" in sentence
    assert asking.usage().retries == 1


def test_no_token_is_made_up_where_the_endpoint_counts_none(server: ChatServer) -> None:
    with pytest.raises(BackendError, match="lacks the text or the token counts"):
        backend(server, attempts=1).generate([prompt("nousage: x")])


def test_an_answer_that_takes_too_long_is_given_up(server: ChatServer) -> None:
    asking = backend(server, attempts=2, timeout_s=0.01)
    with pytest.raises(BackendError, match=r"no answer within 0.01 s, after 2 of 2 attempts"):
        asking.generate([prompt("slow: x")])


def test_an_endpoint_that_asks_for_a_longer_wait_than_allowed_is_given_up(
    server: ChatServer,
) -> None:
    asking = backend(server, longest_wait_s=0.05)
    with pytest.raises(BackendError, match=r"status 429, asks to wait 0.1 s.*after 1 of 5"):
        asking.generate([prompt("429: long", seed=99)])


def test_it_works_inside_a_running_loop(server: ChatServer) -> None:
    async def notebook() -> str:
        return backend(server).generate([prompt("ok: loop", seed=4)])[0].text

    assert asyncio.run(notebook()) == said("ok: loop", 4)


def test_the_key_comes_from_the_environment_and_goes_nowhere_but_to_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TOY_KEY", SECRET)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody")
    shown = []
    with ChatServer(secret=SECRET) as server:
        asking = backend(server, api_key_env="TOY_KEY")
        with Recorder(asking, tmp_path / "calls.jsonl") as recorder:
            recorder.generate([prompt("ok: hello")])
        with pytest.raises(BackendError) as echoed:  # the endpoint writes the key into its error
            asking.generate([prompt("echo: x")])
        shown.append("".join(traceback.format_exception(echoed.value)))
        monkeypatch.setenv("TOY_KEY", "sk-wrong-key")
        with pytest.raises(BackendError, match="status 401; check the key in TOY_KEY") as refused:
            asking.generate([prompt("ok: x")])
        shown.append("".join(traceback.format_exception(refused.value)))
        assert server.headers[0]["authorization"] == f"Bearer {SECRET}"
        assert "openai-organization" not in server.headers[0]
    shown += [repr(asking), repr(asking.params), str(vars(asking)), caplog.text]
    shown += [(tmp_path / "calls.jsonl").read_text()]
    assert caplog.text
    for text in shown:
        assert SECRET not in text
        assert "sk-wrong-key" not in text


def test_without_a_named_variable_no_key_of_the_environment_is_sent(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    backend(server).generate([prompt("ok: anonymous")])
    assert SECRET not in server.headers[-1]["authorization"]


def test_a_variable_that_is_not_set_is_named_before_anything_is_sent(server: ChatServer) -> None:
    before = len(server.seen)
    with pytest.raises(InputError, match="environment variable CROSSLAYER_NO_SUCH_KEY is not set"):
        backend(server, api_key_env="CROSSLAYER_NO_SUCH_KEY").generate([prompt("ok: x")])
    assert len(server.seen) == before


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000",
        "ftp://host/v1",
        "https://user:hunter2@host/v1",
        "https://host/v1?key=hunter2",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match=r"must be an address|holds a user") as refused:
        OpenAIParams(base_url=address, model="m")
    assert "hunter2" not in str(refused.value)


def test_in_a_running_loop_calls_share_a_client_and_a_cancelled_one_ends_at_once() -> None:
    asked = [prompt(f"ok: number {i}", seed=i) for i in range(3)]

    async def session(server: ChatServer) -> tuple[Generation, ...]:
        one = backend(server)
        async with one as held:
            hanging = asyncio.create_task(held.agenerate([prompt("slow: a", seed=9)]))
            while not server.now:
                await asyncio.sleep(0.01)
            hanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hanging
            assert server.now == 1  # the endpoint still works at it, nobody waits
            made = [await held.agenerate([each]) for each in asked]
        assert await one.agenerate(asked) == tuple(each[0] for each in made)
        return await one.agenerate(asked)

    with ChatServer(delay_s=0.2) as server:
        made = asyncio.run(session(server))
        assert made == backend(server).generate(asked)
