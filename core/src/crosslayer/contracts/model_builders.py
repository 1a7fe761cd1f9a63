"""Specs of models that no config.json describes: vision Mamba, plain CNN, MLP stack.

A "token" of these specs is a patch token (vision Mamba) or a whole sample (CNN, MLP); a "sequence"
is an image. None of them has a KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from crosslayer.contracts.hf_decoder import activation_flops
from crosslayer.contracts.model import (
    Block,
    Conv,
    Elementwise,
    Embedding,
    Linear,
    ModelSpec,
    Norm,
    Part,
    SelectiveScan,
)
from crosslayer.errors import InputError


def vision_mamba(
    *,
    name: str = "vision-mamba",
    image: int = 224,
    patch: int = 16,
    stride: int | None = None,
    channels: int = 3,
    hidden: int = 192,
    layers: int = 24,
    state: int = 16,
    expand: int = 2,
    conv_kernel: int = 4,
    classes: int = 1000,
    number_format: str = "bf16",
) -> ModelSpec:
    """Vision Mamba (Vim): bidirectional Mamba blocks over an image's patches and a class token.

    hidden = 192, 384 and 768 are Vim-Ti, Vim-S and Vim-B; stride defaults to `patch`. The two
    directions of a block share in_proj, gate and out_proj; each has its convolution, x_proj,
    dt_proj, A and D. Paths are the names of the public implementation (cls_token and pos_embed are
    bare tensors there; a mixer's own tensors are counted half in `scan`, half in `scan_b`). No test
    compares the shapes with a live module. A pass has patches + 1 tokens an image, so the patch
    embedding is priced for one patch too many. Nothing is cached: an image comes whole.
    Source: arXiv 2401.09417 and github.com/hustvl/Vim.
    """
    step = patch if stride is None else stride
    counts = (image, patch, step, channels, hidden, layers, state, expand, conv_kernel, classes)
    _require(all(count > 0 for count in counts), f"{name}: every size must be at least 1")
    _require(patch <= image, f"{name}: patch {patch} is larger than the image {image}")
    form: dict[str, Any] = {"weight_format": number_format, "activation_format": number_format}
    patches = ((image - patch) // step + 1) ** 2
    inner, rank = expand * hidden, -(-hidden // 16)

    def direction(at: str, end: str) -> list[Part]:
        """One reading order: end is "" forwards, "_b" backwards."""
        return [
            Conv(
                name=f"conv{end}", path=f"{at}.conv1d{end}", in_channels=inner, out_channels=inner,
                kernel_w=conv_kernel, groups=inner, bias=True, after=("in_proj",), **form,
            ),
            Elementwise(
                name=f"conv_activation{end}", function="silu", width=inner,
                flops_per_element=4, **form,
            ),
            Linear(
                name=f"x_proj{end}", path=f"{at}.x_proj{end}", inputs=inner,
                outputs=rank + 2 * state, shard="row", **form,
            ),
            Linear(
                name=f"dt_proj{end}", path=f"{at}.dt_proj{end}", inputs=rank, outputs=inner,
                bias=True, shard="column", **form,
            ),
            SelectiveScan(
                name=f"scan{end}", path=at, channels=inner, state=state,
                own_parameters=inner * state + inner,
                after=(f"conv_activation{end}", f"x_proj{end}", f"dt_proj{end}"), **form,
            ),
            Elementwise(
                name=f"gate{end}", function="silu_gate", width=inner, reads=2, flops_per_element=5,
                after=("in_proj", f"scan{end}"), **form,
            ),
        ]  # fmt: skip

    def layer(index: int) -> Block:
        at = f"layers.{index}.mixer"
        parts: list[Part] = [
            Norm(name="norm", path=f"layers.{index}.norm", width=hidden, **form),
            Linear(
                name="in_proj", path=f"{at}.in_proj", inputs=hidden, outputs=2 * inner,
                shard="column", **form,
            ),
            *direction(at, ""),
            *direction(at, "_b"),
            Elementwise(
                name="mean", function="mean", width=inner, reads=2, flops_per_element=2,
                after=("gate", "gate_b"), **form,
            ),
            Linear(
                name="out_proj", path=f"{at}.out_proj", inputs=inner, outputs=hidden, shard="row",
                **form,
            ),
            Elementwise(name="add", function="add", width=hidden, reads=2, **form),
        ]  # fmt: skip
        return Block(name=f"layers.{index}", parts=tuple(parts))

    tokens = patches + 1
    lookup: tuple[Part, ...] = (
        Conv(
            name="patch_embed", path="patch_embed.proj", in_channels=channels, out_channels=hidden,
            kernel_h=patch, kernel_w=patch, bias=True, input_positions=step * step, **form,
        ),
        Embedding(
            name="class_token", path="cls_token", rows="sequences", entries=1, width=hidden,
            after=(), **form,
        ),
        Embedding(
            name="positions", path="pos_embed", entries=tokens, width=hidden, after=(), **form,
        ),
        Elementwise(
            name="positions_add", width=hidden, reads=2,
            after=("patch_embed", "class_token", "positions"), **form,
        ),
    )  # fmt: skip
    head = (
        Norm(name="norm", path="norm_f", width=hidden, **form),
        Linear(
            name="head",
            path="head",
            rows="sequences",
            inputs=hidden,
            outputs=classes,
            bias=True,
            **form,
        ),
    )
    blocks = (
        Block(name="embedding", parts=lookup),
        *(layer(index) for index in range(layers)),
        Block(name="head", parts=head),
    )
    return ModelSpec(
        name=name, family="vision_mamba", hidden=hidden, blocks=blocks, context_tokens=tokens,
        source="arXiv 2401.09417, github.com/hustvl/Vim",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Convolution:
    """One stage of `conv_stack`: convolution, batch norm, activation, max pool of pool x pool.

    padding None keeps the size at stride 1 (kernel // 2).
    """

    out_channels: int
    kernel: int = 3
    stride: int = 1
    padding: int | None = None
    groups: int = 1
    bias: bool = True
    norm: bool = False
    pool: int = 1


def conv_stack(
    convolutions: Sequence[Convolution],
    *,
    image: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    flatten: bool = False,
    activation: str = "relu",
    name: str = "conv-stack",
    number_format: str = "bf16",
) -> ModelSpec:
    """A plain CNN on images [channels, height, width]: stages, then a linear head on their mean.

    flatten: the head reads every position instead of the spatial mean. Paths are the indices of
    nn.Sequential(Conv2d, BatchNorm2d if norm, activation, MaxPool2d if pool > 1, ...,
    AdaptiveAvgPool2d(1) unless flatten, Flatten, Linear). A token is a sample.
    Errors: InputError for a stage that does not fit.
    """
    _require(len(convolutions) > 0, f"{name}: a CNN needs at least one convolution")
    _require(
        min(*image, classes) > 0, f"{name}: image {image} and {classes} classes must be positive"
    )
    form: dict[str, Any] = {"weight_format": number_format, "activation_format": number_format}
    channels, height, width = image
    blocks, at = [], 0
    for index, stage in enumerate(convolutions):
        where = f"{name}: convolution {index}"
        sizes = (stage.out_channels, stage.kernel, stage.stride, stage.groups, stage.pool)
        _require(min(sizes) > 0, f"{where}: every size must be at least 1, not {stage}")
        _require(
            channels % stage.groups == 0 and stage.out_channels % stage.groups == 0,
            f"{where}: {stage.groups} groups do not divide its channels",
        )
        padding = stage.kernel // 2 if stage.padding is None else stage.padding
        high = (height + 2 * padding - stage.kernel) // stage.stride + 1
        wide = (width + 2 * padding - stage.kernel) // stage.stride + 1
        _require(
            padding >= 0 and min(high, wide) >= stage.pool,
            f"{where}: {stage} does not fit on {height} x {width} positions",
        )
        positions, out = high * wide, stage.out_channels
        parts: list[Part] = [
            Conv(
                name="conv", path=f"{at}", in_channels=channels, out_channels=out,
                kernel_h=stage.kernel, kernel_w=stage.kernel, groups=stage.groups, bias=stage.bias,
                positions=positions, input_positions=height * width, **form,
            )
        ]  # fmt: skip
        if stage.norm:
            at += 1
            parts.append(
                Norm(name="norm", path=f"{at}", width=out, copies=positions, bias=True, **form)
            )
        parts.append(_activation(activation, positions * out, form))
        at += 2
        channels, height, width = out, high // stage.pool, wide // stage.pool
        if stage.pool > 1:
            window, size = stage.pool**2, channels * height * width
            parts.append(
                Elementwise(
                    name="pool", function="max", width=size, reads=window,
                    flops_per_element=window - 1, **form,
                )
            )  # fmt: skip
            at += 1
        blocks.append(Block(name=f"conv.{index}", parts=tuple(parts)))

    head: list[Part] = []
    positions = height * width
    if not flatten:
        head.append(
            Elementwise(
                name="pool", function="mean", width=channels, reads=positions,
                flops_per_element=positions, **form,
            )
        )  # fmt: skip
        at += 1
    inputs = channels * positions if flatten else channels
    head.append(
        Linear(name="head", path=f"{at + 1}", inputs=inputs, outputs=classes, bias=True, **form)
    )
    blocks.append(Block(name="head", parts=tuple(head)))
    return ModelSpec(name=name, family="cnn", hidden=channels, blocks=tuple(blocks))


def mlp(
    widths: Sequence[int],
    *,
    activation: str = "relu",
    bias: bool = True,
    name: str = "mlp",
    number_format: str = "bf16",
) -> ModelSpec:
    """Linear layers from widths[0] to widths[-1] with an activation between them.

    Paths are the indices of nn.Sequential(Linear, activation, Linear, ..., Linear). A token is a
    sample.
    """
    _require(
        len(widths) > 1 and min(widths) > 0,
        f"{name}: needs two or more positive widths, not {widths}",
    )
    form: dict[str, Any] = {"weight_format": number_format, "activation_format": number_format}
    blocks = []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        parts: list[Part] = [
            Linear(
                name="linear",
                path=f"{2 * index}",
                inputs=inputs,
                outputs=outputs,
                bias=bias,
                **form,
            )
        ]
        if index + 2 < len(widths):
            parts.append(_activation(activation, outputs, form))
        blocks.append(Block(name=f"linear.{index}", parts=tuple(parts)))
    return ModelSpec(name=name, family="mlp", hidden=max(widths), blocks=tuple(blocks))


def _activation(function: str, width: int, form: dict[str, Any]) -> Elementwise:
    return Elementwise(
        name="activation", function=function, width=width,
        flops_per_element=activation_flops(function), **form,
    )  # fmt: skip


def _require(good: bool, sentence: str) -> None:
    if not good:
        raise InputError(sentence)
