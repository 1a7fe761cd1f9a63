"""Methods at equal bytes: each takes what it may and no more."""

from __future__ import annotations

import pytest
import torch

from crosslayer.errors import InputError
from thinkv.methods import EVICTORS, METHODS, Shape, full_layer_bytes, method
from thinkv.row import Labeller
from thinkv.thoughts import Thought

SHAPE = Shape(heads=4, kv_heads=2, head_dim=32, prompt=0, tokens=512)
ORACLE = Labeller(labels=(Thought.REASONING, Thought.EXECUTION, Thought.TRANSITION) * 2)


def held(name: str, share: float, labeller: Labeller | None = None) -> tuple[int, int]:
    """(bytes, tokens alive) of one layer after 512 random tokens."""
    chosen = method(name, SHAPE, share * full_layer_bytes(SHAPE), labeller=labeller)
    row = chosen.make_row(1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(32):
        q = torch.randn(4, 16, 32, generator=generator)
        k, v = torch.randn(2, 2, 16, 32, generator=generator)
        row.begin(16)
        row.attend(0, q, k, v, 0.2)
    row.settle()
    return sum(row.bytes().values()), row.physical


@pytest.mark.parametrize("name", [*EVICTORS, "thinkv", "one-type", "tbe"])
def test_a_method_with_a_budget_uses_its_bytes_and_no_more(name: str) -> None:
    share = 0.4 if name == "tbe" else 0.25  # in 16 bits the floor alone takes 0.3
    stored, alive = held(name, share)
    full = full_layer_bytes(SHAPE)
    assert 0.8 * share * full < stored <= 1.02 * share * full
    assert 0 < alive < 512


def test_labels_reach_thinkv_and_not_its_one_type_ablation() -> None:
    for name in ("oracle", "one-type"):
        chosen = method(name, SHAPE, full_layer_bytes(SHAPE), labeller=ORACLE)
        row = chosen.make_row(1)
        for _ in range(32):
            row.begin(16)
            row.attend(0, *(torch.randn(2, 16, 32) for _ in range(3)), 0.2)
        row.settle()
        labels = {label for _, _, label in row.history}  # type: ignore[attr-defined]
        assert labels == (set(Thought) if name == "oracle" else {Thought.REASONING})


def test_methods_without_a_budget_hold_everything() -> None:
    for name in ("full", "kivi4", "kivi2", "tbq"):
        assert held(name, 0.01)[1] == 512
    assert held("kivi2", 1)[0] < held("kivi4", 1)[0] < held("full", 1)[0] / 2
    assert held("tbq", 1)[0] < held("full", 1)[0] / 2


def test_unknown_names_and_too_few_bytes_are_refused() -> None:
    with pytest.raises(InputError, match="snapkv"):
        method("snapk", SHAPE, 1e6)
    with pytest.raises(InputError, match="allow more bytes"):
        method("window", SHAPE, 1000)
    with pytest.raises(InputError, match="known types"):
        method("oracle", SHAPE, 1e6)
    assert len(set(METHODS)) == len(METHODS)
