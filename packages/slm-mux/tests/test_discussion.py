"""Baselines that read each other, on backends that show what they were told."""

from __future__ import annotations

from collections.abc import Sequence

from talkers import Talker

from crosslayer.backends.protocol import Sampling
from crosslayer.contracts.calls import Message
from slm_mux.discussion import debate, mixture_of_agents
from slm_mux.extract import number

QUESTIONS = [(Message(role="user", content=f"What is {i} + 1?"),) for i in range(2)]
SAMPLING = Sampling(temperature=0.5)


def copies(words: str, seed: int | None) -> str:
    """Says 9 at first, later what "one" said."""
    return words.partition("one: ")[2].split("\n")[0] or "It is 9"


def test_the_aggregator_reads_every_proposal_and_its_answer_counts() -> None:
    one = Talker("one", lambda words, seed: "It is 3")
    two = Talker(
        "two", lambda words, seed: "It is 5" if "Answer 1: It is 3" in words else "It is 4"
    )
    made = mixture_of_agents({"one": one, "two": two}, QUESTIONS, number, SAMPLING, "two")
    assert [(each.key, each.calls) for each in made] == [("5", 3), ("5", 3)]
    assert (made[0].prompt_tokens, made[0].output_tokens) == (21, 9)
    assert "Answer 2: It is 4" in two.asked[-1].messages[-1].content


def test_debaters_read_the_others_and_their_last_answers_are_put_to_the_vote() -> None:
    members = {
        "one": Talker("one", lambda words, seed: "It is 3"),
        "two": Talker("two", copies),
        "three": Talker("three", lambda words, seed: "It is 9"),
    }
    alone = debate(members, QUESTIONS, number, SAMPLING, rounds=1)
    assert [each.key for each in alone] == ["9", "9"]
    both = debate(members, QUESTIONS, number, SAMPLING, rounds=2)
    assert [(each.key, each.calls) for each in both] == [("3", 6), ("3", 6)]
    seeds = [prompt.sampling.seed for prompt in members["one"].asked[2:]]
    assert len(set(seeds)) == len(seeds)


def test_models_that_read_no_english_are_shown_the_others_in_their_own_way() -> None:
    def in_signs(question: str, others: Sequence[tuple[str, str]], then: str) -> str:
        return f"{'+'.join(said for _, said in others)};{question}"

    one = Talker("one", lambda words, seed: "3")
    two = Talker("two", lambda words, seed: "4")
    members = {"one": one, "two": two}
    mixture_of_agents(members, QUESTIONS[:1], number, SAMPLING, "two", words=in_signs)
    assert two.asked[-1].messages[-1].content == "3+4;What is 0 + 1?"
    debate(members, QUESTIONS[:1], number, SAMPLING, words=in_signs)
    assert one.asked[-1].messages[-1].content == "4;What is 0 + 1?"
