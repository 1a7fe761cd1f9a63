"""The policy in the core's loop: the fan-out, the answer, what is saved and what it costs."""

from __future__ import annotations

import pytest

from crosslayer.call_service import IsolatedService
from crosslayer.contracts.calls import LLMCall, single
from crosslayer.contracts.serving import Answer, Pool, PoolMember, Quality, ServedRequest
from crosslayer.errors import InputError
from crosslayer.serve import serve
from slm_mux.algorithm import slm_mux
from slm_mux.extract import number
from slm_mux.params import SLMMuxParams
from slm_mux.policy import SLMMux

ACCURACIES = {"small": 0.5, "large": 0.8, "odd": 0.6}
POOL = Pool(
    members=tuple(
        PoolMember(name=name, quality=Quality(value=value, samples=100, data="a quiz"))
        for name, value in ACCURACIES.items()
    )
)
WORDS = {
    "small": ["It is 1.", "It is 1.", "It is 1."],
    "large": ["So 2", "So 2", "So 3"],
    "odd": ["no idea", "#### 4", "#### 4"],
}


class _Said:
    """What each member says, by the number of its sample."""

    def __init__(self, words: dict[str, list[str]] = WORDS) -> None:
        self.words = words
        self.seeds: list[int] = []

    def answer(self, call: LLMCall, seed: int) -> Answer:
        self.seeds.append(seed)
        text = self.words[call.model or ""][call.sample]
        return Answer(output_tokens=5, prompt_tokens=call.prompt_tokens, text=text)


def served(params: dict[str, object], said: _Said | None = None) -> ServedRequest:
    # Later samples take longer, so rounds are told apart.
    service = IsolatedService(lambda call: (0.01, 0.01 + 0.001 * call.sample))
    policy = SLMMux(SLMMuxParams.model_validate(params))
    (one,) = serve([single("q", 0, 40, 5)], policy, POOL, service, said or _Said())
    return one


def calls(one: ServedRequest) -> int:
    return len(one.results) + len(one.cancelled)


@pytest.mark.parametrize("schedule", ["parallel", "best-first", "rounds"])
def test_every_schedule_gives_the_answer_of_algorithm_1(schedule: str) -> None:
    keys = {
        model: [found and found.key for found in map(number, texts)]
        for model, texts in WORDS.items()
    }
    expected = slm_mux(keys, ACCURACIES)
    assert expected.answer == "1"
    for early in ("lossless", "never"):
        one = served({"schedule": schedule, "early_stop": early})
        assert one.answer == expected.answer
        if early == "never":
            assert calls(one) == 9


def test_each_member_is_asked_k_times_with_a_seed_and_an_id_of_its_own() -> None:
    said = _Said()
    one = served({"early_stop": "never", "temperature": 0.7, "max_tokens": 64}, said)
    assert len(set(said.seeds)) == 9
    asked = [result.call for result in one.results]
    assert {(call.model, call.sample) for call in asked} == {
        (name, i) for name in ACCURACIES for i in range(3)
    }
    assert {call.parameters for call in asked} == {(("temperature", 0.7),)}
    assert {call.max_tokens for call in asked} == {64}


def test_samples_share_the_blocks_of_their_prompt_and_nothing_else() -> None:
    policy = SLMMux(SLMMuxParams(k=2, prefix_block_tokens=16))
    first = policy.plan(single("a", 0, 40, 5), POOL).calls
    other = policy.plan(single("b", 0, 40, 5), POOL).calls
    assert len({call.prefix for call in first}) == 1
    assert first[0].prefix is not None and len(first[0].prefix.hashes) == 3
    assert other[0].prefix is not None
    assert not set(first[0].prefix.hashes) & set(other[0].prefix.hashes)


def test_best_first_asks_nobody_else_when_the_best_agrees_with_itself() -> None:
    sure = _Said({**WORDS, "large": ["2", "2", "2"]})
    one = served({"schedule": "best-first"}, sure)
    assert (one.answer, calls(one)) == ("2", 3)


def test_where_all_first_samples_agree_the_shortcut_gives_their_answer() -> None:
    said = _Said({"small": ["1", "2", "2"], "large": ["1", "2", "3"], "odd": ["1", "4", "4"]})
    for schedule in ("parallel", "best-first", "rounds"):
        one = served({"early_stop": "unanimous", "schedule": schedule}, said)
        assert one.answer == "1"
    assert served({}, said).answer == "4"


def test_lengths_alone_price_the_whole_fan_out_and_answer_nothing() -> None:
    service = IsolatedService(lambda call: (0.01, 0.02))
    (one,) = serve([single("q", 0, 40, 5)], SLMMux(), POOL, service)
    assert one.answer is None
    assert len(one.results) == 9


def test_members_can_be_named_and_ties_need_a_measured_quality() -> None:
    one = served({"members": ["odd", "large"], "k": 2})
    assert {result.call.model for result in one.results} <= {"odd", "large"}
    bare = Pool(members=(PoolMember(name="m"),))
    with pytest.raises(InputError, match=r"m has no measured quality.*tie_break"):
        SLMMux().plan(single("q", 0, 1, 1), bare)
    assert SLMMux(SLMMuxParams(tie_break="order")).plan(single("q", 0, 1, 1), bare).calls
    with pytest.raises(InputError, match="names 'odd' twice"):
        SLMMux(SLMMuxParams(members=("large", "odd", "odd"))).plan(single("q", 0, 1, 1), POOL)
    with pytest.raises(InputError, match="did you mean 'large'"):
        SLMMux(SLMMuxParams(members=("larg",))).plan(single("q", 0, 1, 1), POOL)


def test_temperature_nought_is_refused_because_all_samples_would_be_equal() -> None:
    with pytest.raises(ValueError, match="temperature"):
        SLMMuxParams(temperature=0)
