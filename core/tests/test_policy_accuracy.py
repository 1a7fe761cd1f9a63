"""Accuracy of policies over live models, endpoints and recordings, alone and in pipelines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from toy_serving import Vote

from crosslayer.backends.protocol import Generation, OnDone, Prompt, Sample, Usage
from crosslayer.contracts.report import Report
from crosslayer.contracts.serving import CallSeconds, Done, Pool, PoolMember, ServePlan
from crosslayer.discovery import discover
from crosslayer.errors import ComponentError, InputError
from crosslayer.intervals import wilson
from crosslayer.kinds import RunContext, Stack
from crosslayer.policies import Single
from crosslayer.policy_accuracy import PolicyAccuracy
from crosslayer.progress import Progress
from crosslayer.questions import MATCHES, read_questions
from crosslayer.registry import Registry
from crosslayer.runner import run
from crosslayer.serving_params import PolicyAccuracyParams, SingleParams
from crosslayer.testing import checks_for

SECRET = "sk-very-secret-0123456789"


def questions(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


SUMS = [
    {"id": i, "prompt": f"sum: {i} {i + 1}", "answer": 2 * i + 1 + (i % 4 == 3)} for i in range(12)
]


class Letters:
    """Says "A" or "B" by its seed; notes how many prompts each call had."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.sizes: list[int] = []
        self.asked: list[Prompt] = []

    def generate(
        self, prompts: Sequence[Prompt], done: OnDone | None = None
    ) -> tuple[Generation, ...]:
        self.sizes.append(len(prompts))
        self.asked += prompts
        made = []
        for i, one in enumerate(prompts):
            letter = "AAB"[(one.sampling.seed or 0) % 3]
            made.append(
                Generation(prompt_tokens=7, samples=(Sample(text=letter, tokens=2 + i % 2),))
            )
            if done is not None:
                done(i, made[-1])
        return tuple(made)

    def usage(self) -> Usage:
        return Usage()


