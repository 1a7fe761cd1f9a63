"""Continuous Thinking's paged store: blocks of one thought type, evicted by mark, reused in place.

A Pool holds one format in one layer of one sequence. Its block table has for each block the type of
thought, and for each slot the start of its segment (the block's segment starts and masks in one),
the eviction mask, the position, and the group whose key scales it uses: after reuse one block holds
slots of several groups, so key scales live in a table of groups, each freed when the last slot that
uses it is evicted. Nothing is ever moved to close a gap.
"""

from __future__ import annotations

from typing import Any

import torch

from crosslayer.errors import ComponentError
from thinkv.formats import decode, decode_scales, quantise
from thinkv.layout import GROUP, CacheFormat
from thinkv.thoughts import Thought

FREE = -1


class BlockTable:
    """Which slots of which blocks hold what. Slot s is in block s // block_tokens."""

    def __init__(self, block_tokens: int, device: Any = "cpu") -> None:
        self.block_tokens = block_tokens
        self.thought = torch.empty(0, dtype=torch.int8, device=device)  # [blocks], FREE
        self.live = torch.empty(0, dtype=torch.bool, device=device)  # [slots]
        self.segment = torch.empty(0, dtype=torch.int32, device=device)
        self.position = torch.empty(0, dtype=torch.int32, device=device)  # FREE: never written
        self.group = torch.empty(0, dtype=torch.int32, device=device)
        self.reused = 0  # slots overwritten in place
        self.fresh = 0  # slots written for the first time since their block was free

    @property
    def slots(self) -> int:
        """Slots of all blocks."""
        return len(self.live)

    def take(self, tokens: int, thought: Thought) -> Any:
        """Slots [tokens] for tokens of one type, which are then live: marked ones of that type's
        blocks and their unused ones first, then free blocks, then new ones at the end."""
        open_ = (self.thought == thought).repeat_interleave(self.block_tokens) & ~self.live
        found = open_.nonzero()[:, 0][:tokens]
        reused = int((self.position[found] != FREE).sum())
        self.reused += reused
        self.fresh += tokens - reused
        if len(found) < tokens:
            found = torch.cat([found, self._open_blocks(tokens - len(found), thought)])
        self.live[found] = True
        return found

    def evict(self, slots: Any) -> None:
        """Mark slots; a block without a live slot is free for any type."""
        self.live[slots] = False
        dead = ~self.live.view(-1, self.block_tokens).any(1)
        self.thought[dead] = FREE
        self.position.view(-1, self.block_tokens)[dead] = FREE

    def segment_masks(self, block: int) -> dict[int, int]:
        """Segment start -> bit vector of the block's live slots that belong to it."""
        masks: dict[int, int] = {}
        for i in range(self.block_tokens):
            slot = block * self.block_tokens + i
            if self.live[slot]:
                start = int(self.segment[slot])
                masks[start] = masks.get(start, 0) | 1 << i
        return masks

    def eviction_mask(self, block: int) -> int:
        """Bit vector of the block's evicted slots that nothing has overwritten yet."""
        slots = range(block * self.block_tokens, (block + 1) * self.block_tokens)
        marked = (i for i, s in enumerate(slots) if not self.live[s] and self.position[s] != FREE)
        return sum(1 << i for i in marked)

    def tensors(self) -> list[Any]:
        """All tensors of the table."""
        return [self.thought, self.live, self.segment, self.position, self.group]

    def _open_blocks(self, tokens: int, thought: Thought) -> Any:
        wanted = -(-tokens // self.block_tokens)
        free = (self.thought == FREE).nonzero()[:wanted, 0]
        grow = wanted - len(free)
        if grow:
            self._grow(grow)
            free = (self.thought == FREE).nonzero()[:wanted, 0]
        self.thought[free] = int(thought)
        offsets = torch.arange(self.block_tokens, device=free.device)
        return (free[:, None] * self.block_tokens + offsets).flatten()[:tokens]

    def _grow(self, blocks: int) -> None:
        slots = blocks * self.block_tokens
        self.thought = _longer(self.thought, blocks, FREE)
        self.live = _longer(self.live, slots, False)
        self.segment = _longer(self.segment, slots, 0)
        self.position = _longer(self.position, slots, FREE)
        self.group = _longer(self.group, slots, FREE)


class Pool:
    """Tokens of one format: codes by slot, value scales by slot, key scales by group."""

    def __init__(
        self, format: CacheFormat, kv_heads: int, head_dim: int, block_tokens: int, device: Any
    ) -> None:
        self.format = format
        self.table = BlockTable(block_tokens, device)
        row = format.row_bytes(head_dim)

        def empty(*shape: int, dtype: Any = torch.uint8) -> Any:
            return torch.empty(*shape, dtype=dtype, device=device)

        self.k = empty(kv_heads, 0, row)  # codes [heads, slots, bytes]
        self.v = empty(kv_heads, 0, row)
        self.v_scales = empty(kv_heads, 0, head_dim // GROUP if format.scaled else 0)
        self.k_scales = empty(kv_heads, 0, head_dim)  # [heads, groups, channels]
        self.tensor_scales = empty(0, 2, dtype=torch.float32)  # [groups, (K, V)]
        self.references = empty(0, dtype=torch.int16)  # live slots of each group

    def write(self, k: Any, v: Any, thought: Thought, positions: Any, segment: int) -> None:
        """Quantise and store tokens: k, v [heads, n, head_dim], positions [n].

        Groups are 16 consecutive tokens, the last one may be short. ComponentError for NaN and
        infinity, with the position.
        """
        bad = ~(torch.isfinite(k).all(-1) & torch.isfinite(v).all(-1)).all(0)
        if bad.any():
            at = int(positions[bad.nonzero()[0, 0]])
            raise ComponentError(f"keys or values of the token at position {at} are not finite")
        whole = k.shape[1] // GROUP * GROUP
        for a, b in ((0, whole), (whole, k.shape[1])):
            if a < b:
                size = min(GROUP, b - a)
                gk, gv = (x[:, a:b].unflatten(1, (-1, size)).transpose(0, 1) for x in (k, v))
                slots = self._store(gk, gv, thought)
                self.table.position[slots] = positions[a:b].to(torch.int32)
                self.table.segment[slots] = segment

    def evict(self, slots: Any) -> None:
        """Mark slots evicted and free the scales of groups that have no live slot left."""
        self.table.evict(slots)
        if self.format.scaled:
            groups = self.table.group[slots].long()
            gone = torch.bincount(groups, minlength=len(self.references)).to(torch.int16)
            self.references -= gone

    def slots_of(self, segment: int) -> Any:
        """Live slots of a segment, in order of their positions."""
        slots = (self.table.live & (self.table.segment == segment)).nonzero()[:, 0]
        return slots[self.table.position[slots].argsort()]

    def keys(self, slots: Any | None = None) -> Any:
        """Dequantised keys [heads, slots, head_dim] float32; None: of every slot, dead ones too."""
        codes, group = self.k, self.table.group
        if slots is not None:
            codes, group = codes[:, slots], group[slots]
        values = decode(codes, self.format)
        if self.format.scaled:
            scales = decode_scales(self.k_scales) * self.tensor_scales[:, 0, None]
            values *= scales.index_select(1, group.clamp(min=0))
        return values

    def values(self, slots: Any | None = None) -> Any:
        """Dequantised values, as `keys`."""
        codes, scales, group = self.v, self.v_scales, self.table.group
        if slots is not None:
            codes, scales, group = codes[:, slots], scales[:, slots], group[slots]
        values = decode(codes, self.format)
        if self.format.scaled:
            tensor = self.tensor_scales[:, 1].index_select(0, group.clamp(min=0))
            scale = decode_scales(scales) * tensor[:, None]
            values.unflatten(-1, (-1, GROUP)).mul_(scale[..., None])
        return values

    def bytes(self) -> dict[str, int]:
        """Bytes that are allocated, by kind."""
        return {
            "payload": self.k.nbytes + self.v.nbytes,
            "scales": self.k_scales.nbytes + self.v_scales.nbytes + self.tensor_scales.nbytes,
            "tables": self.references.nbytes + sum(t.nbytes for t in self.table.tensors()),
        }

    def _store(self, k: Any, v: Any, thought: Thought) -> Any:
        """k, v [groups, heads, size, head_dim] -> their slots [groups * size]."""
        count, _, size, _ = k.shape
        slots = self.table.take(count * size, thought)
        more = self.table.slots - self.k.shape[1]
        if more:
            self.k, self.v = _wider(self.k, more), _wider(self.v, more)
            self.v_scales = _wider(self.v_scales, more)
        kq, vq = quantise(k, self.format, 2), quantise(v, self.format, 3)
        self.k[:, slots] = kq.codes.transpose(0, 1).flatten(1, 2)
        self.v[:, slots] = vq.codes.transpose(0, 1).flatten(1, 2)
        if self.format.scaled:
            groups = self._take_groups(count)
            self.k_scales[:, groups] = kq.scales[:, :, 0].transpose(0, 1)
            self.v_scales[:, slots] = vq.scales.transpose(0, 1).flatten(1, 2)
            self.tensor_scales[groups] = torch.stack([kq.tensor_scale, vq.tensor_scale], 1)
            self.references[groups] = size
            self.table.group[slots] = groups.repeat_interleave(size).to(torch.int32)
        return slots

    def _take_groups(self, count: int) -> Any:
        free = (self.references == 0).nonzero()[:count, 0]
        grow = count - len(free)
        if grow:
            first = len(self.references)
            self.k_scales = _wider(self.k_scales, grow)
            self.tensor_scales = _longer(self.tensor_scales, grow, 0)
            self.references = _longer(self.references, grow, 0)
            free = torch.cat([free, torch.arange(first, first + grow, device=free.device)])
        return free


def _longer(x: Any, more: int, fill: Any) -> Any:
    return torch.cat([x, x.new_full((more, *x.shape[1:]), fill)])


def _wider(x: Any, more: int) -> Any:
    return torch.cat([x, x.new_zeros(x.shape[0], more, x.shape[2])], 1)
