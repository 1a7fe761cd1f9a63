"""Wanda's scores, its mask, the calibration behind them and the signals drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact
from crosslayer.progress import Progress
from flow_flexcim.calibration import dense_inputs
from flow_flexcim.linears import decoder_linears
from flow_flexcim.modules import live_linears
from flow_flexcim.signals import block_signals
from flow_flexcim.wanda import keep_mask, scores

PATTERNS = [NMSparsity(n, m) for m in (2, 4, 8, 16) for n in range(1, m + 1)]


def test_a_score_is_the_weight_times_the_root_mean_square_of_its_input() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 0.0, 0.5]])
    squares = torch.tensor([4.0, 9.0, 0.25], dtype=torch.float64)
    expected = [[2.0, 6.0, 1.5], [8.0, 0.0, 0.25]]
    assert scores(weight, squares).tolist() == expected


def test_dead_channels_score_below_live_ones_and_among_themselves_by_weight() -> None:
    weight = torch.tensor([[5.0, 9.0, 0.1, 7.0]])
    squares = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    score = scores(weight, squares)[0]
    assert score.argsort(descending=True).tolist() == [2, 1, 3, 0]
    all_dead = scores(weight, torch.zeros(4, dtype=torch.float64))[0]
    assert all_dead.tolist() == weight[0].tolist()


@given(
    pattern=st.sampled_from(PATTERNS),
    rows=st.integers(1, 4),
    groups=st.integers(1, 4),
    levels=st.integers(1, 50),
    seed=st.integers(0, 999),
)
def test_the_mask_is_the_reference_mask_ties_included(
    pattern: NMSparsity, rows: int, groups: int, levels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, levels, (rows, groups * pattern.m)).astype(np.float32)
    assert (keep_mask(torch.from_numpy(score), pattern).numpy() == pattern.mask(score)).all()


@given(seed=st.integers(0, 999), multiple=st.sampled_from([1.5, 3.0, 50.0]))
def test_signals_are_what_the_masks_really_drop(seed: int, multiple: float) -> None:
    rng = np.random.default_rng(seed)
    shapes = [(6, 32), (3, 16)]
    weights = [rng.standard_cauchy(shape).clip(-50, 50).astype(np.float32) for shape in shapes]
    inputs = [rng.random(shape[1]) + 0.1 for shape in shapes]
    pairs = [
        (torch.from_numpy(w), torch.from_numpy(x)) for w, x in zip(weights, inputs, strict=True)
    ]
    found = block_signals([w for w, _ in pairs], [x for _, x in pairs], PATTERNS, multiple)

    flat = [scores(w, x).double().numpy() for w, x in pairs]
    every = np.concatenate([score.ravel() for score in flat])
    threshold = multiple * every.mean()
    outliers = every[every > threshold].sum()
    assert found.outlier_density == (every > threshold).mean()
    for i, pattern in enumerate(PATTERNS):
        dropped = np.concatenate([score[~pattern.mask(score)] for score in flat])
        relative = [(s[~pattern.mask(s)] ** 2).sum() / (s**2).sum() for s in flat]
        error = sum(s.size * r for s, r in zip(flat, relative, strict=True)) / every.size
        lost = dropped[dropped > threshold].sum() / outliers if outliers else 0.0
        assert found.dropped[i] == pytest.approx(lost, abs=1e-9)
        assert found.error[i] == pytest.approx(error, rel=1e-5)


def test_signals_of_a_block_of_zeros_are_zero_and_not_nan() -> None:
    found = block_signals([torch.zeros(2, 8)], [torch.ones(8).double()], PATTERNS[:3], 5.0)
    assert (found.outlier_density, set(found.dropped), set(found.error)) == (0.0, {0.0}, {0.0})


def test_calibration_gives_the_mean_square_of_every_input_over_all_tokens(
    tiny: ModelArtifact,
) -> None:
    assert tiny.live is not None
    module = tiny.live.module
    linears = live_linears(module, decoder_linears(tiny.spec))
    windows = np.random.default_rng(0).integers(0, 256, (3, 17))
    found = dense_inputs(module, linears, windows, Progress())

    seen: dict[str, list[torch.Tensor]] = {}
    hooks = [
        linear.register_forward_hook(
            lambda _, inputs, __, path=path: seen.setdefault(path, []).append(inputs[0][0].double())
        )
        for path, linear in linears.items()
    ]
    for row in windows:
        module(input_ids=torch.from_numpy(row)[None])
    for hook in hooks:
        hook.remove()
    assert list(found) == list(linears)
    for path, inputs in seen.items():
        expected = torch.cat(inputs).square().mean(0)
        assert torch.allclose(found[path].mean_square, expected, rtol=1e-5, atol=0)


def test_calibration_leaves_no_hook_behind_even_when_it_fails(tiny: ModelArtifact) -> None:
    assert tiny.live is not None
    module = tiny.live.module
    linears = live_linears(module, decoder_linears(tiny.spec))
    with pytest.raises(IndexError):  # no such token
        dense_inputs(module, linears, np.full((1, 4), 10**6), Progress())
    assert not any(linear._forward_pre_hooks for linear in linears.values())


def test_activations_that_are_not_finite_are_located(tiny: ModelArtifact) -> None:
    assert tiny.live is not None
    module = tiny.live.module
    linears = live_linears(module, decoder_linears(tiny.spec))
    with torch.no_grad():
        module.get_submodule("model.layers.1.post_attention_layernorm").weight[5] = float("nan")
    with pytest.raises(
        InputError, match=r"model\.layers\.1\.mlp\.gate_proj: input channel 5 holds"
    ):
        dense_inputs(module, linears, np.zeros((1, 8), dtype=np.int64), Progress())


def test_a_linear_that_no_token_reaches_is_named(tiny: ModelArtifact) -> None:
    assert tiny.live is not None
    idle = {"idle": torch.nn.Linear(4, 4)}
    with pytest.raises(InputError, match="idle: no calibration token reached it"):
        dense_inputs(tiny.live.module, idle, np.zeros((1, 8), dtype=np.int64), Progress())
