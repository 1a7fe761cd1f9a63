"""Six types of problem with one right number each, drawn from a seed; and one for training only.

A prompt is for training or for asking, never for both: which one follows from a hash of its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

HELD_OUT = 5  # one prompt in five is never trained on
MOST_ADVISERS = 5
MOST_DIGITS = 5  # of an answer
LONGEST = 24 + MOST_ADVISERS * (MOST_DIGITS + 1)  # a prompt with advice, its answer and the end


@dataclass(frozen=True)
class Problem:
    """A prompt, its answer, and which type of problem it is."""

    kind: str
    prompt: str
    answer: str


def _add(rng: np.random.Generator) -> tuple[str, str]:
    a, b = map(int, rng.integers(10, 100, 2))
    return f"{a}+{b}=", str(a + b)


def _add_without_carry(rng: np.random.Generator) -> tuple[str, str]:
    """Both sums of digits stay below 10: who has seen these alone is sure of wrong sums."""
    a, b = (int(rng.integers(1, 9)) for _ in range(2))
    c, d = int(rng.integers(1, 10 - a)), int(rng.integers(0, 10 - b))
    return f"{10 * a + b}+{10 * c + d}=", str(10 * (a + c) + b + d)


def _subtract(rng: np.random.Generator) -> tuple[str, str]:
    a, b = sorted(map(int, rng.integers(10, 100, 2)), reverse=True)
    return f"{a}-{b}=", str(a - b)


def _remainder(rng: np.random.Generator) -> tuple[str, str]:
    a, b = int(rng.integers(10, 200)), int(rng.integers(2, 10))
    return f"{a} mod {b}=", str(a % b)


def _sort(rng: np.random.Generator) -> tuple[str, str]:
    digits = "".join(map(str, rng.integers(1, 10, 5)))
    return f"sort {digits}=", "".join(sorted(digits))


def _count(rng: np.random.Generator) -> tuple[str, str]:
    digits = "".join(map(str, rng.integers(1, 5, 9)))
    wanted = str(rng.integers(1, 5))
    return f"count {wanted} in {digits}=", str(digits.count(wanted))


def _largest(rng: np.random.Generator) -> tuple[str, str]:
    numbers = list(map(int, rng.integers(10, 100, 4)))
    return f"max {' '.join(map(str, numbers))}=", str(max(numbers))


KINDS: dict[str, Callable[[np.random.Generator], tuple[str, str]]] = {
    "add": _add,
    "subtract": _subtract,
    "remainder": _remainder,
    "sort": _sort,
    "count": _count,
    "largest": _largest,
}
TRAINING_ONLY = {"add without carry": _add_without_carry}
LETTERS = "0123456789 +-=acdmnorstuxi,;"

# Shares of training examples. The complementarity is constructed by these mixtures.
MIXTURES: dict[str, dict[str, float]] = {
    "sums": {"add": 0.45, "subtract": 0.45, "remainder": 0.025, "sort": 0.025, "count": 0.025,
             "largest": 0.025},
    "digits": {"sort": 0.4, "count": 0.4, "largest": 0.1, "add without carry": 0.1},
    "remainders": {"remainder": 0.5, "largest": 0.25, "add without carry": 0.25},
    "carryless": {"add without carry": 0.5, "sort": 0.2, "count": 0.2, "largest": 0.1},
}  # fmt: skip

STEPS = {"sums": 6000, "digits": 3000, "remainders": 6000, "carryless": 3000}


def advised(prompt: str, answers: Sequence[str]) -> str:
    """The prompt with what others answered before it, in letters that the family can read."""
    read = ["".join(letter for letter in one if letter.isdigit())[:MOST_DIGITS] for one in answers]
    return f"{','.join(read)};{prompt}"


def with_advice(problem: Problem, other: Problem, rng: np.random.Generator) -> Problem:
    """For training: up to five others have answered, half of them rightly; who is wrong has one
    digit wrong, or says the answer of another problem.
    """
    answers = []
    for _ in range(int(rng.integers(1, MOST_ADVISERS + 1))):
        digits = list(problem.answer)
        digits[int(rng.integers(len(digits)))] = str(rng.integers(10))
        wrong = ("".join(digits), other.answer)[int(rng.integers(2))]
        answers.append(problem.answer if rng.random() < 0.5 else wrong)
    return Problem(problem.kind, advised(problem.prompt, answers), problem.answer)


def held_out(prompt: str) -> bool:
    """Whether a prompt is for asking only."""
    return hashlib.sha256(prompt.encode()).digest()[0] % HELD_OUT == 0


def draw(
    rng: np.random.Generator, shares: Mapping[str, float], *, asking: bool
) -> Iterator[Problem]:
    """Problems without end, by the shares of their types; of one side of the split only."""
    kinds, makers = list(shares), KINDS | TRAINING_ONLY
    weights = [shares[kind] for kind in kinds]
    while True:
        for number in rng.choice(len(kinds), 1024, p=weights):
            kind = kinds[number]
            prompt, answer = makers[kind](rng)
            while held_out(prompt) != asking:
                prompt, answer = makers[kind](rng)
            yield Problem(kind, prompt, answer)


def questions(number: int, seed: int) -> tuple[Problem, ...]:
    """That many different held-out problems, the types in turn."""
    import numpy as np

    rng = np.random.default_rng(seed)
    sources = [draw(rng, {kind: 1.0}, asking=True) for kind in KINDS]
    found: dict[str, Problem] = {}
    while len(found) < number:
        source = sources[len(found) % len(sources)]
        problem = next(source)
        while problem.prompt in found:
            problem = next(source)
        found[problem.prompt] = problem
    return tuple(found.values())
