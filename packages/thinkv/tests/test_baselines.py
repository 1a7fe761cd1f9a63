"""The baselines: what each keeps, that it is really freed, and that pieces do not matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from thinkv.attention import Dense, Part, reference
from thinkv.baselines import BaselineSettings, EvictingRow, KiviRow, KiviSettings

EVICTORS = ["window", "random", "h2o", "rkv", "snapkv"]


def tensors(total: int, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(4, total, 32, generator=generator)
    k, v = torch.randn(2, 2, total, 32, generator=generator)
    return q, k, v


def fed(row: Any, pieces: list[int]) -> Any:
    q, k, v = tensors(sum(pieces))
    out, start = [], 0
    for size in pieces:
        part = slice(start, start + size)
        row.begin(size)
        out.append(row.attend(0, q[:, part], k[:, part], v[:, part], 0.2))
        start += size
    row.settle()
    return torch.cat(out, 1)


@pytest.mark.parametrize("method", EVICTORS)
def test_an_evictor_keeps_its_budget_and_frees_the_rest(method: str) -> None:
    row = EvictingRow(BaselineSettings(method=method, budget_tokens=48), 1)  # type: ignore[arg-type]
    fed(row, [16] * 12)
    assert row.physical == 48
    assert row.bytes()["payload"] == 2 * 2 * 48 * 32 * 2
    for tensor in (row.k[0], row.v[0]):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert row.position[0][:, -16:].tolist() == [list(range(176, 192))] * 2


@pytest.mark.parametrize("method", ["full", *EVICTORS])
def test_pieces_of_sixteen_equal_token_by_token(method: str) -> None:
    rows = []
    for pieces in ([16] * 12, [1] * 192):
        row = EvictingRow(BaselineSettings(method=method, budget_tokens=48), 1)  # type: ignore[arg-type]
        rows.append((fed(row, pieces), row.position[0]))
    torch.testing.assert_close(rows[0][0], rows[1][0], rtol=1e-4, atol=1e-5)
    assert torch.equal(rows[0][1], rows[1][1])


def test_the_full_cache_is_exact_up_to_fp16() -> None:
    q, k, v = tensors(64)
    out = fed(EvictingRow(BaselineSettings(), 1), [16] * 4)
    exact = reference(q, k.half(), v.half(), [Part(Dense(k[:, :0], v[:, :0]))], 0.2)
    torch.testing.assert_close(out, exact, rtol=1e-4, atol=1e-5)


def test_h2o_keeps_what_was_attended_to_over_all_time_and_not_only_lately() -> None:
    """Token 3 gets nearly all attention of the first 32 queries and none afterwards."""
    row = EvictingRow(BaselineSettings(method="h2o", budget_tokens=16), 1)
    dim, total = 32, 64
    q, k, v = (torch.zeros(n, total, dim) for n in (2, 1, 1))
    k[0, 3, 0] = q[:, :32, 0] = 10.0
    k[0, 3, 1] = -10.0
    q[:, 32:, 1] = 10.0
    for start in range(0, total, 16):
        part = slice(start, start + 16)
        row.begin(16)
        row.attend(0, q[:, part], k[:, part], v[:, part], 1.0)
    row.settle()
    assert 3 in row.position[0][0].tolist()


def test_snapkv_keeps_what_the_last_queries_attend_to_and_its_neighbours() -> None:
    row = EvictingRow(BaselineSettings(method="snapkv", budget_tokens=16 + 7), 1)
    q, k, v = (torch.zeros(n, 64, 32) for n in (2, 1, 1))
    k[0, 8, 0] = q[:, :48, 0] = 10.0  # token 8 gets the attention of all but the last 16 queries
    k[0, 30, 1] = q[:, 48:, 1] = 10.0  # token 30 gets theirs
    for start in range(0, 64, 16):
        part = slice(start, start + 16)
        row.begin(16)
        row.attend(0, q[:, part], k[:, part], v[:, part], 1.0)
        row.since = 0 if start < 48 else row.since  # evict once, at the end
    row.settle()
    assert row.position[0][0].tolist() == [*range(27, 34), *range(48, 64)]


def test_rkv_drops_what_resembles_other_keys_where_attention_is_equal() -> None:
    row = EvictingRow(BaselineSettings(method="rkv", budget_tokens=20), 1)
    q, v = torch.zeros(2, 32, 32), torch.zeros(1, 32, 32)  # queries of zero: equal attention
    k = torch.zeros(1, 32, 32)
    k[..., 0] = 1.0  # all alike, but for four
    for i, at in enumerate((1, 5, 6, 12)):
        k[0, at] = torch.eye(32)[1 + i]
    row.begin(32)
    row.attend(0, q, k, v, 1.0)
    row.settle()
    assert row.position[0][0].tolist() == [1, 5, 6, 12, *range(16, 32)]


def test_the_window_keeps_its_sinks_and_the_last_tokens() -> None:
    row = EvictingRow(BaselineSettings(method="window", budget_tokens=20, sinks=4), 1)
    fed(row, [16] * 5)
    assert row.position[0][0].tolist() == [0, 1, 2, 3, *range(64, 80)]


@pytest.mark.parametrize(("bits", "error"), [(4, 0.12), (2, 0.6)])
def test_kivi_stores_packed_codes_whose_error_is_within_half_a_step(
    bits: int, error: float
) -> None:
    row = KiviRow(KiviSettings(bits=bits), 1)
    out = fed(row, [16] * 20)
    found = row.bytes()
    stored = 256  # two residuals of 128 are quantised, 64 tokens are left
    assert found["payload"] == 2 * 2 * stored * 32 * bits // 8
    assert found["scales"] == 2 * 2 * 2 * stored * 32 // 32 * 2
    assert found["buffer"] == 2 * 2 * 64 * 32 * 2
    q, k, v = tensors(320)
    exact = reference(q, k, v, [Part(Dense(k[:, :0], v[:, :0]))], 0.2)
    assert (out[:, -1] - exact[:, -1]).abs().max() < error
    assert (out[:, 10] - exact[:, 10]).abs().max() < 1e-2
