"""SparseGPT against a plain version that inverts the remaining Hessian at every column."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError
from flow_flexcim.sparsegpt import inverse_factor, sparsegpt
from flow_flexcim.wanda import keep_mask


def instance(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4 * columns, columns, generator=generator)
    x += x @ torch.randn(columns, columns, generator=generator) / 4  # correlated
    return torch.randn(rows, columns, generator=generator), x.t() @ x / len(x)


def by_the_book(weight: np.ndarray, hessian: np.ndarray, pattern: NMSparsity) -> np.ndarray:
    """Optimal brain surgeon, one column after the other: the inverse of what remains, anew."""
    w = weight.astype(np.float64).copy()
    for j in range(w.shape[1]):
        if j % pattern.m == 0:
            # Scores by the inverses that will be met inside the group, as the method has it.
            diagonal = [np.linalg.inv(hessian[k:, k:])[0, 0] for k in range(j, j + pattern.m)]
            keep = pattern.mask(w[:, j : j + pattern.m] ** 2 / np.array(diagonal))
        inverse = np.linalg.inv(hessian[j:, j:])
        gone = ~keep[:, j % pattern.m]
        error = np.where(gone, w[:, j], 0.0) / inverse[0, 0]
        w[:, j:] -= np.outer(error, inverse[0])
        w[gone, j] = 0.0
    return w


@pytest.mark.parametrize(("text", "width"), [("2:4", 8), ("3:8", 128), ("1:4", 4), ("5:8", 16)])
def test_the_fast_path_is_the_surgeon_column_by_column(text: str, width: int) -> None:
    pattern = NMSparsity.parse(text)
    weight, products = instance(12, 32)
    damping = 0.01
    hessian = products.double().numpy()
    hessian = hessian + damping * hessian.diagonal().mean() * np.eye(32)
    found = sparsegpt(weight, inverse_factor(products, damping), pattern, width).numpy()
    expected = by_the_book(weight.numpy(), hessian, pattern)
    pattern.check(found)
    assert ((found == 0) == (expected == 0)).all()
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_the_update_leaves_less_output_error_than_the_mask_alone() -> None:
    weight, products = instance(64, 64)
    pattern = NMSparsity(2, 4)
    updated = sparsegpt(weight, inverse_factor(products, 0.01), pattern)
    score = weight.abs() * products.diagonal().sqrt()
    masked = torch.where(keep_mask(score, pattern), weight, 0.0)

    def error(new: torch.Tensor) -> float:
        change = new - weight
        return float((change @ products * change).sum())

    assert error(updated) < 0.8 * error(masked)


def test_dead_channels_and_singular_moments_are_damped() -> None:
    weight, _ = instance(8, 16)
    x = torch.randn(4, 16)  # rank 4
    x[:, 3] = 0.0
    products = x.t() @ x / 4
    pruned = sparsegpt(weight, inverse_factor(products, 0.01), NMSparsity(2, 4))
    assert torch.isfinite(pruned).all()
    with pytest.raises(InputError, match="raise damping"):
        inverse_factor(torch.full((4, 4), float("nan")), 0.01)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_weights_of_a_dead_channel_go_first_and_the_smallest_of_them_before(
    scale: float,
) -> None:
    # Inputs of any size: a dead channel has no size of its own to compare with them.
    weight, products = instance(8, 16)
    products = products * scale
    products[[3, 5]] = 0.0
    products[:, [3, 5]] = 0.0
    weight[:, 3], weight[:, 5] = 9.0, 8.0
    one, two = (sparsegpt(weight, inverse_factor(products, 0.01), NMSparsity(n, 8)) for n in (7, 6))
    assert (one[:, 5] == 0).all() and (one[:, 3] == 9.0).all()
    assert (two[:, [3, 5]] == 0).all()
    others = [0, 1, 2, 4, 6, 7]
    assert torch.equal(two[:, others], weight[:, others]), "nothing makes up for what was not there"


def test_a_dense_pattern_changes_nothing() -> None:
    weight, products = instance(8, 16)
    assert torch.equal(sparsegpt(weight, inverse_factor(products, 0.01), NMSparsity(4, 4)), weight)
