"""The live path: calibrate, mask, pack, and put back exactly what the packed form holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crosslayer.contracts.formats import NMSparsity, pack, unpack
from crosslayer.contracts.model import Linear
from crosslayer.errors import InputError
from crosslayer.kinds import LiveModel, RunContext
from crosslayer.texts import token_windows
from flow_flexcim import storage, wanda
from flow_flexcim.blockwise import Blockwise
from flow_flexcim.calibration import Inputs, collect, dense_inputs
from flow_flexcim.linears import DENSE, BlockLinears
from flow_flexcim.modules import decoder_modules, live_linears, weight_of
from flow_flexcim.packing import fast_pack, fast_unpack
from flow_flexcim.params import FlowParams
from flow_flexcim.sparsegpt import inverse_factor, sparsegpt
from flow_flexcim.storage import PackedLinear


def calibration_windows(
    live: LiveModel, params: FlowParams, context: RunContext
) -> NDArray[np.int64]:
    """Token ids [n, window] of the calibration split, in the seed's order of articles."""
    return token_windows(
        live.tokenizer,
        params.calibration_text,
        "calibration",
        params.calibration_tokens,
        params.window_tokens,
        seed=context.stream_seed("flow", "calibration"),
        progress=context.progress,
    )


def calibrate(
    live: LiveModel,
    blocks: Sequence[BlockLinears],
    windows: NDArray[np.int64],
    params: FlowParams,
    context: RunContext,
) -> dict[str, Inputs]:
    """Path -> the inputs of each linear in the dense model; changes nothing."""
    linears = live_linears(live.module, blocks)
    products = params.metric == "sparsegpt" and params.calibration_inputs == "dense"
    inputs = dense_inputs(live.module, linears, windows, context.progress, products)
    _warn_of_dead_channels(inputs, context)
    return inputs


def prune(
    live: LiveModel,
    blocks: Sequence[BlockLinears],
    patterns: Sequence[NMSparsity],
    inputs: Mapping[str, Inputs],
    windows: NDArray[np.int64],
    params: FlowParams,
    context: RunContext,
) -> tuple[LiveModel, dict[str, PackedLinear]]:
    """A pruned copy of a live model, and its packed linears by path.

    inputs: of the dense model. With calibration_inputs = "sequential" each decoder block is masked
    by what it is given once all blocks before it are pruned, as Wanda and SparseGPT do.
    """
    copy = live.copy()
    linears = live_linears(copy.module, blocks)
    packed: dict[str, PackedLinear] = {}
    groups: dict[int, list[tuple[Linear, NMSparsity]]] = {}
    for block, pattern in zip(blocks, patterns, strict=True):
        groups.setdefault(block.index, []).extend((spec, pattern) for spec in block.linears)
    runner = None
    if params.calibration_inputs == "sequential":
        first = list({block.index: block for block in blocks}.values())
        runner = Blockwise(copy.module, decoder_modules(copy.module, first), windows)
    factors: dict[int, torch.Tensor] = {}
    items = context.progress.track(sorted(groups.items()), "pruning", total=len(groups))
    for index, members in items:
        if runner:
            mine = {str(spec.path): linears[str(spec.path)] for spec, _ in members}
            inputs = collect(mine, runner.runs(index), params.metric == "sparsegpt")
        for spec, pattern in members:
            path = str(spec.path)
            weight = weight_of(linears[path]).detach()
            pruned = masked(weight, inputs[path], pattern, params, factors)
            packed[path] = _packed(pruned, linears[path], spec, pattern)
            put_back(linears[path], packed[path])
        factors.clear()
        if runner:
            for run in runner.runs(index):
                run()
    return copy, packed


