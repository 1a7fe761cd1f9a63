"""The engine on backends in this process and on an endpoint that hangs, fails and breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from talkers import Talker, Upstream

from crosslayer.backends.openai import OpenAIBackend
from crosslayer.backends.params import OpenAIParams
from crosslayer.backends.protocol import BackendError, TextBackend
from crosslayer.contracts.calls import Message
from crosslayer.errors import InputError
from slm_mux.callers import Callers, Prompted
from slm_mux.engine import (
    Answered,
    DeadlineError,
    Engine,
    Settings,
    question_seed,
    sample_seed,
)
from slm_mux.extract import from_function

QUESTION = (Message(role="user", content="What is 2 + 2?"),)
SEED = question_seed(0, QUESTION)


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({"accuracies": {"a": 0.7, "b": 0.5}} | changes)


def answer(
    backends: Mapping[str, TextBackend], given: Settings, times: int = 1, **asked: Any
) -> list[Answered]:
    async def run() -> list[Answered]:
        async with Callers(backends) as callers:
            engine = Engine(callers, given)
            work = (engine.answer(QUESTION, **asked) for _ in range(times))
            return list(await asyncio.gather(*work))

    return asyncio.run(run())


def remote(up: Upstream, model: str, **changes: Any) -> OpenAIBackend:
    quick = {"base_url": up.base_url, "model": model, "wait_s": 0.01, "attempts": 2}
    return OpenAIBackend(OpenAIParams.model_validate(quick | changes))


def test_every_sample_is_asked_with_a_seed_of_its_own_and_the_whole_text_comes_back() -> None:
    a = Talker("a", lambda words, seed: f"Well... {4 if (seed or 0) % 2 else 5}. Done")
    b = Talker("b", lambda words, seed: "I say 6")
    (one,) = answer({"a": a, "b": b}, settings(k=4, early_stop="never"))
    seeds = [prompt.sampling.seed for prompt in a.asked + b.asked]
    assert len(set(seeds)) == 8
    assert set(seeds) == {sample_seed(SEED, name, i) for name in "ab" for i in range(4)}
    assert (one.answer, one.text, one.choice.model) == ("6", "I say 6", "b")
    assert (one.prompt_tokens, one.output_tokens) == (8 * 7, 8 * 3)
    assert (one.calls, one.saved, one.stopped) == (8, 0, "all samples")


def test_stopping_early_gives_the_same_choice_with_fewer_calls() -> None:
    def backends() -> dict[str, TextBackend]:
        return {"a": Talker("a", lambda w, s: "4"), "b": Talker("b", lambda w, s: "5")}

    (whole,) = answer(backends(), settings(early_stop="never"))
    (early,) = answer(backends(), settings(schedule="best-first"))
    assert (early.choice.model, early.choice.answer) == (whole.choice.model, whole.choice.answer)
    assert (early.calls, early.saved, early.stopped) == (3, 3, "settled")
    (shortcut,) = answer(
        {"a": Talker("a", lambda w, s: "4"), "b": Talker("b", lambda w, s: "4")},
        settings(early_stop="unanimous", schedule="rounds", k=5),
    )
    assert (shortcut.calls, shortcut.stopped) == (2, "unanimous")


@pytest.mark.parametrize("schedule", ["parallel", "best-first", "rounds"])
def test_where_all_first_samples_agree_the_shortcut_gives_their_answer(schedule: str) -> None:
    def changes_its_mind(words: str, seed: int | None) -> str:
        return "4" if seed == sample_seed(SEED, "a", 0) else "5"

    backends = {"a": Talker("a", changes_its_mind), "b": Talker("b", lambda w, s: "4")}
    given = settings(early_stop="unanimous", schedule=schedule)
    (one,) = answer(backends, given)
    assert (one.choice.model, one.answer) == ("a", "4")  # of all samples of a most say 5
    backends["b"] = Talker("b", lambda w, s: str(s))
    (apart,) = answer(backends, given)
    assert (apart.choice.model, apart.answer) == ("a", "5")


def test_a_model_is_opened_before_the_clock_of_a_question_runs() -> None:
    a = Talker("a", lambda w, s: "4")
    answer({"a": a}, settings(accuracies={"a": 1.0}, k=2))
    assert a.batches == [0, 2]

    class Torn(Talker):
        def generate(self, prompts: Any, done: Any = None) -> Any:
            raise OSError("weights are torn")

    with pytest.raises(BackendError, match="a failed: OSError"):
        answer({"a": Torn("a", lambda w, s: "")}, settings(accuracies={"a": 1.0}))


def test_a_failing_member_is_a_member_without_answers_or_an_error() -> None:
    def fails(words: str, seed: int | None) -> str:
        raise RuntimeError("no weights")

    def backends() -> dict[str, TextBackend]:
        return {"a": Talker("a", fails), "b": Talker("b", lambda w, s: "5")}

    (one,) = answer(backends(), settings(early_stop="never"))
    assert (one.choice.model, one.answer) == ("b", "5")
    assert len(one.failures) == 3 and "a, sample 0: a failed: RuntimeError" in one.failures[0]
    with pytest.raises(BackendError, match="no weights"):
        answer(backends(), settings(on_failure="strict"))
    with pytest.raises(BackendError, match="no member answered"):
        answer({"a": Talker("a", fails), "b": Talker("b", fails)}, settings())


def test_a_bad_prompt_in_a_batch_costs_the_others_nothing() -> None:
    def picky(words: str, seed: int | None) -> str:
        if seed == sample_seed(SEED, "a", 1):
            raise RuntimeError("this one")
        return "4"

    a = Talker("a", picky)
    (one,) = answer({"a": a, "b": Talker("b", lambda w, s: "5")}, settings(early_stop="never"))
    votes = {vote.model: vote for vote in one.choice.votes}
    assert (votes["a"].agreeing, votes["a"].k) == (2, 3)
    assert one.choice.model == "b"  # 3 of 3 against 2 of 3


def test_a_retry_is_asked_for_once_more() -> None:
    tries: list[int | None] = []

    def shaky(words: str, seed: int | None) -> str:
        tries.append(seed)
        if tries.count(seed) == 1:
            raise RuntimeError("once")
        return "4"

    (one,) = answer({"a": Talker("a", shaky)}, settings(accuracies={"a": 1.0}, k=1, retries=1))
    assert (one.answer, one.failures) == ("4", ())


def test_late_members_lose_their_votes_at_the_deadline() -> None:
    with Upstream() as up:
        slow = {"a": remote(up, "hang"), "b": remote(up, "say 5")}
        (one,) = answer(slow, settings(deadline_s=3))
        assert (one.choice.model, one.answer, one.stopped) == ("b", "5", "deadline")
        with pytest.raises(DeadlineError, match="within the deadline"):
            answer(slow, settings(deadline_s=0.3, on_failure="strict"))
        with pytest.raises(DeadlineError, match=r"no member answered \(deadline\)"):
            answer({"a": remote(up, "hang")}, settings(accuracies={"a": 1.0}, deadline_s=0.2))


@pytest.mark.parametrize("fault", ["fail", "garbage", "half", "half-close", "drop"])
def test_a_broken_upstream_is_outvoted_and_named(fault: str) -> None:
    with Upstream() as up:
        backends = {"a": remote(up, fault), "b": remote(up, "say 5")}
        (one,) = answer(backends, settings(early_stop="never"))
    assert (one.choice.model, one.answer) == ("b", "5")
    assert len(one.failures) == 3
    assert one.failures[0].startswith("a, sample 0: ")


def test_calls_run_at_once_and_end_when_they_are_not_needed() -> None:
    with Upstream() as up:
        backends = {"a": remote(up, "say 4"), "b": remote(up, "hang")}
        (one,) = answer(backends, settings())
        assert (one.answer, one.stopped, one.calls) == ("4", "settled", 3)  # b was not waited for
    with Upstream() as up:
        waiting = {"a": remote(up, "wait 2 4"), "b": remote(up, "wait 2 5")}
        answer(waiting, settings(early_stop="never"))
        assert up.peak == 6  # side by side


def test_many_questions_at_once_are_answered_as_one_by_one() -> None:
    def backends() -> dict[str, TextBackend]:
        return {
            "a": Talker("a", lambda w, s: str((s or 0) % 3), delay_s=0.005),
            "b": Talker("b", lambda w, s: str((s or 0) % 2)),
        }

    alone = answer(backends(), settings())[0]
    crowd = backends()
    together = answer(crowd, settings(), times=20)
    assert {(one.choice.model, one.answer, one.text) for one in together} == {
        (alone.choice.model, alone.answer, alone.text)
    }
    assert max(crowd["a"].batches) > 1  # type: ignore[attr-defined]


def test_a_spent_budget_decides_with_what_there_is() -> None:
    backends = {"a": Talker("a", lambda w, s: str(s)), "b": Talker("b", lambda w, s: "5")}
    (one,) = answer(backends, settings(schedule="rounds", k=5, most_tokens=20))
    assert (one.stopped, one.calls) == ("budget", 2)
    with pytest.raises(InputError, match="10 calls, over the limit of 9"):
        answer(backends, settings(k=5, most_calls=9))


def test_a_variant_hears_its_system_message_and_shares_the_model() -> None:
    model = Talker("m", lambda w, s: "4")
    pair = {"a": Prompted(model, "Be brief.", "a"), "b": Prompted(model, "Think.", "b")}
    answer(pair, settings(early_stop="never", k=1))
    assert {prompt.messages[0].content for prompt in model.asked} == {"Be brief.", "Think."}
    assert model.batches == [2] or sum(model.batches) == 2


def test_temperature_nought_is_warned_of_and_unknown_members_are_named() -> None:
    backends = {"a": Talker("a", lambda w, s: "4"), "b": Talker("b", lambda w, s: "5")}
    (one,) = answer(backends, settings(temperature=0))
    assert "validation accuracies alone decide" in one.warnings[0]
    with pytest.raises(InputError, match="no member 'c'"):
        answer(backends, settings(), members=["c"])
    with pytest.raises(InputError, match="who is no member"):
        answer(backends, settings(accuracies={"z": 0.5}))


def test_a_function_may_extract_and_silence_gives_the_best_models_words() -> None:
    backends = {"a": Talker("a", lambda w, s: "hm"), "b": Talker("b", lambda w, s: "x: 5")}
    found = from_function(lambda text: text.partition(": ")[2] or None)
    (one,) = answer(backends, settings(), extract=found)
    assert one.answer == "5"
    (none,) = answer(backends, settings(), extract=from_function(lambda text: None))
    assert (none.choice.model, none.answer, none.text) == (None, None, "hm")


def test_questions_have_seeds_of_their_own_and_the_same_question_the_same() -> None:
    other = (Message(role="user", content="What is 2 + 3?"),)
    assert question_seed(0, QUESTION) == SEED != question_seed(0, other)
    assert question_seed(1, QUESTION) != SEED
