"""How N:M weights lie in a macro, and in how many passes its shared selectors serve them.

As in the released RTL sketch of FlexCiM: S sub-macros of R rows and C columns; a cell holds a
weight and one bit and sees a pair of activations (its native 1:2). The N weights of a group of M
lie in one row of N sub-macros. For each row the distribution unit chooses one of P pairs for each
sub-macro, and that choice is shared by all C columns; the merging unit adds the sub-macros' sums.
The sketch enables whole columns; that a cell waits for its pair (per_cell_gating) is an addition.
Weights of a group fill the sub-macros in the order of their places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, comb

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.sparsity import NMSparsity


@dataclass(frozen=True)
class Macro:
    """S sub-macros x R rows x C columns, P pairs a selector."""

    sub_macros: int = 4
    rows: int = 32
    columns: int = 32
    pairs: int = 4

    @property
    def name(self) -> str:
        """S x R x C, as annotations of measured passes name it."""
        return f"{self.sub_macros}x{self.rows}x{self.columns}"


@dataclass(frozen=True)
class Placement:
    """Groups of m inputs with `slots` cells each; slots == m is dense.

    inputs: consumed by the R rows of a macro at a time (K of a tile).
    """

    slots: int
    m: int
    inputs: int

    @property
    def dense(self) -> bool:
        return self.slots == self.m


def placement(pattern: NMSparsity | None, macro: Macro) -> Placement | str:
    """Where a pattern's weights go, or why they cannot be placed.

    N is rounded up to a power of two, the cells between stay empty: 3:8 lies as 4:8. Only whole
    groups lie in a macro.
    """
    dense = Placement(1, 1, macro.rows * macro.sub_macros)
    if pattern is None or pattern.n == pattern.m:
        return dense
    slots = 1 << (pattern.n - 1).bit_length()
    if slots >= pattern.m:
        return dense
    if pattern.m % 2:
        return f'{pattern}: activations come in pairs; plan with hardware = "flexcim" (an even M)'
    if pattern.m > 2 * macro.pairs:
        return (
            f"{pattern} needs {pattern.m // 2} activation pairs at a selector and the macro has "
            f'{macro.pairs}; plan with hardware = "flexcim" (M = 4 or 8), or set pairs'
        )
    if slots <= macro.sub_macros:
        groups = macro.rows * (macro.sub_macros // slots)
    else:
        groups = macro.rows // ceil(slots / macro.sub_macros)
    if not groups:
        return f"{pattern} needs {slots} cells a group, more than {macro.rows} rows hold; set rows"
    return Placement(slots, pattern.m, groups * pattern.m)


def tile_passes(
    mask: NDArray[np.bool_], place: Placement, macro: Macro, sharing: str
) -> NDArray[np.int64]:
    """Passes of every tile, [ceil(n / C), ceil(k / inputs)], for a mask [n, k] of real weights."""
    pairs = needed_pairs(mask, place, macro)  # [n tiles, C, k tiles, groups x slots], -1: none
    if place.dense or sharing in ("ideal", "aligned_masks"):
        return np.ones((pairs.shape[0], pairs.shape[2]), dtype=np.int64)
    if sharing == "per_cell_gating":
        ordered = np.sort(pairs, axis=1)
        first = (ordered[:, :1] >= 0).astype(np.int64)
        new = (np.diff(ordered, axis=1) > 0).sum(axis=1, keepdims=True)
        most: NDArray[np.int64] = np.maximum((first + new)[:, 0].max(axis=-1), 1)
        return most
    # A column's whole vector as one fixed-width string, empty where the column is.
    vectors = np.ascontiguousarray((pairs + 1).astype(np.uint8)).view(f"S{pairs.shape[-1]}")[..., 0]
    ordered = np.sort(vectors, axis=1)
    distinct = (ordered[:, :1] != b"").astype(np.int64)
    distinct += (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1, keepdims=True)
    found: NDArray[np.int64] = np.maximum(distinct[:, 0], 1)
    return found


def needed_pairs(mask: NDArray[np.bool_], place: Placement, macro: Macro) -> NDArray[np.int8]:
    """Which pair each cell needs, [n tiles, C, k tiles, groups x slots]; -1 where it is empty."""
    places = kept_places(mask, place, macro)
    pairs = np.where(places >= 0, places // 2, -1).astype(np.int8)
    groups = place.inputs // place.m
    shape = (-1, macro.columns, pairs.shape[1] // groups, groups * place.slots)
    return pairs.reshape(shape)


def kept_places(mask: NDArray[np.bool_], place: Placement, macro: Macro) -> NDArray[np.int16]:
    """Place within its group of each slot's weight, [n padded, groups, slots]; -1: none there."""
    n, k = mask.shape
    columns, inputs = macro.columns, place.inputs
    padded = np.zeros((-(-n // columns) * columns, -(-k // inputs) * inputs), dtype=np.bool_)
    padded[:n, :k] = mask
    groups = padded.reshape(padded.shape[0], -1, place.m)
    order = np.argsort(~groups, axis=-1, kind="stable")[..., : place.slots]
    there = np.take_along_axis(groups, order, axis=-1)
    return np.where(there, order, -1).astype(np.int16)


@lru_cache(maxsize=256)
def expected_passes(pattern: NMSparsity, place: Placement, macro: Macro, sharing: str) -> float:
    """Mean passes of a full tile if every group keeps a random N of M: no weights are known."""
    if place.dense or sharing in ("ideal", "aligned_masks"):
        return 1.0
    slots = [_pair_shares(pattern, slot) for slot in range(pattern.n)]
    groups = place.inputs // place.m
    if sharing == "per_cell_gating":
        most = pattern.m // 2
        cumulative = [
            float(np.prod([_at_most(shares, macro.columns, count) for shares in slots]) ** groups)
            for count in range(most + 1)
        ]
        return sum(1 - value for value in cumulative[:most])
    # Distinct select vectors among C columns, agreements counted in pairs of columns: exact where
    # none agree, which is nearly always, and where all do.
    same = _same_choice(pattern) ** groups
    columns = macro.columns
    return max(1.0, columns - columns * (columns - 1) / 2 * same)


def _pair_shares(pattern: NMSparsity, slot: int) -> tuple[float, ...]:
    """Chance that the slot-th kept of a random N of M lies in each pair."""
    n, m = pattern.n, pattern.m
    at = [comb(p, slot) * comb(m - 1 - p, n - 1 - slot) / comb(m, n) for p in range(m)]
    return tuple(at[i] + at[i + 1] for i in range(0, m, 2))


def _at_most(shares: tuple[float, ...], columns: int, count: int) -> float:
    """Chance that `columns` draws hit at most `count` distinct pairs: inclusion, exclusion."""
    pairs = len(shares)
    exactly = [0.0] * (pairs + 1)
    for subset in range(1 << pairs):
        members = [i for i in range(pairs) if subset >> i & 1]
        total = sum(shares[i] for i in members) ** columns if members else float(columns == 0)
        # Draws within the subset, spread to "exactly these" by Moebius inversion below.
        exactly[len(members)] += total
    chance = 0.0
    for size in range(count + 1):
        # Sum over subsets T of that size of P(exactly T) from sums of P(within U).
        chance += sum(
            (-1) ** (size - inner) * comb(pairs - inner, size - inner) * exactly[inner]
            for inner in range(size + 1)
        )
    return min(1.0, max(0.0, chance))


def _same_choice(pattern: NMSparsity) -> float:
    """Chance that two random N of M need the same pairs in all slots."""
    n, m = pattern.n, pattern.m
    # A choice of pairs with `double` pairs taken twice comes from 2^single masks.
    total, chance = comb(m, n), 0.0
    for double in range(n // 2 + 1):
        single = n - 2 * double
        ways = comb(m // 2, double) * comb(m // 2 - double, single) if single <= m // 2 else 0
        chance += ways * (2**single / total) ** 2
    return chance
