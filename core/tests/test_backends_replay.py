"""Recording and replay: what a line holds, what survives an interruption, what is told of the
unknown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.backends import Recorder, ReplayBackend
from crosslayer.backends.protocol import (
    Generation,
    OnDone,
    Prompt,
    Sample,
    Sampling,
    TokenLogprob,
    Usage,
    prompt,
)
from crosslayer.errors import InputError


class Echo:
    """Says the prompt and the seed; counts what it is asked, and can break off."""

    def __init__(self, model: str = "echo", breaks_after: int | None = None) -> None:
        self.model, self.breaks_after, self.asked = model, breaks_after, 0

    def generate(
        self, prompts: Sequence[Prompt], done: OnDone | None = None
    ) -> tuple[Generation, ...]:
        made = []
        for i, one in enumerate(prompts):
            if self.asked == self.breaks_after:
                raise KeyboardInterrupt
            self.asked += 1
            text = one.messages[-1].content
            samples = tuple(
                Sample(
                    text=f"{self.model} {text} {seed}", tokens=3,
                    logprobs=(TokenLogprob(token="é", logprob=-0.1),),
                )
                for seed in one.sampling.seeds
            )  # fmt: skip
            made.append(Generation(prompt_tokens=len(text), samples=samples))
            if done is not None:
                done(i, made[-1])
        return tuple(made)

    def usage(self) -> Usage:
        return Usage(attempts=self.asked)


QUESTIONS = [prompt(f"question {i}", seed=i, n=1 + i % 3, temperature=1.0) for i in range(9)]


def recorded(file: Path, questions: Sequence[Prompt] = QUESTIONS) -> tuple[Generation, ...]:
    with Recorder(Echo(), file) as recorder:
        return recorder.generate(questions)


def test_an_interrupted_recording_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "calls.jsonl"
    with pytest.raises(KeyboardInterrupt), Recorder(Echo(breaks_after=5), file) as recorder:
        recorder.generate(QUESTIONS)  # which ends between the second and third sample of a prompt
    with file.open("ab") as stream:
        stream.write(b'{"key": "cut in the mid')  # as a full disk leaves it
    with pytest.raises(InputError, match=r"calls\.jsonl:6: the last line is cut"):
        ReplayBackend(file)
    echo = Echo()
    with Recorder(echo, file) as recorder:
        made = recorder.generate(QUESTIONS)
    assert echo.asked == sum(one.sampling.n for one in QUESTIONS) - 5
    assert made == Echo().generate(QUESTIONS) == ReplayBackend(file).generate(QUESTIONS)
    whole = tmp_path / "whole.jsonl"
    recorded(whole)
    assert whole.read_bytes() == file.read_bytes()


def test_the_same_call_is_asked_and_written_once(tmp_path: Path) -> None:
    echo = Echo()
    with Recorder(echo, tmp_path / "calls.jsonl") as recorder:
        for _ in range(3):
            recorder.generate(QUESTIONS)
    lines = (tmp_path / "calls.jsonl").read_bytes().splitlines()
    assert echo.asked == len(lines) == sum(one.sampling.n for one in QUESTIONS)


def test_models_share_a_file_and_replay_says_whose_answers(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    question = [prompt("hello", seed=1)]
    with Recorder(Echo("a"), file) as a, Recorder(Echo("b"), file) as b:
        a.generate(question)
        b.generate(question)
    assert ReplayBackend(file, "b").generate(question)[0].text == "b hello 1"
    with pytest.raises(InputError, match=r"holds calls of a, b; say which 'model'"):
        ReplayBackend(file)
    with pytest.raises(InputError, match=r"holds no call of model 'c'"):
        ReplayBackend(file, "c")


def test_strict_replay_names_the_nearest_call_and_its_line(tmp_path: Path) -> None:
    recorded(tmp_path / "calls.jsonl")
    replay = ReplayBackend(tmp_path / "calls.jsonl")
    other = prompt("question 1", seed=5, temperature=0.5)
    with pytest.raises(InputError, match=r"line 2 asked the same with temperature = 1.0, seed = 1"):
        replay.generate([other])
    with pytest.raises(InputError, match=r"nearest prompt is line \d+, 'question 8'"):
        replay.generate([prompt("question 88", seed=8, temperature=1.0)])
    with pytest.raises(InputError, match="no recorded prompt is near it"):
        replay.generate([prompt("zzz")])
    one_more = prompt("question 0", seed=0, n=2, temperature=1.0)
    with pytest.raises(InputError, match=r"sample 1 of 'question 0'.*with sample = 0"):
        replay.generate([one_more])


def test_loose_replay_takes_recorded_samples_of_the_same_prompt_in_turn(tmp_path: Path) -> None:
    recorded(tmp_path / "calls.jsonl")
    replay = ReplayBackend(tmp_path / "calls.jsonl", strict=False)
    exact, other = QUESTIONS[2], prompt("question 2", seed=77, n=5)
    assert replay.generate([exact]) == Echo().generate([exact])
    texts = [sample.text for sample in replay.generate([other])[0].samples]
    three = [sample.text for sample in Echo().generate([exact])[0].samples]
    assert texts == [*three, *three[:2]]
    with pytest.raises(InputError, match="no recorded call"):
        replay.generate([prompt("question 99")])
    assert replay.usage().samples == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row | {"sample": -1}, r":2: is no recorded call: sample: "),
        (lambda row: row | {"extra": 1}, r":2: is no recorded call: extra: "),
        (lambda row: row | {"prompt_tokens": "many"}, r":2: is no recorded call: prompt_tokens: "),
        (lambda row: row | {"model": "other"}, r":2: the key does not fit what was asked"),
    ],
)
def test_a_line_that_was_changed_is_located(tmp_path: Path, change: object, message: str) -> None:
    file = tmp_path / "calls.jsonl"
    recorded(file)
    lines = file.read_text().splitlines()
    assert callable(change)
    lines[1] = json.dumps(change(json.loads(lines[1])))
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=message):
        ReplayBackend(file)


def test_the_seed_of_a_prompt_gives_every_sample_its_own() -> None:
    seeds = Sampling(seed=7, n=100).seeds
    assert seeds[0] == 7
    assert len(set(seeds)) == 100
    assert all(seed is not None and 0 <= seed < 2**31 for seed in seeds)
    assert [one.seed for one in Sampling(seed=7, n=3).singly()] == list(seeds[:3])
    assert Sampling(seed=8, n=2).seeds[1] != seeds[1]


@given(st.text(), st.text(min_size=1), st.floats(0, 100), st.integers(0, 2**63 - 1))
def test_any_call_survives_its_recording(
    text: str, stop: str, temperature: float, seed: int
) -> None:
    from tempfile import TemporaryDirectory

    asked = prompt(text, temperature=temperature, stop=(stop,), seed=seed, n=2)
    with TemporaryDirectory() as folder:
        file = Path(folder, "calls.jsonl")
        made = recorded(file, [asked])
        assert ReplayBackend(file).generate([asked]) == made
