"""The paged store: in-place reuse, scales that survive it, bytes that are really there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from crosslayer.errors import ComponentError
from thinkv.attention import Dense, Part, paged, reference
from thinkv.layout import cache_format
from thinkv.paged import FREE, Pool
from thinkv.thoughts import PROMPT, Thought

HEADS, DIM, BLOCK = 2, 32, 4
R, E, T = Thought.REASONING, Thought.EXECUTION, Thought.TRANSITION


def pool(name: str = "nvfp4") -> Pool:
    return Pool(cache_format(name), HEADS, DIM, BLOCK, torch.device("cpu"))


def tokens(seed: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Groups of very different scales: a survivor read with another group's scales would show.
    scale = 10.0 ** (torch.rand(1, generator=generator) * 4 - 2)
    return tuple(torch.randn(HEADS, n, DIM, generator=generator) * scale for _ in range(2))  # type: ignore[return-value]


class StoreMachine(RuleBasedStateMachine):
    """Writes and evictions in any order, against a dictionary of what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool()
        self.expected: dict[int, tuple[np.ndarray, np.ndarray, Thought]] = {}
        self.next = 0

    @rule(
        seed=st.integers(0, 9999),
        n=st.sampled_from([1, 5, 16, 20]),
        thought=st.sampled_from([R, E, T]),
    )
    def write(self, seed: int, n: int, thought: Thought) -> None:
        k, v = tokens(seed, n)
        before = set(self.pool.table.live.nonzero()[:, 0].tolist())
        positions = torch.arange(self.next, self.next + n)
        self.pool.write(k, v, thought, positions, self.next)
        alone = pool()
        alone.write(k, v, thought, positions, self.next)
        slots = alone.slots_of(self.next)
        kept = set(self.pool.table.live.nonzero()[:, 0].tolist())
        assert before <= kept and len(kept) == len(before) + n  # no live slot was overwritten
        for i in range(n):
            one = slots[i : i + 1]
            self.expected[self.next + i] = (
                alone.keys(one).numpy(),
                alone.values(one).numpy(),
                thought,
            )
        self.next += n

    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        if not self.expected:
            return
        positions = data.draw(st.sets(st.sampled_from(sorted(self.expected)), min_size=1))
        where = torch.tensor([self.slot(position) for position in sorted(positions)])
        self.pool.evict(where)
        for position in positions:
            del self.expected[position]

    def slot(self, position: int) -> int:
        table = self.pool.table
        (found,) = (table.live & (table.position == position)).nonzero()[:, 0].tolist()
        return int(found)

    @invariant()
    def every_live_token_is_there_once_and_unchanged(self) -> None:
        table = self.pool.table
        live = table.live.nonzero()[:, 0]
        assert sorted(table.position[live].tolist()) == sorted(self.expected)
        keys, values = self.pool.keys(), self.pool.values()
        for slot in live.tolist():
            k, v, thought = self.expected[int(table.position[slot])]
            np.testing.assert_array_equal(keys[:, slot : slot + 1].numpy(), k)
            np.testing.assert_array_equal(values[:, slot : slot + 1].numpy(), v)
            assert table.thought[slot // BLOCK] == thought  # one type a block

    @invariant()
    def masks_partition_every_block(self) -> None:
        table = self.pool.table
        for block in range(len(table.thought)):
            masks = [*table.segment_masks(block).values(), table.eviction_mask(block)]
            assert sum(masks) == np.bitwise_or.reduce(masks)  # no slot twice
            if table.thought[block] == FREE:
                assert not any(masks)

    @invariant()
    def a_groups_scales_live_exactly_as_long_as_a_slot_uses_them(self) -> None:
        table = self.pool.table
        used = torch.bincount(table.group[table.live].long(), minlength=len(self.pool.references))
        assert used.tolist() == self.pool.references.tolist()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=8, stateful_step_count=10, deadline=None)


