"""The Triton kernel under its interpreter: the same attention as the torch path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_paged import DIM, filled, tokens

from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact
from thinkv import kernel
from thinkv.attention import Dense, Part, attend, paged
from thinkv.cache import attached
from thinkv.kernel import decode_step
from thinkv.layout import cache_format, formats_of
from thinkv.paged import FREE, Pool
from thinkv.row import Labeller, Settings, ThinKVRow
from thinkv.thoughts import Rules, Thought
from thinkv.transform import cache_of


@pytest.mark.parametrize(
    "names", [["nvfp4"], ["ternary"], ["fp8"], ["nvfp4", "ternary", "fp8", "fp16"]]
)
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


def test_shapes_that_do_not_fit_the_kernel_are_refused() -> None:
    q, (k, v) = torch.randn(4, 2, DIM), tokens(5, 2)
    with pytest.raises(InputError, match="one token a step, got 2"):
        decode_step(q, k, v, [], 0.2)
    with pytest.raises(InputError, match="not of 48 channels"):
        decode_step(torch.randn(4, 1, 48), k, v, [], 0.2)
    store = Pool(cache_format("nvfp4"), 2, DIM, 12, torch.device("cpu"))
    with pytest.raises(InputError, match="not of 12 tokens"):
        decode_step(q[:, :1], k[:, :1], v[:, :1], [Part(store, store.table.live)], 0.2)


# What the segments of the text become: every format is stored, evicted from and written into again.
LABELS = tuple(Thought(i) for i in (2, 1, 0, 2, 1, 0, 2, 0))


@pytest.mark.parametrize("bits", ["R8E4T2", "R16E4T2"])
def test_a_model_decodes_through_the_kernel_as_through_pytorch(
    tiny: ModelArtifact, bits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the registered attention function, in a batch with left padding."""
    assert tiny.live is not None
    module = tiny.live.module
    ids = torch.randint(1, 256, (2, 40), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    calls, step = [], kernel.decode_step

    def counted(*arguments: Any) -> Any:
        calls.append(len(arguments[3]))
        return step(*arguments)

    monkeypatch.setattr(kernel, "decode_step", counted)
    found = {}
    for decoding in ("torch", "triton"):
        settings = Settings(
            formats_of(bits),
            Rules(segment_tokens=32, schedule=(16, 8, 4), budget_tokens=80),
            Labeller(labels=LABELS),
            prompt_tokens=8,
            decoding=decoding,  # type: ignore[arg-type]
        )
        cache = cache_of(module, settings)
        with attached(module), torch.inference_mode():
            module(input_ids=ids, attention_mask=mask, past_key_values=cache)
            for start in range(0, 176, 16):  # what is between is read at once, to save time
                part = ids[:, start % 32 : start % 32 + 16].roll(start, 1)
                module(input_ids=part, past_key_values=cache)
            found[decoding] = [
                module(input_ids=ids[:, i : i + 1], past_key_values=cache).logits for i in range(2)
            ]
        assert sum(row.evicted for row in cache.rows) > 100  # type: ignore[attr-defined]
        assert bool(calls) == (decoding == "triton")
    assert len(calls) == 2 * 2 * 2 and min(calls) >= 2  # steps, layers, sequences; pools and buffer
    for a, b in zip(found["torch"], found["triton"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_row_that_labels_a_segment_is_attended_where_its_scores_are_seen() -> None:
    rows = {}
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(heads, 40, DIM, generator=generator) for heads in (4, 2, 2))
    for decoding in ("torch", "triton"):
        settings = Settings(
            formats_of("R4E4T2"),
            Rules(segment_tokens=16),
            Labeller(layers=(0,), thresholds=(0.2, 0.3)),
            prompt_tokens=0,
            decoding=decoding,  # type: ignore[arg-type]
        )
        rows[decoding] = row = ThinKVRow(settings, 1)
        for i in range(40):
            row.begin(1)
            row.attend(0, *(x[:, i : i + 1] for x in (q, k, v)), 0.2)
        row.settle()
    assert rows["torch"].history == rows["triton"].history
    assert [sparsity is None for _, sparsity, _ in rows["triton"].history] == [False, False]


def test_on_a_cpu_pytorch_attends_unless_the_kernel_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "decode_step", lambda *_: pytest.fail("the kernel was called"))
    q, (k, v) = torch.randn(4, 1, DIM), tokens(5, 1)
    assert torch.equal(attend(q, k, v, [], 0.2), paged(q, k, v, [], 0.2))
