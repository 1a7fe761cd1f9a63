"""From weights and calibration to a plan: which pattern each block gets, by the parameters."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING

import torch

from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.kinds import LiveModel, RunContext
from flow_flexcim import planfile
from flow_flexcim.calibration import Inputs
from flow_flexcim.costs import options, owl_costs, released_costs, signal_costs
from flow_flexcim.linears import BlockLinears
from flow_flexcim.modules import live_linears, weight_of
from flow_flexcim.params import FlowParams
from flow_flexcim.plan import Plan, flow_plan, largest_m, level_plan, offered, uniform_plan
from flow_flexcim.probe import Probe, probe_costs
from flow_flexcim.signals import Signals, block_signals, released_locality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def make_plan(
    live: LiveModel,
    blocks: Sequence[BlockLinears],
    inputs: Mapping[str, Inputs],
    windows: NDArray[np.int64],
    params: FlowParams,
    context: RunContext,
    probes: MutableMapping[Probe, float] | None = None,
) -> tuple[Plan, list[Signals]]:
    """The plan, and of each block the signals of the pattern it got (one pattern each).

    blocks: what gets a pattern each. windows: calibration tokens, of which cost `probe` runs some.
    probes: kept from plan to plan of one calibration, it saves cost `probe` measuring twice.
    Errors: InputError for a target that no plan reaches.
    """
    fixed = fixed_plan(blocks, params)
    candidates = params.patterns
    choices: list[Sequence[NMSparsity]] = [
        (fixed.patterns[i],) if fixed else offered(block, candidates)
        for i, block in enumerate(blocks)
    ]
    if params.cost == "probe" or params.plan == "owl":
        choices = [largest_m(patterns) for patterns in choices]
    linears = live_linears(live.module, blocks)

    def signals_of(block: BlockLinears, patterns: Sequence[NMSparsity]) -> Signals:
        weights, squares = _of(block, linears, inputs, params.metric)
        return block_signals(weights, squares, patterns, params.outlier_multiple)

    tracked = context.progress.track(blocks, "scoring", total=len(blocks))
    measured = [signals_of(b, patterns) for b, patterns in zip(tracked, choices, strict=True)]
    if fixed:
        return fixed, measured

    densities = [signals.outlier_density for signals in measured]
    offers: Sequence[Sequence[NMSparsity]] = choices
    if params.plan == "owl":
        costs = owl_costs(blocks, choices, densities, params.sparsity, params.owl_spread)
    elif params.cost == "released":
        found = [_of(block, linears, inputs, params.metric) for block in blocks]
        near = [released_locality(w, x, params.outlier_multiple) for w, x in found]
        costs = released_costs(choices, densities, near)
    elif params.cost == "probe":
        level = level_plan(blocks, candidates, params.sparsity).patterns
        base = level_plan(blocks, candidates, min(params.sparsity, params.probe_base)).patterns
        centers = [pattern.density for pattern in level]
        few = windows[: max(1, params.probe_tokens // params.window_tokens)]
        offers, costs = probe_costs(
            live, blocks, choices, base, centers, inputs, few, params.probe_reach, context.progress,
            probes,
        )  # fmt: skip
    else:
        costs = signal_costs(blocks, measured, params.cost)
    total = sum(block.weights for block in blocks)
    plan = flow_plan(options(blocks, offers, costs), total, params.sparsity, params.tolerance)
    chosen = []
    for pattern, patterns, signals in zip(plan.patterns, choices, measured, strict=True):
        at = list(patterns).index(pattern)
        drop, error = (signals.dropped[at],), (signals.error[at],)
        chosen.append(Signals(signals.outlier_density, drop, error))
    return plan, chosen


def fixed_plan(blocks: Sequence[BlockLinears], params: FlowParams) -> Plan | None:
    """The plan that needs no weights: of a file, or the uniform one; None for the others."""
    if params.plan_file is not None:
        return planfile.read(params.plan_file, blocks)
    if params.plan != "uniform":
        return None
    only = [NMSparsity.parse(params.pattern)] if params.pattern else params.patterns
    return uniform_plan(blocks, only, params.sparsity)


def _of(
    block: BlockLinears,
    linears: Mapping[str, torch.nn.Module],
    inputs: Mapping[str, Inputs],
    metric: str,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weights and mean squares of a block's linears; metric magnitude sees inputs as equal."""
    paths = [str(spec.path) for spec in block.linears]
    weights = [weight_of(linears[path]).detach() for path in paths]
    squares = [inputs[path].mean_square for path in paths]
    return weights, [torch.ones_like(x) for x in squares] if metric == "magnitude" else squares
