"""What the masks of a live model cost on FlexCiM's macro, as annotations of its linears."""

from __future__ import annotations

from collections.abc import Sequence

from crosslayer.contracts.parts import Annotations
from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.kinds import LiveModel
from flow_flexcim.flexcim.macro import Macro, placement, tile_passes
from flow_flexcim.linears import BlockLinears
from flow_flexcim.modules import live_linears, weight_of

SHARING = ("per_cell_gating", "column_gating")


def measured_passes(
    live: LiveModel,
    blocks: Sequence[BlockLinears],
    patterns: Sequence[NMSparsity],
    macro: Macro = Macro(),  # noqa: B008 - frozen
) -> dict[str, Annotations]:
    """Path -> (("flexcim.<sharing>.<macro>", mean passes of a tile), ...) of every pruned linear.

    Patterns that the macro cannot place get none.
    """
    linears = live_linears(live.module, blocks)
    found: dict[str, Annotations] = {}
    for block, pattern in zip(blocks, patterns, strict=True):
        place = placement(pattern, macro)
        if pattern.n == pattern.m or isinstance(place, str):
            continue
        for spec in block.linears:
            mask = (weight_of(linears[str(spec.path)]) != 0).cpu().numpy()
            found[str(spec.path)] = tuple(
                (f"flexcim.{how}.{macro.name}", float(tile_passes(mask, place, macro, how).mean()))
                for how in SHARING
            )
    return found
