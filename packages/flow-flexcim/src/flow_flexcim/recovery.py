"""Masked fine-tuning after pruning: weights that are zero stay zero, the others learn.

Plain next-token loss on the calibration split, AdamW, one window a step. Only the block linears
change; their zeros are put back after every step, so that the patterns hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from crosslayer.contracts.formats import NMSparsity
from crosslayer.kinds import LiveModel, RunContext
from crosslayer.texts import token_windows
from flow_flexcim.linears import BlockLinears
from flow_flexcim.modules import live_linears, weight_of
from flow_flexcim.params import FlowParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Recovery:
    """What it took: tokens seen, seconds by the run's clock, mean loss (nats a token) of the first
    and of the last tenth of the steps.
    """

    tokens: int
    seconds: float
    loss_first: float
    loss_last: float


def recovery_windows(live: LiveModel, params: FlowParams, context: RunContext) -> NDArray[np.int64]:
    """Token ids [n, window] to learn from. InputError where the text holds too few."""
    return token_windows(
        live.tokenizer,
        params.calibration_text,
        "calibration",
        params.recovery_tokens or params.calibration_tokens,
        params.window_tokens,
        seed=context.stream_seed("flow", "recovery"),
        progress=context.progress,
    )


def recover(
    live: LiveModel,
    blocks: Sequence[BlockLinears],
    patterns: Sequence[NMSparsity],
    params: FlowParams,
    context: RunContext,
) -> Recovery:
    """Change a pruned model in place, `recovery_steps` steps. Memory: gradients and two moments of
    the block linears, 12 bytes a weight.

    Dense blocks learn too. Errors: InputError where the text holds too few windows.
    """
    start = context.clock()
    windows = recovery_windows(live, params, context)
    linears = live_linears(live.module, blocks)
    pairs = zip(blocks, patterns, strict=True)
    pruned = {str(spec.path) for block, p in pairs if p.n < p.m for spec in block.linears}
    masks = {path: weight_of(linears[path]) != 0 for path in pruned}
    order = context.rng("flow", "recovery").permutation(params.recovery_steps) % len(windows)
    weights: list[Any] = [module.get_parameter("weight") for module in linears.values()]
    module = live.module
    wanted = {id(weight) for weight in weights}
    states = [(p, p.requires_grad) for p in module.parameters()]
    device = next(module.parameters()).device
    losses = []
    try:
        for parameter, _ in states:
            parameter.requires_grad_(id(parameter) in wanted)
        optimizer = torch.optim.AdamW(weights, lr=params.recovery_rate, weight_decay=0.0)
        steps = context.progress.track(order, "recovering", total=len(order))
        for row in steps:
            ids = torch.from_numpy(windows[row])[None].to(device)
            logits = module(input_ids=ids, use_cache=False).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for path, mask in masks.items():
                    weight_of(linears[path]).mul_(mask)
            losses.append(float(loss.detach()))
    finally:
        for parameter, needed in states:
            parameter.requires_grad_(needed)
            parameter.grad = None
    tenth = max(1, len(losses) // 10)
    return Recovery(
        len(losses) * params.window_tokens,
        context.clock() - start,
        sum(losses[:tenth]) / tenth,
        sum(losses[-tenth:]) / tenth,
    )
