"""Accuracy of policies over backends, and the questions that it is measured on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from toy_serving import Vote

from crosslayer.backends.protocol import Generation, OnDone, Prompt, Sample, Usage
from crosslayer.contracts.serving import CallSeconds, Done, Pool, PoolMember, ServePlan
from crosslayer.errors import InputError
from crosslayer.intervals import wilson
from crosslayer.kinds import RunContext, Stack
from crosslayer.policies import Single
from crosslayer.policy_accuracy import PolicyAccuracy
from crosslayer.progress import Progress
from crosslayer.questions import MATCHES, read_questions
from crosslayer.serving_params import PolicyAccuracyParams, SingleParams
from crosslayer.testing import checks_for


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


def test_a_policy_sees_how_long_the_prompt_is_and_never_the_reference_answer(
    tmp_path: Path,
) -> None:
    class Counting(Letters):
        def count_tokens(self, messages: Any) -> int:
            return sum(len(message.content) for message in messages)

    class Peeking(Single):
        def plan(self, request: Any, pool: Any) -> Any:
            assert request.reference_answer is None
            seen.append(request.call.prompt_tokens)
            return super().plan(request, pool)

    seen: list[int] = []
    data = questions(tmp_path / "q.jsonl", [{"id": "q", "prompt": "why?", "answer": "A"}])
    evaluated(tmp_path, Stack(policy=Peeking(), backends={"a": Counting("a")}), data)
    assert set(seen) == {4}


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
