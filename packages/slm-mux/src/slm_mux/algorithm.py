"""Algorithm 1 of SLM-MUX (arXiv 2510.05077): who is most consistent with itself answers.

Pure. Answers are canonical keys (see `slm_mux.extract`); None is a sample without an answer: it
could not be read, or its call failed. Confidence is agreeing samples over k, all samples drawn, so
a None lowers it. Counts are integers and confidences fractions, so ties are exact.

Where the paper is silent: of equally frequent answers inside a model the one whose first sample has
the lowest number is taken; of models with equal confidence and equal accuracy the one named first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from crosslayer.errors import InputError, nearest

Keys = Sequence[str | None]


@dataclass(frozen=True)
class ModelVotes:
    """What one model's k samples came to. counts: (key, samples) in order of first samples.

    answer: its most frequent key, None if no sample has one; tied: another key is as frequent.
    """

    model: str
    k: int
    counts: tuple[tuple[str, int], ...]
    answer: str | None
    agreeing: int
    tied: bool

    @property
    def confidence(self) -> Fraction:
        """s_i = f_i(y_i*): agreeing samples over k."""
        return Fraction(self.agreeing, self.k)


@dataclass(frozen=True)
class Choice:
    """Whose answer is returned; model and answer are None where no sample has an answer.

    tied_models: all with the highest confidence, in the order given, where there are several.
    """

    model: str | None
    answer: str | None
    confidence: Fraction
    tied_models: tuple[str, ...]
    votes: tuple[ModelVotes, ...]

    @property
    def tied_inside(self) -> bool:
        """Whether the winner had another answer as frequent."""
        return any(vote.tied for vote in self.votes if vote.model == self.model)


def count(model: str, samples: Keys, k: int | None = None) -> ModelVotes:
    """One model's votes. k: samples drawn, where fewer are given; the rest count as None."""
    drawn = len(samples) if k is None else k
    if drawn < max(1, len(samples)):
        raise InputError(f"{model}: {len(samples)} samples do not fit k = {drawn}")
    counts: dict[str, int] = {}
    for key in samples:
        if key is not None:
            counts[key] = counts.get(key, 0) + 1
    if not counts:
        return ModelVotes(model, drawn, (), None, 0, False)
    best = max(counts, key=counts.__getitem__)  # of equals the first
    tied = sum(number == counts[best] for number in counts.values()) > 1
    return ModelVotes(model, drawn, tuple(counts.items()), best, counts[best], tied)


def choose(votes: Sequence[ModelVotes], accuracies: Mapping[str, float]) -> Choice:
    """The most confident model; of those the one of the highest validation accuracy.

    accuracies: a_i of every model that votes. Errors: InputError where one is missing: counted as
    0, or as the order of a list, it would silently decide.
    """
    if not votes:
        raise InputError("SLM-MUX needs one model or more")
    for vote in votes:
        if vote.model not in accuracies:
            raise InputError(
                f"{vote.model} has no validation accuracy, which settles ties;"
                f" {nearest(vote.model, accuracies)}"
            )
    able = [vote for vote in votes if vote.answer is not None]
    if not able:
        return Choice(None, None, Fraction(0), (), tuple(votes))
    top = max(vote.confidence for vote in able)
    tied = [vote for vote in able if vote.confidence == top]
    winner = max(tied, key=lambda vote: accuracies[vote.model])  # of equals the first
    names = tuple(vote.model for vote in tied) if len(tied) > 1 else ()
    return Choice(winner.model, winner.answer, top, names, tuple(votes))


def slm_mux(samples: Mapping[str, Keys], accuracies: Mapping[str, float]) -> Choice:
    """Algorithm 1 on the samples of every model, in order of their numbers."""
    return choose([count(model, keys) for model, keys in samples.items()], accuracies)
