"""Blocks of Mamba (arXiv 2312.00752) and Mamba-2 (arXiv 2405.21060) as transformers builds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crosslayer.contracts.hf_decoder import activation_flops, formats
from crosslayer.contracts.hf_keys import Keys
from crosslayer.contracts.model import (
    Block,
    Conv,
    Elementwise,
    Embedding,
    Linear,
    Norm,
    Part,
    SelectiveScan,
)


def falcon_mamba(keys: Keys) -> tuple[Block, ...]:
    """Mamba whose dt, B and C are RMS-normed, without weights (arXiv 2410.05355)."""
    return mamba(keys, normed=True)


def mamba(keys: Keys, normed: bool = False) -> tuple[Block, ...]:
    """in_proj (x and gate), causal convolution, dt, B and C from x, scan, gate, out_proj."""
    form = formats(keys)
    hidden, state = keys.integer("hidden_size"), keys.integer("state_size")
    inner = keys.integer("expand") * hidden
    bias = keys.flag("use_bias")
    auto = keys.value("time_step_rank") == "auto"
    rank = -(-hidden // 16) if auto else keys.integer("time_step_rank")
    flops = activation_flops(keys.text("hidden_act"))

    def mixer(at: str) -> list[Part]:
        return [
            Linear(
                name="in_proj", path=f"{at}.in_proj", inputs=hidden, outputs=2 * inner, bias=bias,
                shard="column", **form,
            ),
            _conv(keys, at, inner, form),
            _activation(keys, inner, form),
            Linear(
                name="x_proj", path=f"{at}.x_proj", inputs=inner, outputs=rank + 2 * state,
                shard="row", **form,
            ),
            *(
                [
                    Elementwise(
                        name="ssm_norm", function="norm", width=rank + 2 * state,
                        flops_per_element=4, **form,
                    )
                ]
                if normed
                else []
            ),
            Linear(
                name="dt_proj", path=f"{at}.dt_proj", inputs=rank, outputs=inner, bias=True,
                shard="column", **form,
            ),
            SelectiveScan(  # A_log [inner, state] and D [inner]; the dt bias is dt_proj's
                name="scan", path=at, channels=inner, state=state,
                own_parameters=inner * state + inner,
                after=("conv_activation", "ssm_norm" if normed else "x_proj", "dt_proj"), **form,
            ),
            Elementwise(
                name="gate", function="silu_gate", width=inner, reads=2,
                flops_per_element=flops + 1, after=("in_proj", "scan"), **form,
            ),
            Linear(
                name="out_proj", path=f"{at}.out_proj", inputs=inner, outputs=hidden, bias=bias,
                shard="row", **form,
            ),
        ]  # fmt: skip

    return _model(keys, mixer, form)


def mamba2(keys: Keys) -> tuple[Block, ...]:
    """in_proj (gate, x, B, C, dt), convolution of x, B, C, scan by heads, gated norm, out_proj."""
    form = formats(keys)
    hidden, state = keys.integer("hidden_size"), keys.integer("state_size")
    heads, groups = keys.integer("num_heads"), keys.integer("n_groups")
    inner = keys.integer("expand") * hidden
    if inner != heads * keys.integer("head_dim"):
        raise keys.error(
            "num_heads",
            f"is {heads}; num_heads * head_dim must equal expand * hidden_size = {inner}",
        )
    if heads % groups:
        raise keys.error("n_groups", f"is {groups}, which does not divide num_heads {heads}")
    bias, mixed = keys.flag("use_bias"), inner + 2 * groups * state
    flops = activation_flops(keys.text("hidden_act"))

    def mixer(at: str) -> list[Part]:
        return [
            Linear(
                name="in_proj", path=f"{at}.in_proj", inputs=hidden, outputs=inner + mixed + heads,
                bias=bias, shard="column", **form,
            ),
            _conv(keys, at, mixed, form),
            _activation(keys, mixed, form),
            SelectiveScan(  # A_log, D and dt_bias, one a head
                name="scan", path=at, channels=inner, state=state, groups=groups, heads=heads,
                own_parameters=3 * heads, after=("in_proj", "conv_activation"), **form,
            ),
            Elementwise(
                name="gate", function="silu_gate", width=inner, reads=2,
                flops_per_element=flops + 1, after=("in_proj", "scan"), **form,
            ),
            Norm(name="gate_norm", path=f"{at}.norm", width=inner, **form),
            Linear(
                name="out_proj", path=f"{at}.out_proj", inputs=inner, outputs=hidden, bias=bias,
                shard="row", **form,
            ),
        ]  # fmt: skip

    return _model(keys, mixer, form)


def _conv(keys: Keys, at: str, channels: int, form: dict[str, Any]) -> Conv:
    kernel = keys.integer("conv_kernel")
    return Conv(
        name="conv", path=f"{at}.conv1d", in_channels=channels, out_channels=channels,
        kernel_w=kernel, groups=channels, bias=keys.flag("use_conv_bias"), cached=kernel - 1,
        **form,
    )  # fmt: skip


def _activation(keys: Keys, width: int, form: dict[str, Any]) -> Elementwise:
    function = keys.text("hidden_act")
    return Elementwise(
        name="conv_activation", function=function, width=width,
        flops_per_element=activation_flops(function), **form,
    )  # fmt: skip


def _model(
    keys: Keys, mixer: Callable[[str], list[Part]], form: dict[str, Any]
) -> tuple[Block, ...]:
    hidden, vocabulary = keys.integer("hidden_size"), keys.integer("vocab_size")
    embed = Embedding(
        name="embed", path="backbone.embeddings", entries=vocabulary, width=hidden, **form
    )
    layers = []
    for index in range(keys.integer("num_hidden_layers")):
        at = f"backbone.layers.{index}"
        parts = (
            Norm(name="norm", path=f"{at}.norm", width=hidden, **form),
            *mixer(f"{at}.mixer"),
            Elementwise(name="add", function="add", width=hidden, reads=2, **form),
        )
        layers.append(Block(name=f"layers.{index}", parts=parts))
    head = (
        Norm(name="norm", path="backbone.norm_f", width=hidden, **form),
        Linear(
            name="lm_head", path="lm_head", rows="logits", inputs=hidden, outputs=vocabulary,
            tied=keys.flag("tie_word_embeddings"), shard="column", **form,
        ),
    )  # fmt: skip
    return (Block(name="embedding", parts=(embed,)), *layers, Block(name="head", parts=head))