class Shown(Progress):
    """Counts what a person sees."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def track(self, items: Iterable[Any], label: str, total: int | None = None) -> Iterator[Any]:
        for item in items:
            self.counts[label] += 1
            yield item


class VoteOnText(Vote):
    """The toy vote, on what was said."""

    def decide(self, request: Any, results: Any) -> Any:
        read = [one.model_copy(update={"answer": one.text}) for one in results]
        return super().decide(request, read)


def evaluated(
    tmp_path: Path, stack: Stack, data: Path, seed: int = 1, progress: Any = None, **values: Any
) -> tuple[Any, list[str]]:
    output = tmp_path / f"out{seed}{len(list(tmp_path.iterdir()))}"
    output.mkdir()
    params = PolicyAccuracyParams(data=data, **values)
    context = RunContext(seed, output, progress or Progress())
    report = PolicyAccuracy(params).evaluate(stack, context)
    return report, (output / "answers.csv").read_text().splitlines()


def test_a_vote_is_counted_with_all_its_calls_and_its_first_calls_are_made_together(
    tmp_path: Path,
) -> None:
    data = questions(
        tmp_path / "q.jsonl", [{"id": f"q{i}", "prompt": "?", "answer": "a"} for i in range(20)]
    )
    a, b = Letters("a"), Letters("b")
    policy = VoteOnText(samples=5, at_once=3, early=False, members=("a", "b"))
    stack = Stack(policy=policy, backends={"a": a, "b": b})
    report, csv = evaluated(tmp_path, stack, data, temperature=0.9, max_tokens=5)
    assert (a.sizes[0], b.sizes[0]) == (40, 20)  # of 20 plans of three calls, two go to a
    assert set(a.sizes[1:] + b.sizes[1:]) == {1}
    assert sum(a.sizes) == 60
    assert sum(b.sizes) == 40
    seeds = [one.sampling.seed for one in a.asked + b.asked]
    assert len(set(seeds)) == 100
    assert {one.sampling.temperature for one in a.asked} == {0.9}
    assert {one.sampling.max_tokens for one in b.asked} == {5}
    assert report.metric("calls_per_question").value == 5
    assert report.metric("prompt_tokens_per_question").value == 35
    members = {row[0]: row[1:3] for row in report.table("members").rows}
    assert members == {"a": (60, 420), "b": (40, 280)}
    right = sum(line.split(",")[3] == "True" for line in csv[1:])
    accuracy = report.metric("policy_accuracy")
    assert accuracy.value == right / 20
    assert 0.5 < accuracy.value < 1  # more A than B, by majority of five
    assert accuracy.interval == wilson(right, 20)
    assert (accuracy.unit, accuracy.provenance) == ("fraction", "measured")
    again, _ = evaluated(
        tmp_path, Stack(policy=policy, backends={"a": Letters("a"), "b": Letters("b")}), data,
        temperature=0.9, max_tokens=5,
    )  # fmt: skip
    assert again.metrics == report.metrics
    assert again.tables == report.tables


@pytest.mark.parametrize("cancel", [True, False])
def test_calls_that_a_policy_stops_waiting_for_are_counted_as_they_were_asked(
    tmp_path: Path, cancel: bool
) -> None:
    class First:
        def plan(self, request: Any, pool: Any) -> ServePlan:
            return ServePlan(calls=tuple(request.call.to("a", i) for i in range(5)))

        def decide(self, request: Any, results: Any) -> Done:
            return Done(answer=results[0].text, cancel=cancel)

    times = CallSeconds(prompt_tokens=(1, 9), output_tokens=(1, 9), seconds=((0, 1), (0, 1)))
    rows = [{"id": f"q{i}", "prompt": "?", "answer": "a"} for i in range(4)]
    data = questions(tmp_path / "q.jsonl", rows)

    class Watched(Letters):
        def generate(self, prompts: Any, done: Any = None) -> Any:
            made = super().generate(prompts, done)
            assert shown.counts["asking"] == 20  # each answer as it came
            return made

    for known in (times, None):
        a, shown = Watched("a"), Shown()
        pool = Pool(members=(PoolMember(name="a", call_seconds=known),))
        stack = Stack(policy=First(), pool=pool, backends={"a": a})
        report, _ = evaluated(tmp_path, stack, data, progress=shown)
        assert len(a.asked) == 20
        assert report.metric("calls_per_question").value == 5
        assert report.metric("prompt_tokens_per_question").value == 5 * 7
        assert report.metric("output_tokens_per_question").value == (10 * 2 + 10 * 3) / 4
        assert report.table("members").rows == (("a", 20, 140, 50, 0),)


def test_the_policy_never_sees_the_reference_answer(tmp_path: Path) -> None:
    class Peeking(Single):
        def plan(self, request: Any, pool: Any) -> Any:
            assert request.reference_answer is None
            return super().plan(request, pool)

    data = questions(tmp_path / "q.jsonl", [{"id": "q", "prompt": "?", "answer": "A"}])
    evaluated(tmp_path, Stack(policy=Peeking(), backends={"a": Letters("a")}), data)


def test_wilsons_interval_has_the_values_of_the_literature() -> None:
    # R. G. Newcombe, Stat. Med. 17 (1998) 857, table I, method 3: 81/263, 15/148, 0/20, 1/29
    for right, of, low, high in (
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):  # fmt: skip
        assert wilson(right, of) == pytest.approx((low, high), abs=5e-5)
    assert wilson(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0


@pytest.mark.parametrize(
    ("match", "answer", "reference", "right"),
    [
        ("exact", " Paris\n", "Paris", True), ("exact", "paris", "Paris", False),
        ("normalised", "  The   Paris. ", "the paris", True), ("normalised", "(B)", "b", True),
        ("normalised", "-3", "3", False), ("normalised", "Paris!", "London", False),
        ("numeric", "so 2 + 2 makes 1,004.0.", "1004", True), ("numeric", "it is -4", "4", False),
        ("numeric", "no idea", "4", False), ("numeric", "#### 18", "18", True),
        ("numeric", "It costs $10-12", "12", True), ("numeric", "pages 3-4.", "4", True),
        ("numeric", "x = 2-3", "3", True), ("numeric", "1e3", "1000", True),
        ("numeric", "\u22125", "-5", True), ("numeric", "x=-5", "-5", True),
        ("numeric", "it is -.5", "-0.5", True), ("numeric", "2.5E\u22121", "0.25", True),
    ],
)  # fmt: skip
def test_an_answer_is_right_when_the_match_says_so(
    match: Any, answer: str, reference: str, right: bool
) -> None:
    assert MATCHES[match](answer, reference) is right


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "b", "prompt": "x", "answer" "y"}', r":2:\d+: is no JSON"),
        ('["b"]', ":2:1: must be an object"),
        ('{"id": "b", "answer": "y"}', ":2:1: needs either 'prompt' or 'messages'"),
        ('{"id": "b", "prompt": "x"}', ":2:1: answer: Field required"),
        ('{"id": "b", "prompt": "x", "answer": ["y"]}', ":2:28: answer: "),
        ('{"id": "b", "prompt": "", "answer": "y"}', ":2:13: prompt: "),
        ('{"id": "a", "prompt": "x", "answer": "y"}', ":2: id 'a' is line 1's already"),
    ],
)
def test_a_bad_question_is_located(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"id": "a", "prompt": "x", "answer": "y"}\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        read_questions(file)
    assert len(read_questions(file, limit=1)) == 1


def test_an_answer_that_is_a_whole_number_in_json_is_written_as_one(tmp_path: Path) -> None:
    rows = [{"id": i, "prompt": "x", "answer": a} for i, a in enumerate((12.0, 12, 0.5))]
    found = read_questions(questions(tmp_path / "q.jsonl", rows))
    assert [one.answer for one in found] == ["12", "12", "0.5"]


def test_single_asks_the_named_member_or_the_best(tmp_path: Path) -> None:
    from crosslayer.contracts.calls import single as one_call
    from crosslayer.contracts.serving import Quality

    def pool(**values: float | None) -> Pool:
        return Pool(
            members=tuple(
                PoolMember(
                    name=name,
                    quality=None if v is None else Quality(value=v, samples=9, data="d"),
                )
                for name, v in values.items()
            )
        )

    request = one_call("r", 0, 5, 5)

    def chosen(params: SingleParams, of: Pool) -> str | None:
        return Single(params).plan(request, of).calls[0].model

    assert chosen(SingleParams(), pool(a=0.5, b=0.7, c=0.7, d=None)) == "b"
    assert chosen(SingleParams(member="a"), pool(a=0.5, b=0.7)) == "a"
    assert chosen(SingleParams(), pool(only=None)) == "only"
    with pytest.raises(InputError, match="no member 'bb'; did you mean 'b'"):
        chosen(SingleParams(member="bb"), pool(a=None, b=None))
    with pytest.raises(InputError, match="none has a measured quality"):
        chosen(SingleParams(), pool(a=None, b=None))
    call = Single(SingleParams(temperature=0.2, max_tokens=9)).plan(request, pool(a=None)).calls[0]
    assert (call.max_tokens, call.parameters) == (9, (("temperature", 0.2),))


# In pipelines


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


DATA = Path(__file__).with_name("zoo") / "sums.jsonl"


@pytest.mark.parametrize(
    "check",
    [
        *checks_for("single"),
        *checks_for("isolated"),
        *checks_for("policy-accuracy", parameters={"data": str(DATA), "max_tokens": 4}),
    ],
    ids=str,
)
def test_the_built_in_parts_of_serving_conform(check: Any) -> None:
    check()
