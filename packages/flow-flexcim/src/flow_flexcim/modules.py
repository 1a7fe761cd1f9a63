"""The live modules of the block linears, found by the paths in the spec and checked against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from crosslayer.errors import InputError
from flow_flexcim.linears import BlockLinears


def live_linears(module: Any, blocks: Sequence[BlockLinears]) -> dict[str, torch.nn.Linear]:
    """Path -> torch.nn.Linear of every block linear, in order.

    InputError for a part without a path, a path that is no nn.Linear (experts in one tensor,
    GPT-2's Conv1D), another shape than the spec's, a weight that two of them share, NaN or
    infinity in one.
    """
    modules = dict(module.named_modules())
    found: dict[str, torch.nn.Linear] = {}
    owners: dict[int, str] = {}
    for block in blocks:
        for linear in block.linears:
            path = linear.path
            if path is None:
                raise InputError(
                    f"{block.name}.{linear.name}: the spec names no live module for it, so flow "
                    "cannot prune it; give it a path, or prune the spec alone (live = false)"
                )
            live = modules.get(path)
            if not isinstance(live, torch.nn.Linear):
                what = "no module" if live is None else f"a {type(live).__name__}"
                raise InputError(
                    f"{path} is {what} of the live model; flow prunes torch.nn.Linear only, for "
                    "other modules prune the spec alone (live = false)"
                )
            if tuple(live.weight.shape) != (linear.outputs, linear.inputs):
                raise InputError(
                    f"{path}: the live weight is {tuple(live.weight.shape)}, the spec says "
                    f"{(linear.outputs, linear.inputs)}"
                )
            other = owners.setdefault(id(live.weight), path)
            if other != path:
                raise InputError(
                    f"{path} and {other} share one weight, which cannot have two patterns; flow "
                    "does not prune models that share weights between blocks"
                )
            _require_finite(path, live.weight)
            found[path] = live
    return found


def _require_finite(path: str, weight: torch.Tensor) -> None:
    bad = ~torch.isfinite(weight)
    if bad.any():
        row, column = (int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"{path}: weight [{row}, {column}] is {float(weight[row, column])}, which has no "
            "score; the model is broken before flow"
        )
