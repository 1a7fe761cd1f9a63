"""The fast packing against the core's, which is the reference, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.contracts.formats import NMSparsity, number_format, pack, unpack
from crosslayer.errors import InputError
from flow_flexcim import packing
from flow_flexcim.packing import fast_pack, fast_unpack

PATTERNS = ("1:2", "1:4", "2:4", "3:4", "2:5", "3:8", "7:8", "1:16", "8:16", "15:16", "9:32", "4:4")


def sparse(rows: int, groups: int, pattern: NMSparsity, seed: int) -> np.ndarray:
    """A random matrix in the pattern: zeros of both signs, tiny values, some groups emptier."""
    rng = np.random.default_rng(seed)
    shape = (rows, groups * pattern.m)
    weight = (rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 3, shape)).astype(np.float32)
    weight[rng.random(shape) < 0.2] = -0.0
    return np.where(pattern.mask(rng.random(shape)), weight, 0.0).astype(np.float32)


@given(
    rows=st.integers(0, 19),
    groups=st.integers(0, 5),
    pattern=st.sampled_from(PATTERNS).map(NMSparsity.parse),
    format=st.sampled_from(["bf16", "fp16", "fp32", "int8-g64", "fp8_e4m3fn"]),
    seed=st.integers(0, 999),
)
def test_the_fast_path_writes_the_reference_bytes(
    rows: int, groups: int, pattern: NMSparsity, format: str, seed: int
) -> None:
    weight = sparse(rows, groups, pattern, seed)
    reference, fast = pack(weight, format, pattern), fast_pack(weight, format, pattern)
    assert (fast.shape, fast.format, fast.sparsity, fast.axis) == (
        reference.shape,
        reference.format,
        reference.sparsity,
        reference.axis,
    )
    assert fast.buffers().keys() == reference.buffers().keys()
    for name, data in reference.buffers().items():
        assert fast.buffers()[name].tobytes() == data.tobytes(), name
    assert fast_unpack(fast).tobytes() == unpack(reference).tobytes()


@pytest.mark.parametrize("format", ["bf16", "fp16"])
def test_values_between_codes_round_as_the_reference_does(format: str) -> None:
    # Every code's value, the middles between neighbours, and what lies beside the middles.
    codes = np.arange(1, 1 << 15, dtype=np.uint16)
    shift = (codes.astype(np.uint32) << 16).view(np.float32)
    exact = shift if format == "bf16" else codes.view(np.float16).astype(np.float32)
    exact = exact[np.isfinite(exact)]
    between = (exact[:-1].astype(np.float64) + exact[1:]) / 2
    middle = between.astype(np.float32)
    near = [np.nextafter(middle, np.float32(0)), middle, np.nextafter(middle, np.float32(np.inf))]
    values = np.concatenate([exact, *near])
    values = values[values <= number_format(format).max]
    values = np.concatenate([values, -values])
    weight = np.zeros((1, 2 * len(values)), dtype=np.float32)
    weight[0, ::2] = values
    pattern = NMSparsity(1, 2)
    reference = pack(weight, format, pattern)
    assert fast_pack(weight, format, pattern).codes.tobytes() == reference.codes.tobytes()


def test_several_chunks_of_rows_join_to_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_CHUNK", 64)  # 8 rows of 8 weights
    pattern = NMSparsity(3, 8)
    weight = sparse(29, 1, pattern, 5)
    fast, reference = fast_pack(weight, "bf16", pattern), pack(weight, "bf16", pattern)
    assert fast.indices.tobytes() == reference.indices.tobytes()
    assert fast.codes.tobytes() == reference.codes.tobytes()
    assert fast_unpack(fast).tobytes() == unpack(reference).tobytes()


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ((4, 8), np.nan, "not finite"),
        ((4, 8), np.inf, "not finite"),
        ((4, 8), 1.0, "is not 2:4"),
        ((2, 6), 0.0, "divisible by m = 4"),
    ],
)
def test_what_the_reference_refuses_is_refused_with_its_words(
    shape: tuple[int, int], value: float, message: str
) -> None:
    weight = np.full(shape, value, dtype=np.float32)
    for packs in (pack, fast_pack):
        with pytest.raises(InputError, match=message):
            packs(weight, "bf16", NMSparsity(2, 4))


def test_values_past_the_format_saturate_as_in_the_reference() -> None:
    weight = np.array([[1e6, 0, 0, -1e6], [0, 3.4e38, 1, 0]], dtype=np.float32)
    for format in ("fp16", "bf16"):
        fast, reference = (p(weight, format, NMSparsity(2, 4)) for p in (fast_pack, pack))
        assert fast.codes.tobytes() == reference.codes.tobytes()
