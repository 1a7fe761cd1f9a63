"""The live modules of the block linears, found by the paths in the spec and checked against it.

A linear is a torch.nn.Linear (weight [out, in]) or a Conv1D of transformers (GPT-2; weight
[in, out]); `weight_of` shows both as [out, in].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from crosslayer.errors import InputError
from flow_flexcim.linears import BlockLinears


def weight_of(module: torch.nn.Module) -> torch.Tensor:
    """The weight as [out, in]: a view, so that what is written to it is written to the module."""
    weight = module.get_parameter("weight")
    return weight if isinstance(module, torch.nn.Linear) else weight.t()


def live_linears(module: Any, blocks: Sequence[BlockLinears]) -> dict[str, torch.nn.Module]:
    """Path -> linear module of every block linear, in order.

    InputError for a part without a path, a path that is no linear (experts in one tensor), another
    shape than the spec's, a weight that two of them share, NaN or infinity in one.
    """
    modules = dict(module.named_modules())
    found: dict[str, torch.nn.Module] = {}
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
            if live is None or not _is_linear(live):
                what = "no module" if live is None else f"a {type(live).__name__}"
                raise InputError(
                    f"{path} is {what} of the live model; flow prunes torch.nn.Linear and Conv1D "
                    "only, for other modules prune the spec alone (live = false)"
                )
            shape = tuple(weight_of(live).shape)
            if shape != (linear.outputs, linear.inputs):
                raise InputError(
                    f"{path}: the live weight is {shape} (outputs, inputs), the spec says "
                    f"{(linear.outputs, linear.inputs)}"
                )
            other = owners.setdefault(id(live.get_parameter("weight")), path)
            if other != path:
                raise InputError(
                    f"{path} and {other} share one weight, which cannot have two patterns; flow "
                    "does not prune models that share weights between blocks"
                )
            _require_finite(path, weight_of(live))
            found[path] = live
    return found


def decoder_modules(module: Any, blocks: Sequence[BlockLinears]) -> list[torch.nn.Module]:
    """The module of each decoder block: the item of the first ModuleList on its linears' paths."""
    found = []
    for block in blocks:
        parts = str(block.linears[0].path).split(".")
        for length in range(1, len(parts)):
            owner = module.get_submodule(".".join(parts[:length]))
            if isinstance(owner, torch.nn.ModuleList):
                found.append(owner[int(parts[length])])
                break
        else:
            raise InputError(
                f"{block.name}: {'.'.join(parts)} lies in no ModuleList, so flow cannot run the "
                'model block by block; use calibration_inputs = "dense" and a cost other than probe'
            )
    return found


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _require_finite(path: str, weight: torch.Tensor) -> None:
    bad = ~torch.isfinite(weight)
    if bad.any():
        row, column = (int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"{path}: weight [{row}, {column}] is {float(weight[row, column])}, which has no "
            "score; the model is broken before flow"
        )
