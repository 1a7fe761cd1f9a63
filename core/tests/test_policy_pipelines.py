"""Policies and backends in pipelines: endpoints, recordings, live models, and what check finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from test_policy_accuracy import SUMS, questions

from crosslayer.contracts.report import Report
from crosslayer.discovery import discover
from crosslayer.errors import ComponentError
from crosslayer.progress import Progress
from crosslayer.registry import Registry
from crosslayer.runner import run

SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return discover(only=())


ENDPOINT = """
[[backend]]
name = "small"
use = "openai"
base_url = "{address}"
model = "toy-1b"
api_key_env = "TOY_KEY"

[[backend]]
name = "large"
use = "openai"
base_url = "{address}"
model = "toy-70b"
api_key_env = "TOY_KEY"

[pool]
members = ["small", "large"]

[pool.quality]
small = {{ value = 0.4, samples = 100, data = "made up" }}
large = {{ value = 0.8, samples = 100, data = "made up" }}

[policy]
use = "single"

[evaluate]
policy-accuracy = {{ data = "q.jsonl", max_tokens = 8 }}
"""
REPLAY = """
[[backend]]
name = "large"
use = "replay"
file = "runs/p/files/evaluate-policy-accuracy/calls.jsonl"

[policy]
use = "single"

[evaluate]
policy-accuracy = { data = "q.jsonl", max_tokens = 8, record = false }
"""  # fmt: skip


def test_a_pipeline_measures_an_endpoint_and_replays_it_offline(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("TOY_KEY", SECRET)
    questions(tmp_path / "q.jsonl", SUMS)
    file = tmp_path / "p.toml"
    runs = tmp_path / "runs"
    with ChatServer(secret=SECRET) as server:
        file.write_text(ENDPOINT.format(address=server.base_url))
        made = run(file, registry=registry, runs_dir=runs)
        assert {body["model"] for body in server.seen} == {"toy-70b"}  # the better one
        assert len(server.seen) == 12
    accuracy = made.report.metric("policy_accuracy")
    assert accuracy.value == 9 / 12
    assert accuracy.provenance == "measured"
    assert made.report.metric("output_tokens_per_question").value == 1
    # The key is in no file of the run; its variable's name is in the lock file.
    for path in runs.rglob("*"):
        if path.is_file():
            assert SECRET not in path.read_text(encoding="utf-8"), path
    lock = (runs / "p" / "pipeline.lock.toml").read_text()
    assert 'api_key_env = "TOY_KEY"' in lock

    monkeypatch.delenv("TOY_KEY")
    (tmp_path / "replay.toml").write_text(REPLAY)
    again = run(tmp_path / "replay.toml", registry=registry, runs_dir=runs)
    assert again.report.metric("policy_accuracy").value == 9 / 12
    assert again.report.metric("policy_accuracy").provenance == "recorded"
    assert again.report.table("answers").rows == made.report.table("answers").rows
    locked = runs / "replay" / "pipeline.lock.toml"
    third = run(locked, registry=registry, runs_dir=tmp_path / "third")
    assert third.report.metrics == again.report.metrics
    assert [step.cached for step in third.steps] == [True]


def test_what_an_endpoint_said_comes_from_the_cache_only_if_recorded_and_says_when(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("TOY_KEY", SECRET)
    questions(tmp_path / "q.jsonl", SUMS)
    with ChatServer(secret=SECRET) as server:

        def asked(text: str) -> tuple[int, Report]:
            before = len(server.seen)
            (tmp_path / "p.toml").write_text(text)
            done = run(tmp_path / "p.toml", registry=registry, runs_dir=tmp_path / "runs")
            assert done.steps[-1].cached == (len(server.seen) == before)
            return len(server.seen) - before, done.report

        once = ENDPOINT.format(address=server.base_url)
        sent, fresh = asked(once)
        assert sent == 12
        assert not [note for note in fresh.notes if "cache" in note]
        sent, kept = asked(once)
        assert sent == 0
        assert kept.metrics == fresh.metrics
        assert "from the step cache: large answered until 20" in kept.notes[-1]
        assert "recorded in calls.jsonl" in (tmp_path / "runs/p/report.html").read_text()
        always = once.replace('use = "openai"', 'use = "openai"\nask = "always"')
        unrecorded = once.replace("max_tokens = 8", "max_tokens = 8, record = false")
        assert always != once != unrecorded
        for text in (always, unrecorded):
            assert [asked(text)[0], asked(text)[0]] == [12, 12]


def test_answers_that_were_paid_for_outlive_a_run_that_failed_or_was_interrupted(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("TOY_KEY", SECRET)
    last = {"id": "last", "prompt": "refused: 1 2", "answer": 3}
    questions(tmp_path / "q.jsonl", [*SUMS, last])
    with ChatServer(secret=SECRET) as server:
        text = ENDPOINT.format(address=server.base_url)
        (tmp_path / "p.toml").write_text(text)

        def sent(progress: Progress | None = None) -> tuple[int, Report | None]:
            before, made = len(server.seen), None
            with suppress(ComponentError, KeyboardInterrupt):
                made = run(
                    tmp_path / "p.toml", registry=registry, runs_dir=tmp_path / "runs",
                    progress=progress,
                ).report  # fmt: skip
            return len(server.seen) - before, made

        server.replies["refused"] = (400, {"error": {"message": "no"}}, {})
        assert sent() == (13, None)
        assert sent() == (1, None)
        del server.replies["refused"]

        class Interrupting(Progress):
            def track(self, items: Any, label: str, total: int | None = None) -> Iterator[Any]:
                if label == "deciding":
                    raise KeyboardInterrupt
                yield from items

        assert sent(Interrupting()) == (1, None)
        count, report = sent()
        # what is to be asked in every run goes on from nowhere
        (tmp_path / "p.toml").write_text(text.replace("api_key_env", 'ask = "always"\napi_key_env'))
        server.replies["refused"] = (400, {"error": {"message": "no"}}, {})
        assert [sent(), sent()] == [(13, None), (13, None)]
    assert count == 0
    assert report is not None
    assert report.metric("calls_per_question").value == 1
    assert any("13 calls were answered in earlier runs" in note for note in report.notes)
    (calls,) = (tmp_path / "runs" / "p").rglob("calls.jsonl")
    assert len(calls.read_bytes().splitlines()) == 13
    assert not [*(tmp_path / "cache" / "steps" / "unfinished").iterdir()]


def test_a_pipeline_asks_its_live_model(registry: Registry, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from live_cases import LLAMA

    from crosslayer.backends import TransformersBackend, prompt
    from crosslayer.models.random_model import random_model

    live: Any = random_model(LLAMA, seed=1).live
    live.module.save_pretrained(tmp_path / "tiny")
    live.tokenizer.save_pretrained(tmp_path / "tiny")
    truth = TransformersBackend(live, "m").generate([prompt("sum: 0 1", max_tokens=4)])[0].text
    rows = [{"id": "0", "prompt": "sum: 0 1", "answer": truth}, *SUMS[1:4]]
    questions(tmp_path / "q.jsonl", rows)
    file = tmp_path / "live.toml"
    file.write_text(
        '[model]\nname = "tiny"\nuse = "./tiny"\n[policy]\nuse = "single"\nmember = "tiny"\n'
        '[evaluate]\npolicy-accuracy = { data = "q.jsonl", max_tokens = 4, match = "exact" }\n'
    )
    report = run(file, registry=registry, runs_dir=tmp_path / "runs", threads=1).report
    assert report.metric("policy_accuracy").value == 1 / 4
    assert report.metric("prompt_tokens_per_question").value == 8  # a token a byte
    assert report.metric("output_tokens_per_question").value == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('use = "openai"', 'use = "opnai"'), "p.toml:4:1: no backend 'opnai'; did you mean"),
        (('members = ["small"', 'members = ["smal"'), "no instance or backend is called 'smal'"),
        (("small = {", "tiny = {"), "no member of the pool is called 'tiny'"),
        (('data = "q.jsonl"', 'data = "none.jsonl"'), "there is no file 'none.jsonl'"),
        (('"http://x/v1"', '"http://u:hunter2@x/v1"'), "holds a user, a password or a query"),
        (("api_key_env = ", "api_key = "), "api_key: unknown key; did you mean 'api_key_env'"),
        (('"TOY_KEY"', '"sk-hunter2"'), "api_key_env"),
        (('"TOY_KEY"', '["sk-hunter2"]'), "api_key_env: must be a valid string"),
        (("api_key_env = ", 'attempts = "sk-hunter2" #'), "attempts: must be a valid integer"),
        (('use = "single"', 'use = "singel"'), "no serving policy 'singel'; did you mean 'single'"),
        (('name = "large"', 'name = "small"'), "two [[backend]] tables are called 'small'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_backends_and_pool_is_located_and_shows_no_secret(
    registry: Registry, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    from crosslayer.pipeline import check_file

    questions(tmp_path / "q.jsonl", SUMS)
    text = ENDPOINT.format(address="http://x/v1")
    assert change[0] in text
    (tmp_path / "p.toml").write_text(text.replace(*change, 1))
    _, problems = check_file(tmp_path / "p.toml", registry)
    said = "\n".join(map(str, problems))
    assert message in said
    assert "hunter2" not in said
    assert all(problem.line for problem in problems)


def test_a_member_without_words_and_a_policy_without_requests_are_found_before_a_run(
    registry: Registry, tmp_path: Path
) -> None:
    from crosslayer.pipeline import check_file

    questions(tmp_path / "q.jsonl", SUMS)
    head = '[model]\nname = "big"\nuse = "llama-3.1-8b"\n[policy]\nuse = "single"\n'
    asks = head + '[evaluate]\npolicy-accuracy = { data = "q.jsonl" }\n'
    other = '[[backend]]\nname = "big"\nuse = "openai"\nbase_url = "http://x/v1"\nmodel = "m"\n'
    cases = {
        head: "[policy] plans requests, and nothing here serves any",
        asks: "'big' has no weights and no backend",
        head + '[accelerator]\nuse = "roofline:h100-80g"\n[[simulate]]\nuse = "isolated"\n': (
            "serves requests, and [workload] makes none"
        ),
        asks + other.replace('"openai"', '"transformers"').partition("base_url")[0]
        + 'instance = "bog"\n': "no model or instance is called 'bog'; did you mean 'big'",
        asks + other: "",  # the endpoint speaks for the spec
    }  # fmt: skip
    for text, message in cases.items():
        (tmp_path / "p.toml").write_text(text)
        _, problems = check_file(tmp_path / "p.toml", registry)
        assert (message in "\n".join(map(str, problems))) if message else not problems
