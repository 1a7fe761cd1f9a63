"""The torch formats against the core's NumPy packing: codes, scales and values, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.contracts.formats import Scales, encode, pack, unpack
from crosslayer.errors import InputError
from thinkv.formats import decode, decode_scales, quantise
from thinkv.formats import pack as pack_bits
from thinkv.layout import FORMATS, cache_format


def restored(x: torch.Tensor, name: str, axis: int) -> torch.Tensor:
    """What quantise keeps of x, computed here from its buffers."""
    format = cache_format(name)
    q = quantise(x[None], format, axis + 1)
    values = decode(q.codes, format)[0]
    if not format.scaled:
        return values
    scale = decode_scales(q.scales)[0].repeat_interleave(16, axis).narrow(axis, 0, x.shape[axis])
    return (values.double() * scale.double() * q.tensor_scale.double()).float()


def tensors() -> st.SearchStrategy[torch.Tensor]:
    def make(seed: int, tokens: int, spread: float, outlier: bool) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((2, tokens, 32)) * 10.0 ** rng.uniform(-spread, spread, (2, 1, 32))
        if outlier:
            x[:, :, 3] *= 40
            x[0, 0] = 0
        return torch.from_numpy(x.astype(np.float32))

    return st.builds(
        make,
        st.integers(0, 2**32 - 1),
        st.sampled_from([1, 7, 16, 32]),
        st.sampled_from([0.0, 1.0, 3.0]),
        st.booleans(),
    )


@given(tensors(), st.sampled_from([1, 2]))
def test_nvfp4_equals_the_cores_reference_bit_for_bit(x: torch.Tensor, axis: int) -> None:
    reference = pack(x.numpy(), "nvfp4", axis=axis)
    ours = quantise(x[None], cache_format("nvfp4"), axis + 1)
    scales = reference.decoded_scales()
    assert scales is not None
    assert float(ours.tensor_scale) == scales.tensor_scale
    grouped = decode_scales(ours.scales)[0].movedim(axis, -1).reshape(scales.scale.shape)
    np.testing.assert_array_equal(grouped.numpy(), scales.scale)
    np.testing.assert_array_equal(restored(x, "nvfp4", axis).numpy(), unpack(reference))


@given(tensors(), st.sampled_from([1, 2]))
def test_ternary_equals_the_cores_reference_under_the_same_scales(
    x: torch.Tensor, axis: int
) -> None:
    ours = quantise(x[None], cache_format("ternary"), axis + 1)
    tensor = float(ours.tensor_scale)
    grouped = decode_scales(ours.scales)[0].movedim(axis, -1)
    scales = Scales(grouped.reshape(-1, grouped.shape[-1]).numpy())
    reference = pack(
        x.double().numpy() / tensor, "ternary-g16-sfp8_e4m3fn", axis=axis, scales=scales
    )
    expected = (unpack(reference).astype(np.float64) * tensor).astype(np.float32)
    np.testing.assert_array_equal(restored(x, "ternary", axis).numpy(), expected)


@given(tensors())
def test_fp8_equals_the_cores_reference(x: torch.Tensor) -> None:
    ours = quantise(x, cache_format("fp8"), 2)
    np.testing.assert_array_equal(ours.codes.numpy(), encode(x.numpy(), "fp8_e4m3fn"))


@pytest.mark.parametrize("name", ["nvfp4", "fp8", "ternary"])
def test_every_byte_decodes_to_what_the_core_says(name: str) -> None:
    from crosslayer.contracts.codecs import decode_elements, unpack_bits

    format = cache_format(name)
    every = np.arange(256, dtype=np.uint8)
    codes = unpack_bits(every, format.bits, 256 * 8 // format.bits)
    assert format.element is not None
    expected = decode_elements(codes, format.element)
    found = decode(torch.from_numpy(every)[:, None], format).flatten().numpy()
    used = codes != 2 if name == "ternary" else np.ones_like(codes, dtype=bool)
    np.testing.assert_array_equal(found[used], expected[used])
    assert np.isnan(found[~used]).all()


def test_each_tensor_of_a_batch_is_quantised_as_if_alone() -> None:
    x = torch.randn(3, 2, 16, 32) * torch.tensor([1e-3, 1.0, 50.0])[:, None, None, None]
    for name in ("nvfp4", "ternary"):
        together = quantise(x, cache_format(name), 2)
        for i in range(3):
            alone = quantise(x[i : i + 1], cache_format(name), 2)
            assert torch.equal(together.codes[i], alone.codes[0])
            assert torch.equal(together.scales[i], alone.scales[0])
            assert together.tensor_scale[i] == alone.tensor_scale[0]


def test_codes_are_packed_lowest_bits_first() -> None:
    codes = torch.tensor([1, 2, 3, 0, 15, 4], dtype=torch.uint8)
    assert pack_bits(codes, 4).tolist() == [0x21, 0x03, 0x4F]
    assert pack_bits(codes[:4], 2).tolist() == [0b00111001]


@given(st.integers(0, 2**32 - 1))
def test_no_other_scale_gives_the_ternary_group_a_smaller_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_t(3, (1, 1, 16)).astype(np.float32))

    def error(scale: float) -> float:
        digits = (x.double() / scale).round().clamp(-1, 1)
        return float(((digits * scale - x.double()) ** 2).sum())

    chosen = quantise(x, cache_format("ternary"), 2)
    stored = float(decode_scales(chosen.scales)) * float(chosen.tensor_scale)
    others = np.linspace(float(x.abs().max()) / 50, float(x.abs().max()), 400)
    # The stored scale is rounded to E4M3: at most 2^-4 off, which costs at most that share squared.
    slack = float((x.double() ** 2).sum()) * 2.0**-8
    assert error(stored) <= min(map(error, others)) + slack


def test_sizes_are_those_of_packed_bits() -> None:
    x = torch.randn(3, 16, 64)
    for name, bits in (("nvfp4", 4), ("fp8", 8), ("ternary", 2), ("fp16", 16)):
        assert quantise(x, FORMATS[name], 2).codes.nbytes == x.numel() * bits // 8


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(InputError, match="nvfp4"):
        cache_format("nvfp")
