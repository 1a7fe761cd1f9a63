"""The Triton kernel under its interpreter: the same attention as the torch path."""

from __future__ import annotations

import pytest
import torch
from test_paged import DIM, filled, tokens

from crosslayer.errors import InputError
from thinkv.attention import Dense, Part, paged
from thinkv.kernel import decode_step
from thinkv.paged import FREE


@pytest.mark.parametrize("names", [["nvfp4"], ["ternary"], ["fp8"], ["nvfp4", "ternary", "fp8"]])
@pytest.mark.parametrize("heads", [2, 6])
def test_the_kernel_equals_the_torch_path(names: list[str], heads: int) -> None:
    torch.manual_seed(0)
    parts = [Part(store, store.table.live) for store in map(filled, names)]
    parts.append(Part(Dense(*tokens(4, 3))))
    q, (k, v) = torch.randn(heads, 1, DIM), tokens(5, 1)
    found = decode_step(q, k, v, parts, 0.2)
    torch.testing.assert_close(found, paged(q, k, v, parts, 0.2), rtol=1e-4, atol=1e-4)


def test_blocks_without_a_live_slot_are_not_walked() -> None:
    torch.manual_seed(0)
    store = filled("nvfp4")
    for segment in (0, 128):
        store.evict(store.slots_of(segment))
    assert (store.table.thought == FREE).any()
    store.k[:, ~store.table.live] = 0xFF  # what lies in dead slots must not matter
    q, (k, v) = torch.randn(4, 1, DIM), tokens(5, 1)
    parts = [Part(store, store.table.live)]
    found = decode_step(q, k, v, parts, 0.2)
    torch.testing.assert_close(found, paged(q, k, v, parts, 0.2), rtol=1e-4, atol=1e-4)


def test_several_queries_and_plain_pools_are_refused() -> None:
    q, (k, v) = torch.randn(4, 2, DIM), tokens(5, 2)
    with pytest.raises(InputError, match="one token a step, got 2"):
        decode_step(q, k, v, [], 0.2)
    store = filled("fp16")
    with pytest.raises(InputError, match="fp16 pools"):
        decode_step(q[:, :1], k[:, :1], v[:, :1], [Part(store, store.table.live)], 0.2)
