"""Baselines in which models read each other: Mixture-of-Agents and debate, on the same backends.

Both take one sample of a member a round. Prompts are our own; the papers' are longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from crosslayer.backends.protocol import Prompt, Sampling, TextBackend
from crosslayer.contracts.calls import Message
from slm_mux.algorithm import count
from slm_mux.engine import sample_seed
from slm_mux.extract import Extractor

Conversation = tuple[Message, ...]
# (question, (name, what it said) of the others, what to do with it) -> the words that are asked.
Words = Callable[[str, Sequence[tuple[str, str]], str], str]


def in_words(question: str, others: Sequence[tuple[str, str]], then: str) -> str:
    """For models that read English."""
    told = "\n".join(f"{name}: {said}" for name, said in others)
    return f"{question}\n\nOthers answered:\n{told}\n\n{then}"


@dataclass(frozen=True)
class Discussed:
    """The answer to one question, None if none could be read; calls and tokens it took."""

    key: str | None
    calls: int
    prompt_tokens: int
    output_tokens: int


@dataclass
class _Tally:
    calls: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def discussed(self, key: str | None) -> Discussed:
        return Discussed(key, self.calls, self.prompt_tokens, self.output_tokens)


def mixture_of_agents(
    backends: Mapping[str, TextBackend],
    questions: Sequence[Conversation],
    extract: Extractor,
    sampling: Sampling,
    aggregator: str,
    *,
    seed: int = 0,
    words: Words = in_words,
) -> list[Discussed]:
    """Every member proposes once, the aggregator reads all proposals and answers
    (arXiv 2406.04692, two layers). words: how proposals are put to it.
    """
    tallies = [_Tally() for _ in questions]
    proposals = _ask_all(backends, dict.fromkeys(backends, questions), sampling, seed, 0, tallies)
    asked = []
    for i, question in enumerate(questions):
        others = [(f"Answer {j + 1}", said[i]) for j, said in enumerate(proposals.values())]
        then = "Weigh these answers and give the right one."
        asked.append(_with_others(question, words(question[-1].content, others, then)))
    one = {aggregator: backends[aggregator]}
    final = _ask_all(one, {aggregator: asked}, sampling, seed, 1, tallies)[aggregator]
    return [
        tally.discussed(_key(extract, text)) for tally, text in zip(tallies, final, strict=True)
    ]


def debate(
    backends: Mapping[str, TextBackend],
    questions: Sequence[Conversation],
    extract: Extractor,
    sampling: Sampling,
    *,
    rounds: int = 2,
    seed: int = 0,
    words: Words = in_words,
) -> list[Discussed]:
    """Every member answers; in each further round it reads what the others said and answers again;
    the last answers are put to the vote, of equals the first member's (arXiv 2305.14325).
    """
    tallies = [_Tally() for _ in questions]
    said = _ask_all(backends, dict.fromkeys(backends, questions), sampling, seed, 0, tallies)
    for number in range(1, rounds):
        asked = {}
        for name in backends:
            asked[name] = [
                _with_others(
                    question,
                    words(
                        question[-1].content,
                        [(other, said[other][i]) for other in backends if other != name],
                        "Use these answers as advice and give yours.",
                    ),
                )
                for i, question in enumerate(questions)
            ]
        said = _ask_all(backends, asked, sampling, seed, number, tallies)
    made = []
    for i, tally in enumerate(tallies):
        keys = [_key(extract, said[name][i]) for name in backends]
        made.append(tally.discussed(count("", keys).answer))
    return made


def _ask_all(
    backends: Mapping[str, TextBackend],
    asked: Mapping[str, Sequence[Conversation]],
    sampling: Sampling,
    seed: int,
    turn: int,
    tallies: Sequence[_Tally],
) -> dict[str, list[str]]:
    """One sample of each member for each conversation, by member."""
    said: dict[str, list[str]] = {}
    for name, backend in backends.items():
        prompts = [
            Prompt(
                messages=conversation,
                sampling=sampling.replace(n=1, seed=sample_seed(seed, f"{name}/{turn}", i)),
            )
            for i, conversation in enumerate(asked[name])
        ]
        made = backend.generate(prompts)
        said[name] = [one.text for one in made]
        for tally, one in zip(tallies, made, strict=True):
            tally.calls += 1
            tally.prompt_tokens += one.prompt_tokens
            tally.output_tokens += one.samples[0].tokens
    return said


def _with_others(question: Conversation, words: str) -> Conversation:
    return (*question[:-1], Message(role=question[-1].role, content=words))


def _key(extract: Extractor, text: str) -> str | None:
    found = extract(text)
    return found and found.key
