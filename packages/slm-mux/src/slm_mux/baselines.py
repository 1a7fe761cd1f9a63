"""What SLM-MUX is compared with, on the same samples. All tie rules are written down.

Keys as in `slm_mux.algorithm`: None is a sample without an answer and never votes.
"""

from __future__ import annotations

from collections.abc import Mapping

from slm_mux.algorithm import Keys, count

Samples = Mapping[str, Keys]


def single(samples: Samples, model: str) -> str | None:
    """The first sample of one model."""
    return samples[model][0]


def self_consistency(keys: Keys) -> str | None:
    """The most frequent answer of a model's samples, of equals the first (arXiv 2203.11171)."""
    return count("", keys).answer


def pooled_vote(samples: Samples) -> str | None:
    """The most frequent answer of all models' samples together (Agent Forest, arXiv 2402.05120).

    Of equals the one that comes first when the first samples of all models are read, in the order
    of the models, then the second ones.
    """
    return weighted_vote(samples, dict.fromkeys(samples, 1.0))


def weighted_vote(samples: Samples, weights: Mapping[str, float]) -> str | None:
    """Every sample votes with its model's weight, such as the validation accuracy; ties as in
    `pooled_vote`.
    """
    votes: dict[str, float] = {}
    longest = max(map(len, samples.values()), default=0)
    for i in range(longest):
        for model, keys in samples.items():
            key = keys[i] if i < len(keys) else None
            if key is not None:
                votes[key] = votes.get(key, 0.0) + weights[model]
    return max(votes, key=votes.__getitem__) if votes else None


def union(samples: Samples, gold: str) -> bool:
    """Whether some model's most frequent answer is right: no choice among models can do better."""
    return any(count(model, keys).answer == gold for model, keys in samples.items())