def masked(
    weight: torch.Tensor,
    inputs: Inputs,
    pattern: NMSparsity,
    params: FlowParams,
    factors: dict[int, torch.Tensor],
) -> torch.Tensor:
    """The weight [out, in] in its pattern, by the metric; fp32.

    factors: of SparseGPT, by the identity of the products they are of: q, k and v share one.
    """
    if pattern.n == pattern.m:
        return weight.float()
    if params.metric == "sparsegpt":
        if inputs.products is None:
            raise InputError("metric sparsegpt needs inputs that were collected with products")
        key = id(inputs.products)
        if key not in factors:
            factors[key] = inverse_factor(inputs.products, params.damping)
        return sparsegpt(weight, factors[key], pattern, params.block_columns)
    plain = params.metric == "magnitude"
    score = wanda.magnitudes(weight) if plain else wanda.scores(weight, inputs.mean_square)
    return torch.where(wanda.keep_mask(score, pattern), weight.float(), 0.0)


def pack_live(
    live: LiveModel, blocks: Sequence[BlockLinears], patterns: Sequence[NMSparsity]
) -> dict[str, PackedLinear]:
    """The packed form of weights that are in their patterns already; they become what it holds."""
    linears = live_linears(live.module, blocks)
    packed = {}
    for block, pattern in zip(blocks, patterns, strict=True):
        for spec in block.linears:
            path = str(spec.path)
            weight = weight_of(linears[path]).detach()
            packed[path] = _packed(weight, linears[path], spec, pattern)
            put_back(linears[path], packed[path])
    return packed


def restore(
    live: LiveModel, blocks: Sequence[BlockLinears], file: Path, context: RunContext
) -> tuple[LiveModel, list[NMSparsity]]:
    """The pruned copy that `prune` returned, from its file alone, and each unit's pattern."""
    copy = live.copy()
    linears = live_linears(copy.module, blocks)
    patterns: dict[str, NMSparsity] = {}
    for path, packed in context.progress.track(storage.read(file), "unpacking", total=len(linears)):
        if path not in linears or packed.weight.shape != tuple(weight_of(linears[path]).shape):
            raise InputError(f"{file} holds {path} {packed.weight.shape}, which this model has not")
        put_back(linears[path], packed)
        patterns[path] = packed.pattern or DENSE
    left = set(linears) - set(patterns)
    if left:
        raise InputError(f"{file} lacks {min(left)} and {len(left) - 1} others of this model")
    return copy, [_pattern_of(block, patterns, file) for block in blocks]


def _pattern_of(block: BlockLinears, patterns: Mapping[str, NMSparsity], file: Path) -> NMSparsity:
    """The pattern that all linears of a unit have in the file."""
    first, *others = [patterns[str(spec.path)] for spec in block.linears]
    if any(other != first for other in others):
        raise InputError(
            f"{file} has several patterns in {block.name}, whose linears share one with "
            'granularity = "block"; it was written with granularity = "linear"'
        )
    return first


def put_back(linear: torch.nn.Module, packed: PackedLinear) -> None:
    """The live values become exactly those of the packed form."""
    with torch.no_grad():
        weight_of(linear).copy_(torch.from_numpy(fast_unpack(packed.weight)))
        if packed.bias is not None:
            linear.get_parameter("bias").copy_(torch.from_numpy(unpack(packed.bias)))


def _packed(
    weight: torch.Tensor, linear: torch.nn.Module, spec: Linear, pattern: NMSparsity
) -> PackedLinear:
    """A weight in its pattern, and the linear's bias, packed as the spec ships them."""
    bias = getattr(linear, "bias", None)
    packed_bias = None if bias is None else pack(_array(bias), spec.activation_format)
    if pattern.n == pattern.m:
        return PackedLinear(pack(_array(weight), spec.weight_format), packed_bias)
    return PackedLinear(fast_pack(_array(weight), spec.weight_format, pattern), packed_bias)


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())


def _warn_of_dead_channels(inputs: Mapping[str, Inputs], context: RunContext) -> None:
    for path, found in inputs.items():
        dead = (found.mean_square == 0).nonzero().flatten().tolist()
        if dead:
            context.logger.warning(
                "%s: %d of %d input channels (first: %d) are zero on the whole calibration text; "
                "their weights are dropped first",
                *(path, len(dead), len(found.mean_square), dead[0]),
            )
