"""What the inputs of each linear look like on calibration text.

Memory: a float64 vector a linear, with `products` a float32 [in, in] for each distinct input, and
the activations of one window; nothing grows with the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from crosslayer.errors import InputError
from crosslayer.progress import Progress
from flow_flexcim.modules import weight_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MATMUL = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


@dataclass(frozen=True)
class Inputs:
    """Of one linear. mean_square: of each input channel over all tokens, float64 [in].

    products: sum of x x^T over tokens divided by their number, fp32 [in, in], or None; linears with
    the same input (q, k, v) hold one tensor.
    """

    mean_square: torch.Tensor
    products: torch.Tensor | None = None


def dense_inputs(
    module: Any,
    linears: Mapping[str, torch.nn.Module],
    windows: NDArray[np.int64],
    progress: Progress,
    products: bool = False,
) -> dict[str, Inputs]:
    """Path -> inputs in one pass of the model as it is; windows: token ids [n, window]."""
    # The head's logits are not needed, and are the largest activation by far.
    backbone = getattr(module, "base_model", module)
    device = next(module.parameters()).device

    def run(row: int) -> Callable[[], Any]:
        ids = torch.from_numpy(windows[row])[None].to(device)
        return lambda: backbone(input_ids=ids, use_cache=False)

    rows = progress.track(range(len(windows)), "calibrating", total=len(windows))
    return collect(linears, (run(row) for row in rows), products)


def collect(
    linears: Mapping[str, torch.nn.Module], runs: Iterable[Callable[[], Any]], products: bool
) -> dict[str, Inputs]:
    """Path -> what the linears are given during the runs; a token's mean counts all runs.

    Runs are summed in float64: a few tokens dominate the inputs of a down projection.
    InputError names the first linear (in the order of `linears`) and channel that saw NaN or
    infinity, or a linear that no token reached.
    """
    sums = {
        path: torch.zeros(weight_of(linear).shape[1], dtype=torch.float64)
        for path, linear in linears.items()
    }
    seen = dict.fromkeys(linears, 0)
    grams: dict[str, torch.Tensor] = {}
    owner: dict[str, str] = {}
    # The last input, its sum and the linear that had it first: q, k and v are given one tensor.
    last: list[Any] = [None, None, ""]

    def watch(path: str, x: torch.Tensor) -> None:
        if last[0] is not x:
            rows = x.detach().reshape(-1, x.shape[-1]).float()
            last[:] = x, rows.square().sum(0).double().cpu(), path
            if products:
                gram = grams.setdefault(path, torch.zeros(x.shape[-1], x.shape[-1]))
                gram.addmm_(rows.cpu().t(), rows.cpu())
        owner[path] = last[2]
        sums[path] += last[1]
        seen[path] += x.numel() // x.shape[-1]

    def hook(path: str) -> Any:
        return lambda _, inputs: watch(path, inputs[0])

    hooks = [linear.register_forward_pre_hook(hook(path)) for path, linear in linears.items()]
    try:
        with torch.inference_mode(), _UncalledWeights(linears, watch):
            for run in runs:
                run()
    finally:
        for handle in hooks:
            handle.remove()

    for path, total in sums.items():
        if not seen[path]:
            raise InputError(
                f"{path}: no calibration token reached it, so its weights have no score"
            )
        bad = ~torch.isfinite(total)
        if bad.any():
            channel = int(bad.nonzero()[0])
            raise InputError(
                f"{path}: input channel {channel} holds NaN or infinity on the calibration text; "
                "the model is broken before flow, or the text is not for it"
            )
    means = {path: gram.clone() / seen[path] for path, gram in grams.items()}
    # Outside inference mode the results are ordinary tensors again.
    return {
        path: Inputs(total.clone() / seen[path], means.get(owner[path]))
        for path, total in sums.items()
    }


class _UncalledWeights(TorchFunctionMode):
    """Sees `weight @ x` of a linear that its model does not call, as Mamba does with dt_proj."""

    def __init__(
        self, linears: Mapping[str, torch.nn.Module], watch: Callable[[str, torch.Tensor], None]
    ) -> None:
        super().__init__()
        self._paths = {id(m.get_parameter("weight")): path for path, m in linears.items()}
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MATMUL and id(args[0]) in self._paths:  # [out, in] @ [..., in, tokens]
            self._watch(self._paths[id(args[0])], args[1].transpose(-1, -2))
        return func(*args, **(kwargs or {}))
