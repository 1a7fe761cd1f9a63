"""The live path: calibrate, plan, mask, pack, and put back exactly what the packed form holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crosslayer.contracts.formats import NMSparsity, pack, unpack
from crosslayer.contracts.model import Linear
from crosslayer.errors import InputError
from crosslayer.kinds import LiveModel, RunContext
from crosslayer.texts import token_windows
from flow_flexcim import storage, wanda
from flow_flexcim.calibration import mean_squares
from flow_flexcim.linears import BlockLinears
from flow_flexcim.modules import live_linears
from flow_flexcim.packing import fast_pack, fast_unpack
from flow_flexcim.params import FlowParams
from flow_flexcim.plan import Option, Plan, flow_plan, kept_weights, offered, uniform_plan
from flow_flexcim.signals import Signals, block_signals
from flow_flexcim.storage import PackedLinear

# Outliers are few, so many patterns drop none of them; this share of the output error decides then.
_TIE_BREAK = 1e-6


def calibrate(
    live: LiveModel, blocks: Sequence[BlockLinears], params: FlowParams, context: RunContext
) -> dict[str, torch.Tensor]:
    """Path -> mean square of each input channel on the calibration text; changes nothing."""
    windows = token_windows(
        live.tokenizer,
        params.calibration_text,
        "calibration",
        params.calibration_tokens,
        params.window_tokens,
        seed=context.stream_seed("flow", "calibration"),
        progress=context.progress,
    )
    linears = live_linears(live.module, blocks)
    squares = mean_squares(live.module, linears, windows, context.progress)
    _warn_of_dead_channels(squares, context)
    return squares


def prune(
    live: LiveModel,
    blocks: Sequence[BlockLinears],
    squares: Mapping[str, torch.Tensor],
    params: FlowParams,
    context: RunContext,
    file: Path,
) -> tuple[LiveModel, Plan, list[Signals], int]:
    """A pruned copy of a live model, its plan, each block's signals of its pattern, bytes packed.

    squares: what `calibrate` gave. `file` gets the packed linears. The signals hold one pattern
    each: the chosen one.
    """
    copy = live.copy()
    linears = live_linears(copy.module, blocks)
    plan, signals = _planned(blocks, linears, squares, params, context)
    packed: dict[str, PackedLinear] = {}
    pairs = zip(blocks, plan.patterns, strict=True)
    for block, pattern in context.progress.track(pairs, "pruning", total=len(blocks)):
        for spec in block.linears:
            path = str(spec.path)
            packed[path] = _packed(linears[path], spec, pattern, squares[path])
            _put_back(linears[path], packed[path])
    storage.write(file, packed)
    return copy, plan, signals, sum(linear.nbytes for linear in packed.values())


def restore(
    live: LiveModel, blocks: Sequence[BlockLinears], file: Path, context: RunContext
) -> tuple[LiveModel, dict[str, NMSparsity]]:
    """The pruned copy that `prune` returned, from its file alone, and each block's pattern."""
    copy = live.copy()
    linears = live_linears(copy.module, blocks)
    owner = {str(spec.path): block.name for block in blocks for spec in block.linears}
    patterns: dict[str, NMSparsity] = {}
    left = set(linears)
    for path, packed in context.progress.track(storage.read(file), "unpacking", total=len(linears)):
        if path not in linears or packed.weight.shape != tuple(linears[path].weight.shape):
            raise InputError(f"{file} holds {path} {packed.weight.shape}, which this model has not")
        _put_back(linears[path], packed)
        patterns[owner[path]] = packed.pattern or NMSparsity(1, 1)
        left.discard(path)
    if left:
        raise InputError(f"{file} lacks {min(left)} and {len(left) - 1} others of this model")
    return copy, patterns


def _planned(
    blocks: Sequence[BlockLinears],
    linears: Mapping[str, torch.nn.Linear],
    squares: Mapping[str, torch.Tensor],
    params: FlowParams,
    context: RunContext,
) -> tuple[Plan, list[Signals]]:
    """The plan, and of each block the signals of the pattern it got."""
    candidates = [NMSparsity.parse(text) for text in params.candidates]
    fixed = None
    if params.plan == "uniform":
        only = [NMSparsity.parse(params.pattern)] if params.pattern else candidates
        fixed = uniform_plan(blocks, only, params.sparsity)

    measured = []
    choices: list[tuple[NMSparsity, ...]] = []
    for i, block in enumerate(context.progress.track(blocks, "scoring", total=len(blocks))):
        patterns = (fixed.patterns[i],) if fixed else offered(block, candidates)
        weights = [linears[str(spec.path)].weight for spec in block.linears]
        inputs = [squares[str(spec.path)] for spec in block.linears]
        choices.append(patterns)
        measured.append(block_signals(weights, inputs, patterns, params.outlier_multiple))

    total = sum(block.weights for block in blocks)
    options = [
        [
            Option(pattern, kept_weights(block, pattern), block.weights / total * cost)
            for pattern, cost in zip(patterns, _costs(signals, params.cost), strict=True)
        ]
        for block, patterns, signals in zip(blocks, choices, measured, strict=True)
    ]
    plan = fixed or flow_plan(options, total, params.sparsity)
    chosen = []
    for pattern, patterns, signals in zip(plan.patterns, choices, measured, strict=True):
        at = patterns.index(pattern)
        chosen.append(
            Signals(signals.outlier_density, (signals.dropped[at],), (signals.error[at],))
        )
    return plan, chosen


def _costs(signals: Signals, cost: str) -> tuple[float, ...]:
    if cost == "recon":
        return signals.error
    pairs = zip(signals.dropped, signals.error, strict=True)
    return tuple(dropped + _TIE_BREAK * error for dropped, error in pairs)


def _packed(
    linear: torch.nn.Linear, spec: Linear, pattern: NMSparsity, mean_square: torch.Tensor
) -> PackedLinear:
    """A linear masked and packed as its spec ships it."""
    weight = linear.weight.detach()
    keep = wanda.keep_mask(wanda.scores(weight, mean_square), pattern)
    masked = _array(torch.where(keep, weight, 0.0))
    if pattern.n == pattern.m:
        return PackedLinear(pack(masked, spec.weight_format), _packed_bias(linear, spec))
    return PackedLinear(fast_pack(masked, spec.weight_format, pattern), _packed_bias(linear, spec))


def _packed_bias(linear: torch.nn.Linear, spec: Linear) -> Any:
    return None if linear.bias is None else pack(_array(linear.bias), spec.activation_format)


def _put_back(linear: torch.nn.Linear, packed: PackedLinear) -> None:
    """The live values become exactly those of the packed form."""
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(fast_unpack(packed.weight)))
        if linear.bias is not None and packed.bias is not None:
            linear.bias.copy_(torch.from_numpy(unpack(packed.bias)))


def _array(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(tensor.detach().float().cpu().numpy())


def _warn_of_dead_channels(squares: Mapping[str, torch.Tensor], context: RunContext) -> None:
    for path, mean_square in squares.items():
        dead = (mean_square == 0).nonzero().flatten().tolist()
        if dead:
            context.logger.warning(
                "%s: %d of %d input channels (first: %d) are zero on the whole calibration text; "
                "their weights are dropped first",
                *(path, len(dead), len(mean_square), dead[0]),
            )
