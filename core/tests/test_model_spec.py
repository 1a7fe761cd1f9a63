"""ModelSpec itself: counts, bytes and KV load by hand arithmetic, JSON, changes, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crosslayer.contracts.hf_config import MODEL_TYPES, spec_from_config
from crosslayer.contracts.kv import KVCurve
from crosslayer.contracts.model import (
    Attention,
    Block,
    Conv,
    Elementwise,
    Embedding,
    Linear,
    ModelSpec,
    MoE,
    Norm,
    SelectiveScan,
)
from crosslayer.contracts.model_builders import Convolution, conv_stack, mlp, vision_mamba
from crosslayer.errors import InputError
from crosslayer.models.presets import preset_config


def spec_with(*parts: Any) -> ModelSpec:
    return ModelSpec(name="m", hidden=64, blocks=(Block(name="b", parts=parts),))


def attention(name: str = "a", **fields: Any) -> Attention:
    return Attention(name=name, **({"heads": 8, "kv_heads": 2, "head_dim": 64} | fields))


EVICTING = KVCurve(
    prompt=((0, 0, 0), (100, 100, 1000), (300, 200, 2000)),
    generated=((0, 0, 0), (10, 10, 50)),
    cap_tokens=250,
    cap_bytes=2600,
    policy="test",
)


@pytest.mark.parametrize(
    "spec",
    [
        *(spec_from_config({"model_type": kind}) for kind in MODEL_TYPES),
        vision_mamba(),
        conv_stack([Convolution(8, norm=True, pool=2)]),
        mlp([4, 3, 2]),
        spec_with(attention(kv_curve=EVICTING, annotations=(("p.x", 1.5), ("p.y", "z")))),
    ],
    ids=lambda spec: spec.name,
)
def test_json_gives_an_equal_spec_back(spec: ModelSpec) -> None:
    again = ModelSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert [type(part) for _, part in again.parts()] == [type(part) for _, part in spec.parts()]
    assert (again.parameters, again.weight_bytes) == (spec.parameters, spec.weight_bytes)


def test_reading_a_count_leaves_a_spec_equal_and_serialisable() -> None:
    read, unread = mlp([4, 3]), mlp([4, 3])
    assert read.parameters == 15
    assert read == unread
    assert read.to_json() == unread.to_json()


def test_grouped_queries_cache_two_bytes_for_k_and_v_of_each_kv_head() -> None:
    spec = spec_from_config(preset_config("llama-3.1-8b"))
    # 32 layers x (K and V) x 8 KV heads x 128 features x 2 bytes = 128 KiB a token
    assert spec.kv_bytes(1, 0) == 32 * 2 * 8 * 128 * 2 == 131072
    assert spec.kv_bytes(1000, 24) == 1024 * 131072
    assert spec.state_bytes == 0


def test_alternating_windows_bound_the_cache_of_half_the_layers() -> None:
    spec = spec_from_config({"model_type": "gemma2"})
    token = 2 * 4 * 256 * 2  # K and V, 4 KV heads of 256, 2 bytes
    assert spec.kv_bytes(3000, 96) == 26 * 3096 * token
    assert spec.kv_bytes(8000, 192) == 13 * (8192 + 4096) * token


def test_the_kv_format_sets_the_bytes_of_a_token() -> None:
    # 2 heads x (64 + 64) elements: 8 bits, and 4.5 bits with the scales of nvfp4
    assert attention(kv_format="fp8_e4m3fn").kv_bytes_per_token == 256
    assert attention(kv_format="nvfp4").kv_bytes_per_token == 144
    assert attention(value_dim=32).kv_bytes_per_token == 2 * (64 + 32) * 2


def test_layers_of_one_window_and_curve_share_a_class_in_order_of_first_use() -> None:
    spec = spec_with(
        attention("a", window=16), attention("b"), attention("c", window=16),
        attention("d", kv_curve=EVICTING), attention("e", kv_format="fp8_e4m3fn"),
    )  # fmt: skip
    classes = spec.attention_classes
    assert [(c.window, c.kv_curve is not None) for c in classes] == [
        (16, False), (None, False), (None, True), (None, False),
    ]  # fmt: skip
    assert classes[3].kv_bytes_per_token == classes[1].kv_bytes_per_token / 2


def test_a_curve_is_linear_between_and_beyond_its_knots() -> None:
    curve = EVICTING.replace(cap_tokens=None, cap_bytes=None)
    assert curve.live(50, 0) == (50, 500)
    assert curve.live(200, 0) == (150, 1500)  # half way from (100, 100) to (300, 200)
    assert curve.live(500, 0) == (300, 3000)  # goes on at half a token a token
    assert curve.live(100, 20) == (120, 1100)  # prompt and generated add up


def test_a_curve_rounds_tokens_down_and_bytes_up() -> None:
    curve = KVCurve(prompt=((0, 0, 0), (4, 2, 5)), generated=((0, 0, 0), (4, 2, 5)))
    assert curve.live(1, 0) == (0, 2)  # 0.5 tokens, 1.25 bytes


def test_caps_hold_for_the_sum_of_prompt_and_generated() -> None:
    assert EVICTING.live(300, 40) == (240, 2200)
    assert EVICTING.live(300, 100) == (250, 2500)
    assert EVICTING.live(300, 1000) == (250, 2600)


def test_a_curve_replaces_the_window_and_the_whole_cache() -> None:
    evicting = attention("a", kv_curve=EVICTING, window=8)
    spec = spec_with(evicting, attention("b"))
    whole = 2 * 128 * 2
    assert spec.kv_bytes(200, 0) == 1500 + 200 * whole


@given(
    st.lists(
        st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=20
    )
)  # fmt: skip
def test_live_load_of_columns_is_that_of_each_row(pairs: list[tuple[int, int]]) -> None:
    prompts, generated = (np.array(column) for column in zip(*pairs, strict=True))
    for part in (attention(), attention(window=100), attention(kv_curve=EVICTING)):
        tokens, stored = part.attention_class.live(prompts, generated)
        rows = [part.attention_class.live(p, g) for p, g in pairs]
        assert tokens.tolist() == [row[0] for row in rows]
        assert stored.tolist() == [row[1] for row in rows]


@pytest.mark.parametrize(
    ("knots", "words"),
    [
        (((0, 0, 1), (1, 1, 1)), "not (0, 0, 0)"),
        (((0, 0, 0), (0, 0, 0)), "shrink"),
        (((0, 0, 0), (4, 4, 4), (5, 3, 4)), "shrink"),
        (((0, 0, 0), (4, 4, 4), (5, 4, 3)), "shrink"),
        (((0, 0, 0), (4, 5, 4)), "keep more tokens than there are"),
    ],
)
def test_a_curve_that_keeps_what_never_came_is_refused(knots: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        KVCurve(prompt=knots, generated=((0, 0, 0), (1, 1, 1)))
    assert words in str(caught.value)


def test_nvfp4_weights_ship_half_a_byte_a_scale_in_sixteen_and_one_tensor_scale() -> None:
    part = Linear(name="x", inputs=64, outputs=10, bias=True, weight_format="nvfp4")
    # 640 codes of 4 bits, 40 scales of 8 bits, one fp32; the bias in bf16
    assert part.weight_bytes == 320 + 40 + 4 + 20


def test_two_of_four_int8_weights_ship_half_the_values_and_two_bit_places() -> None:
    part = Linear(name="x", inputs=64, outputs=32, sparsity="2:4", weight_format="int8-g128")
    # 1024 kept values of 8 bits and places of 2 bits; a row keeps 32, fewer than a group: 32 scales
    assert part.weight_bytes == 1024 + 256 + 32 * 2
    assert part.parameters == 64 * 32


def test_a_tied_head_ships_nothing_again() -> None:
    table = Embedding(name="e", entries=100, width=64)
    head = Linear(name="h", inputs=64, outputs=100, tied=True)
    spec = spec_with(table, head)
    assert spec.parameters == 6400
    assert spec.weight_bytes == 12800
    biased = head.replace(bias=True)
    assert (biased.parameters, biased.weight_bytes) == (100, 200)


def test_a_norm_of_many_heads_has_one_weight() -> None:
    assert Norm(name="n", width=64, copies=8).parameters == 64
    assert Norm(name="n", width=64, bias=True).parameters == 128
    bare = Norm(name="n", width=64, weight=False)
    assert (bare.parameters, bare.weight_bytes) == (0, 0)


def test_a_convolution_counts_the_taps_of_its_group() -> None:
    part = Conv(
        name="c", in_channels=6, out_channels=4, kernel_h=3, kernel_w=5, groups=2, bias=True
    )
    assert part.parameters == 4 * (3 * 5 * 3 + 1)
    assert Conv(name="c", in_channels=6, out_channels=6, cached=3).state_bytes == 3 * 6 * 2


def moe() -> MoE:
    return MoE(
        name="moe", experts=8, active=2, router=Linear(name="r", inputs=64, outputs=8),
        expert=(
            Linear(name="up", inputs=64, outputs=32),
            Elementwise(name="act", width=32),
            Linear(name="down", inputs=32, outputs=64),
        ),
        shared=(Linear(name="s", inputs=64, outputs=64),),
    )  # fmt: skip


def test_all_experts_count_not_only_the_active_ones() -> None:
    expected = 64 * 8 + 8 * (64 * 32 + 32 * 64) + 64 * 64
    assert moe().parameters == expected
    assert moe().weight_bytes == 2 * expected
    spec = spec_from_config({"model_type": "qwen3_moe"})
    (block,) = {b.replace(name="x") for b in spec.blocks if b.name == "layers.3"}
    found = next(part for part in block.parts if isinstance(part, MoE))
    assert (found.experts, found.active) == (128, 8)


def test_parts_lists_the_linears_inside_a_moe() -> None:
    names = [part.name for _, part in spec_with(moe()).parts(Linear)]
    assert names == ["r", "up", "down", "s"]
    assert [part.name for _, part in spec_with(moe()).parts()] == [
        "moe", "r", "up", "act", "down", "s",
    ]  # fmt: skip


def test_map_parts_changes_every_linear_and_leaves_the_original() -> None:
    spec = spec_with(Linear(name="x", inputs=64, outputs=64), moe(), Norm(name="n", width=64))
    seen = []

    def quantise(block: Block, part: Any) -> Any:
        seen.append((block.name, part.name))
        return part.replace(weight_format="int8") if isinstance(part, Linear) else part

    changed = spec.map_parts(quantise)
    assert {part.weight_format for _, part in changed.parts(Linear)} == {"int8"}
    assert {part.weight_format for _, part in spec.parts(Linear)} == {"bf16"}
    assert seen == [("b", name) for name in ("x", "r", "up", "act", "down", "s", "moe", "n")]
    assert changed.parameters == spec.parameters
    assert changed.weight_bytes < spec.weight_bytes


def test_a_spec_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError):
        mlp([2, 2]).name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: attention(heads=6, kv_heads=4), "a: 6 heads do not divide over 4 KV heads"),
        (
            lambda: Linear(name="x", inputs=6, outputs=2, sparsity="2:4"),
            "x: 6 inputs do not divide into groups of 4 (2:4)",
        ),
        (
            lambda: Linear(name="x", inputs=6, outputs=2, outlier_share=0.1),
            "x: an outlier share needs its outlier_format",
        ),
        (lambda: moe().replace(active=9), "moe: 9 active of 8 experts"),
        (
            lambda: spec_with(Norm(name="n", width=2), Norm(name="n", width=2)),
            "b: two parts are called 'n'",
        ),
        (
            lambda: spec_with(Norm(name="n", width=2, after=("later",))),
            "b.n: after names ['later'], which do not come before it",
        ),
        (lambda: Norm(name="n", width=0), "greater than 0"),
        (lambda: Norm(name="n", width=2, colour="red"), "colour"),
        (lambda: SelectiveScan(name="s", channels=2, state=2, rows="rows"), "rows"),
    ],
)
def test_a_part_that_cannot_be_is_refused_with_its_name(build: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        build()
    assert words in str(caught.value)


def test_an_unknown_format_names_the_nearest_one() -> None:
    with pytest.raises(InputError, match="did you mean 'nvfp4'"):
        Linear(name="x", inputs=2, outputs=2, weight_format="nvpf4")
