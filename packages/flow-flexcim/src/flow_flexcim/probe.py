"""Cost mode `probe`: how much each pattern of one block changes the loss on calibration text.

An extension of FLOW, which plans by outliers alone. All blocks get one base pattern; then one block
at a time gets another, and only what comes after it runs again (`Blockwise`).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING

import torch

from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.kinds import LiveModel
from crosslayer.progress import Progress
from flow_flexcim import wanda
from flow_flexcim.blockwise import Blockwise
from flow_flexcim.calibration import Inputs
from flow_flexcim.linears import BlockLinears
from flow_flexcim.modules import decoder_modules, live_linears, weight_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# All blocks at a base, which block, its pattern instead.
Probe = tuple[tuple[NMSparsity, ...], int, NMSparsity]


def probed_patterns(
    patterns: Sequence[NMSparsity], base: NMSparsity, center: float, reach: float
) -> tuple[NMSparsity, ...]:
    """Of patterns of distinct density, sparsest first, those to measure beside `base`: the nearest
    to the density `center`, and to half the reach and the whole reach on either side of it.
    """
    within = [p for p in patterns if abs(p.density - center) <= reach + 1e-9]
    wanted = [center + offset * reach for offset in (-1, -0.5, 0, 0.5, 1)]
    found = {min(within, key=lambda p: abs(p.density - density)) for density in wanted if within}
    return tuple(sorted(found - {base}, key=lambda p: p.density))


def probe_costs(
    live: LiveModel,
    blocks: Sequence[BlockLinears],
    choices: Sequence[Sequence[NMSparsity]],
    base: Sequence[NMSparsity],
    centers: Sequence[float],
    inputs: Mapping[str, Inputs],
    windows: NDArray[np.int64],
    reach: float,
    progress: Progress,
    known: MutableMapping[Probe, float] | None = None,
) -> tuple[list[tuple[NMSparsity, ...]], list[list[float]]]:
    """(patterns, costs) a block: mean change of the NLL (nats a token) from all blocks at `base`.

    choices: of distinct density, sparsest first. centers: the density about which each block's
    patterns are measured (`probed_patterns`). Those between measured ones are interpolated, those
    beyond left out; then a denser pattern never costs more than a sparser one, which noise could
    make it. Wanda's mask, dense inputs. live is not changed. known: what was measured before with
    the same model and windows is not measured again; what is measured now is added.
    """
    known = {} if known is None else known
    copy = live.copy()
    linears = live_linears(copy.module, blocks)
    original = {path: weight_of(module).detach().clone() for path, module in linears.items()}

    def mask(block: BlockLinears, pattern: NMSparsity) -> None:
        for spec in block.linears:
            path = str(spec.path)
            weight = original[path]
            keep = wanda.keep_mask(wanda.scores(weight, inputs[path].mean_square), pattern)
            with torch.no_grad():
                weight_of(linears[path]).copy_(torch.where(keep, weight, 0.0))

    for block, pattern in zip(blocks, base, strict=True):
        mask(block, pattern)
    runner = Blockwise(copy.module, decoder_modules(copy.module, _first_of_each(blocks)), windows)
    before = runner.nll(keep=True)

    offered: list[tuple[NMSparsity, ...]] = []
    costs: list[list[float]] = []
    for i, block in enumerate(progress.track(blocks, "probing", total=len(blocks))):
        points = {base[i].density: 0.0}
        for pattern in probed_patterns(choices[i], base[i], centers[i], reach):
            probe = (tuple(base), i, pattern)
            if probe not in known:
                mask(block, pattern)
                known[probe] = float((runner.nll(block.index) - before).mean())
            points[pattern.density] = known[probe]
        mask(block, base[i])
        low, high = min(points), max(points)
        patterns = tuple(p for p in choices[i] if low - 1e-9 <= p.density <= high + 1e-9)
        offered.append(patterns)
        costs.append(_monotone(_interpolated([p.density for p in patterns], points)))
    return offered, costs


def _first_of_each(blocks: Sequence[BlockLinears]) -> list[BlockLinears]:
    """One unit of every decoder block, in order."""
    return list({block.index: block for block in reversed(blocks)}.values())[::-1]


def _interpolated(densities: Sequence[float], points: Mapping[float, float]) -> list[float]:
    import numpy as np

    known = sorted(points)
    return [float(v) for v in np.interp(densities, known, [points[density] for density in known])]


def _monotone(costs: Sequence[float]) -> list[float]:
    """Sparsest first: the least-squares fit that does not rise with density (pool adjacent
    violators).
    """
    pools: list[list[float]] = []  # [sum, count]
    for cost in costs:
        pools.append([cost, 1])
        while len(pools) > 1 and pools[-1][0] / pools[-1][1] > pools[-2][0] / pools[-2][1]:
            total, count = pools.pop()
            pools[-1] = [pools[-1][0] + total, pools[-1][1] + count]
    return [total / count for total, count in pools for _ in range(int(count))]
