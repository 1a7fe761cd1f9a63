"""The macro, exactly: int8 weights and activations through selectors, cells, trees and merging.

Nothing is multiplied that the hardware would not: for every pass the distribution unit presents one
pair a row and sub-macro, a cell fires if its weight needs that pair and its bit picks an element.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosslayer.errors import InputError
from flow_flexcim.flexcim.cost import Tiling, macro_of, tiling
from flow_flexcim.flexcim.macro import kept_places, tile_passes
from flow_flexcim.flexcim.params import FlexCiMParams


@dataclass(frozen=True)
class Run:
    """Result [m, n] int64, cycles, passes of every tile [n tiles, k tiles], and what was counted:
    products (a cell fired for a token), passes, loads (tiles written), merges.
    """

    result: NDArray[np.int64]
    cycles: int
    passes: NDArray[np.int64]
    events: Counter[str] = field(default_factory=Counter)


def simulate(
    weight: NDArray[np.int8],
    activations: NDArray[np.int8],
    pattern: Any,
    params: FlexCiMParams,
) -> Run:
    """activations [m, k] x weight [n, k] transposed, on the preset `flexible`.

    weight is in its N:M pattern (None: dense). Errors: InputError for weights that are not, shapes
    or types that do not fit, a pattern that the macro cannot place, select_sharing =
    "aligned_masks" with masks that are not aligned.
    """
    _require(weight, activations, pattern)
    tile = tiling(pattern, params)
    if isinstance(tile, str):
        raise InputError(f"flexcim: {tile}")
    if params.preset != "flexible":
        raise InputError("the functional simulator is of the preset flexible")
    macro, sharing = macro_of(params), params.select_sharing
    place = tile.place
    m, (n, k) = activations.shape[0], weight.shape
    mask = np.ones_like(weight, dtype=np.bool_) if place.dense else weight != 0
    places = kept_places(mask, place, macro)  # [n padded, groups, slots]
    if sharing == "aligned_masks":
        cell = tile_passes(mask, place, macro, "per_cell_gating")
        if (cell > 1).any():
            raise InputError(
                f"select_sharing = aligned_masks, yet a tile needs {int(cell.max())} passes; make "
                "masks whose columns agree, or choose another sharing"
            )
    passes = tile_passes(mask, place, macro, sharing)

    padded = np.zeros((places.shape[0], places.shape[1] * place.m), dtype=np.int64)
    padded[:n, :k] = weight
    x = np.zeros((m, padded.shape[1]), dtype=np.int64)
    x[:, :k] = activations
    out = np.zeros((m, places.shape[0]), dtype=np.int64)
    events: Counter[str] = Counter()
    groups = place.inputs // place.m
    for row in range(passes.shape[0]):
        columns = slice(row * macro.columns, (row + 1) * macro.columns)
        for at in range(passes.shape[1]):
            inside = slice(at * groups, (at + 1) * groups)
            stored = padded[columns].reshape(macro.columns, -1, place.m)[:, inside]
            given = x.reshape(m, -1, place.m)[:, inside]
            _tile(stored, given, places[columns, inside], sharing, out[:, columns], events)
            events["loads"] += 1
    cycles = schedule(passes.T.ravel(), m, tile, params)
    return Run(out[:, :n], cycles, passes, events)


def schedule(passes: NDArray[np.int64], rows: int, tile: Tiling, params: FlexCiMParams) -> int:
    """Cycles of tiles with these passes: dealt to the macros in turn, the slowest macro counts."""
    busy = np.maximum(tile.load_cycles, rows * passes * params.input_cycles)
    per_macro = [int(busy[i :: params.macros].sum()) for i in range(params.macros)]
    return tile.load_cycles + max(per_macro) + tile.pipeline


def _tile(
    stored: NDArray[np.int64],
    given: NDArray[np.int64],
    places: NDArray[np.int16],
    sharing: str,
    out: NDArray[np.int64],
    events: Counter[str],
) -> None:
    """Add one tile's products to out [m, C]. stored [C, groups, M], given [m, groups, M], places
    [C, groups, slots].
    """
    there = places >= 0
    weights = np.where(there, np.take_along_axis(stored, np.maximum(places, 0), axis=2), 0)
    if stored.shape[2] == 1:  # dense: no pair to choose
        _fire(weights, given, np.zeros_like(places), there, out, events)
        return
    pairs, bit = places // 2, places % 2
    halves = given.reshape(*given.shape[:2], -1, 2)  # [m, groups, pairs, 2]
    for presented, enabled in _selects(pairs, there, sharing):
        # Distribution: presented [groups, slots] is the pair at each sub-macro of each row; with
        # selectors of its own a column has [C, groups, slots].
        group = np.arange(pairs.shape[1])[:, None]
        if presented.ndim == 2:
            lines = halves[:, group, presented]  # [m, groups, slots, 2]
            picked = np.where(bit[None] == 0, lines[:, None, ..., 0], lines[:, None, ..., 1])
        else:
            lines = halves[:, group[None], presented]  # [m, C, groups, slots, 2]
            picked = np.where(bit[None] == 0, lines[..., 0], lines[..., 1])
        products = np.where(enabled[None], weights[None] * picked, 0)
        # Column trees over the rows of a sub-macro, then merging over sub-macros.
        out += products.sum(axis=2).sum(axis=2)
        events["products"] += int(enabled.sum()) * len(given)
        events["passes"] += 1
        events["merges"] += out.size


def _selects(pairs: NDArray[np.int16], there: NDArray[np.bool_], sharing: str) -> Any:
    """For each pass (pair presented a group and slot, cells that fire [C, groups, slots])."""
    if sharing == "ideal":
        yield np.maximum(pairs, 0), there
        return
    if sharing == "column_gating":
        vectors = np.where(there, pairs, -1).reshape(len(pairs), -1)
        used = (vectors >= 0).any(axis=1)
        for vector in np.unique(vectors[used], axis=0) if used.any() else vectors[:1]:
            mine = (vectors == vector).all(axis=1)
            yield np.maximum(vector, 0).reshape(pairs.shape[1:]), there & mine[:, None, None]
        return
    for presented, on in passes_of_a_tile(np.where(there, 2 * pairs, -1)):
        yield presented, there & on[None] & (pairs == presented[None])


def passes_of_a_tile(
    places: NDArray[np.int16],
) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
    """For each pass of per-cell gating (pair presented, whether it is needed), [groups, slots].

    places: of each slot's weight in its group, [C, groups, slots], -1 for none. Each row and
    sub-macro goes through the pairs that its columns need, in order.
    """
    pairs = np.where(places >= 0, places // 2, -1)
    needed = np.stack([(pairs == p).any(axis=0) for p in range(max(0, int(pairs.max())) + 1)])
    rank = np.cumsum(needed, axis=0) - 1  # [pairs, groups, slots]
    for turn in range(max(1, int(needed.sum(axis=0).max()))):
        mine = needed & (rank == turn)
        yield np.where(mine.any(axis=0), mine.argmax(axis=0), 0), mine.any(axis=0)


def _fire(
    weights: NDArray[np.int64],
    given: NDArray[np.int64],
    place: NDArray[np.int16],
    there: NDArray[np.bool_],
    out: NDArray[np.int64],
    events: Counter[str],
) -> None:
    """A dense tile: every cell fires once a token."""
    products = weights[None] * given[:, None, :, :1]
    out += products.sum(axis=(2, 3))
    events["products"] += int(there.sum()) * len(given)
    events["passes"] += 1
    events["merges"] += out.size


def _require(weight: Any, activations: Any, pattern: Any) -> None:
    for name, array in (("weight", weight), ("activations", activations)):
        if array.dtype != np.int8 or array.ndim != 2:
            raise InputError(f"{name} is {array.dtype} {array.shape}, not a matrix of int8")
    if weight.shape[1] != activations.shape[1]:
        raise InputError(f"weight {weight.shape} and activations {activations.shape} differ in k")
    if pattern is not None:
        pattern.check(weight)
