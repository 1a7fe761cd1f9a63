"""N:M masks: exactly n a group, the largest scores, ties to the lowest index."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.contracts.formats import NMSparsity, pack
from crosslayer.errors import InputError

patterns = st.integers(1, 8).flatmap(lambda m: st.tuples(st.integers(1, m), st.just(m)))


@settings(max_examples=100, deadline=None)
@given(patterns, st.integers(0, 2**32 - 1))
def test_a_mask_keeps_exactly_n_and_no_other_choice_scores_more(
    pattern: tuple[int, int], seed: int
) -> None:
    n, m = pattern
    scores = np.random.default_rng(seed).integers(-2, 4, (3, 2 * m)).astype(np.float32)
    mask = NMSparsity(n, m).mask(scores)
    assert mask.shape == scores.shape
    assert mask.dtype == np.bool_
    for group, kept in zip(scores.reshape(-1, m), mask.reshape(-1, m), strict=True):
        # combinations come in lexicographic order, and max returns the first of equal sums: of all
        # best choices that is the one with the lowest indices.
        best = max(itertools.combinations(range(m), n), key=lambda c: group[list(c)].sum())
        assert tuple(np.flatnonzero(kept)) == best


def test_ties_go_to_the_lowest_index() -> None:
    assert NMSparsity(2, 4).mask([1, 1, 1, 1]).tolist() == [True, True, False, False]
    assert NMSparsity(1, 2).mask([[-np.inf, -np.inf], [0, np.inf]]).tolist() == [
        [True, False],
        [False, True],
    ]


def test_a_shape_that_m_does_not_divide_is_named() -> None:
    for refused in (NMSparsity(2, 4).mask, NMSparsity(2, 4).check):
        with pytest.raises(InputError, match=r"m = 4, got shape \(3, 6\)"):
            refused(np.zeros((3, 6)))
    with pytest.raises(InputError, match=r"\(3, 6\)"):
        pack(np.zeros((3, 6)), "int8", NMSparsity(2, 4))


def test_nan_scores_are_refused_with_their_place() -> None:
    scores = np.zeros((2, 4))
    scores[1, 2] = np.nan
    with pytest.raises(InputError, match=r"index \(1, 2\)"):
        NMSparsity(2, 4).mask(scores)


def test_check_names_the_first_group_with_too_many_non_zeros() -> None:
    weight = np.zeros((2, 3, 8))
    weight[1, 0, 4:7] = 1
    weight[1, 2] = 1
    with pytest.raises(InputError, match=r"row \(1, 0\), elements 4 to 7 hold 3 non-zeros"):
        NMSparsity(2, 4).check(weight)
    with pytest.raises(InputError, match="elements 4 to 7"):
        pack(weight, "bf16", NMSparsity(2, 4))
    NMSparsity(4, 4).check(weight)


def test_patterns_are_written_and_read_as_n_of_m() -> None:
    assert str(NMSparsity.parse("4:8")) == "4:8"
    assert NMSparsity.parse(" 2 : 4 ") == NMSparsity(2, 4)
    assert len({NMSparsity(2, 4), NMSparsity.parse("2:4")}) == 1
    assert NMSparsity(2, 8).density == 0.25
    for bad in ("2/4", "4:2", "0:4", "", "2:4:8", "-1:4"):
        with pytest.raises(InputError, match=":"):
            NMSparsity.parse(bad)


@pytest.mark.parametrize("n, m, bits", [(1, 1, 0), (4, 4, 0), (1, 2, 1), (2, 4, 2), (3, 5, 3)])
def test_an_index_has_as_many_bits_as_its_group_needs(n: int, m: int, bits: int) -> None:
    assert NMSparsity(n, m).index_bits == bits