def test_evicted_slots_are_overwritten_by_tokens_of_the_same_type_only() -> None:
    store = pool()
    store.write(*tokens(1, 16), R, torch.arange(16), 0)
    store.evict(torch.arange(0, 16, 2))
    store.write(*tokens(2, 4), T, torch.arange(16, 20), 128)
    assert (store.table.slots, store.table.reused) == (20, 0)
    store.write(*tokens(3, 8), R, torch.arange(20, 28), 256)
    assert (store.table.slots, store.table.reused) == (20, 8)
    assert store.table.segment_masks(0) == {0: 0b1010, 256: 0b0101}


def test_a_block_without_a_live_slot_is_free_for_any_type() -> None:
    store = pool()
    store.write(*tokens(1, 16), R, torch.arange(16), 0)
    store.evict(torch.arange(16))
    store.write(*tokens(2, 16), T, torch.arange(16, 32), 128)
    assert store.table.slots == 16
    assert (store.table.thought == T).all()


@pytest.mark.parametrize("name", ["nvfp4", "ternary", "fp8", "fp16"])
def test_bytes_are_those_of_packed_bits_scales_and_tables(name: str) -> None:
    store = pool(name)
    store.write(*tokens(1, 32), R, torch.arange(32), 0)
    format = cache_format(name)
    found = store.bytes()
    assert found["payload"] == 2 * 32 * HEADS * DIM * format.bits // 8
    scales = 32 * HEADS * DIM // 16 + 2 * HEADS * DIM + 2 * 8  # V by token, K by group, float32
    assert found["scales"] == (scales if format.scaled else 0)
    assert found["tables"] == 32 * (1 + 3 * 4) + 8 + (2 * 2 if format.scaled else 0)


def filled(name: str) -> Pool:
    """A pool after writes, evictions and reuse."""
    store = pool(name)
    store.write(*tokens(1, 37), R, torch.arange(37), PROMPT)
    store.write(*tokens(2, 32), E, torch.arange(37, 69), 0)
    store.evict(store.slots_of(0)[::3])
    store.write(*tokens(3, 16), E, torch.arange(69, 85), 128)
    return store


@pytest.mark.parametrize("t", [1, 5])
def test_attention_over_the_paged_store_equals_the_dense_reference(t: int) -> None:
    torch.manual_seed(0)
    stores = [filled("nvfp4"), filled("ternary"), filled("fp8")]
    parts = [Part(store, store.table.live) for store in stores]
    buffer = Part(Dense(*tokens(4, 3)))
    q = torch.randn(6, t, DIM)
    k, v = tokens(5, t)
    found = paged(q, k, v, [*parts, buffer], DIM**-0.5)
    torch.testing.assert_close(
        found, reference(q, k, v, [*parts, buffer], DIM**-0.5), rtol=1e-4, atol=1e-4
    )


def test_attention_does_not_depend_on_where_tokens_lie() -> None:
    torch.manual_seed(0)
    store = filled("nvfp4")
    order = torch.randperm(store.table.slots)
    q, (k, v) = torch.randn(4, 1, DIM), tokens(5, 1)
    dense = Dense(store.keys(), store.values())
    shuffled = Dense(dense.k[:, order], dense.v[:, order])
    one = paged(q, k, v, [Part(dense, store.table.live)], 0.2)
    other = paged(q, k, v, [Part(shuffled, store.table.live[order])], 0.2)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_long_prompt_is_attended_in_blocks_as_if_at_once() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(4, 600, DIM), torch.randn(2, 600, DIM), torch.randn(2, 600, DIM)
    torch.testing.assert_close(
        paged(q, k, v, [], 0.2), reference(q, k, v, [], 0.2), rtol=1e-5, atol=1e-5
    )


def test_a_key_that_is_not_finite_is_named_by_its_position() -> None:
    k, v = tokens(1, 16)
    k[1, 5, 0] = torch.nan
    with pytest.raises(ComponentError, match="position 105 are not finite"):
        pool().write(k, v, R, torch.arange(100, 116), 0)
