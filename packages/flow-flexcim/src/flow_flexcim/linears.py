"""Which linears FLOW prunes: those of the decoder blocks, found in the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from crosslayer.contracts.model import Attention, Block, Linear, ModelSpec, MoE, Part, SelectiveScan
from crosslayer.contracts.parts import Annotations
from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError

DENSE = NMSparsity(1, 1)


@dataclass(frozen=True)
class BlockLinears:
    """The linears of one decoder block that share a pattern.

    copies: how often each is there: 1, or the number of experts of a MoE. index: of the block among
    the decoder blocks. dense: it is left dense, and counts in the budget.
    """

    name: str
    linears: tuple[Linear, ...]
    copies: tuple[int, ...]
    index: int = 0
    dense: bool = False

    @property
    def weights(self) -> int:
        """Elements of all weight matrices, biases left out."""
        pairs = zip(self.linears, self.copies, strict=True)
        return sum(linear.inputs * linear.outputs * copies for linear, copies in pairs)

    @property
    def weight_bytes(self) -> int:
        """Bytes they ship in by the spec: packed values, indices, biases."""
        pairs = zip(self.linears, self.copies, strict=True)
        return sum(linear.weight_bytes * copies for linear, copies in pairs)

    def fits(self, pattern: NMSparsity) -> bool:
        """Whether M divides the inputs of every linear; a dense pattern always fits."""
        return pattern.n == pattern.m or all(
            linear.inputs % pattern.m == 0 for linear in self.linears
        )

    def pruned(self, pattern: NMSparsity) -> BlockLinears:
        """The same linears with the pattern in their spec."""
        linears = tuple(with_pattern(linear, pattern) for linear in self.linears)
        return replace(self, linears=linears)


def decoder_linears(spec: ModelSpec) -> tuple[BlockLinears, ...]:
    """The block linears of a model, in order.

    A decoder block is a block with attention or a selective scan; embedding and head blocks have
    neither. Tied weights belong to another part and a MoE's router decides where tokens go: both
    stay. InputError where nothing is left.
    """
    found: list[BlockLinears] = []
    for block in spec.blocks:
        if not any(isinstance(part, Attention | SelectiveScan) for part in block.parts):
            continue
        pairs = [pair for pair in _linears(block) if not pair[0].tied]
        if pairs:
            linears, copies = zip(*pairs, strict=True)
            found.append(BlockLinears(block.name, linears, copies, len(found)))
    if not found:
        raise InputError(
            f"{spec.name} has no linear in a block with attention or a selective scan, so flow has "
            "nothing to prune"
        )
    return tuple(found)


def units(
    blocks: Sequence[BlockLinears], granularity: str, dense_blocks: Sequence[int] = ()
) -> tuple[BlockLinears, ...]:
    """What gets a pattern each: the blocks, or with granularity "linear" every linear on its own.

    dense_blocks: indices, negative ones from the end, of blocks that stay dense. InputError for one
    that is not there.
    """
    for index in dense_blocks:
        if not -len(blocks) <= index < len(blocks):
            raise InputError(
                f"dense_blocks has {index}, and the model has {len(blocks)} decoder blocks, 0 to "
                f"{len(blocks) - 1}; name one of them, or a negative index from the end"
            )
    dense = {index % len(blocks) for index in dense_blocks}
    marked = [replace(block, dense=block.index in dense) for block in blocks]
    if granularity == "block":
        return tuple(marked)
    return tuple(
        replace(block, name=f"{block.name}.{linear.name}", linears=(linear,), copies=(copies,))
        for block in marked
        for linear, copies in zip(block.linears, block.copies, strict=True)
    )


def with_pattern(linear: Linear, pattern: NMSparsity) -> Linear:
    """A linear that ships in this pattern; a dense one says None."""
    return linear.replace(sparsity=None if pattern.n == pattern.m else str(pattern))


def pruned_spec(
    spec: ModelSpec,
    planned: Sequence[BlockLinears],
    patterns: Sequence[NMSparsity],
    notes: Mapping[str, Annotations] | None = None,
) -> ModelSpec:
    """The spec with each unit's linears in that unit's pattern. notes: annotations by path."""
    names = [block.name for block in decoder_linears(spec)]
    chosen = {
        (names[unit.index], linear.name): pattern
        for unit, pattern in zip(planned, patterns, strict=True)
        for linear in unit.linears
    }
    blocks = []
    for block in spec.blocks:
        if block.name in names:
            parts = tuple(
                _pruned_part(part, block.name, chosen, notes or {}) for part in block.parts
            )
            block = block.replace(parts=parts)
        blocks.append(block)
    return spec.replace(blocks=tuple(blocks))


def _linears(block: Block) -> list[tuple[Linear, int]]:
    found: list[tuple[Linear, int]] = []
    for part in block.parts:
        if isinstance(part, Linear):
            found.append((part, 1))
        elif isinstance(part, MoE):
            found += [(inner, part.experts) for inner in part.expert if isinstance(inner, Linear)]
            found += [(inner, 1) for inner in part.shared if isinstance(inner, Linear)]
    return found


def _pruned_part(
    part: Part,
    block: str,
    chosen: Mapping[tuple[str, str], NMSparsity],
    notes: Mapping[str, Annotations],
) -> Part:
    if isinstance(part, Linear):
        pattern = chosen.get((block, part.name))
        if part.tied or pattern is None:
            return part
        more = notes.get(part.path or "", ())
        return with_pattern(part, pattern).replace(annotations=part.annotations + more)
    if isinstance(part, MoE):
        return part.replace(
            expert=tuple(_pruned_part(inner, block, chosen, notes) for inner in part.expert),
            shared=tuple(_pruned_part(inner, block, chosen, notes) for inner in part.shared),
        )
    return part
