"""What the inputs of each linear look like on calibration text: one pass of the dense model.

Memory: two float64 vectors a linear and the activations of one window; nothing grows with the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from crosslayer.errors import InputError
from crosslayer.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def mean_squares(
    module: Any,
    linears: Mapping[str, torch.nn.Linear],
    windows: NDArray[np.int64],
    progress: Progress,
) -> dict[str, torch.Tensor]:
    """Path -> mean over all tokens of x_j^2 of each input channel j, float64 [in].

    windows: token ids [n, window]; each is one forward pass, and a token's mean counts all of them.
    Windows are summed in float64: a few tokens dominate the inputs of a down projection.
    InputError names the first linear (in the order of `linears`) and channel that saw NaN or
    infinity, or a linear that no token reached.
    """
    sums = {
        path: torch.zeros(linear.in_features, dtype=torch.float64, device=linear.weight.device)
        for path, linear in linears.items()
    }
    seen = dict.fromkeys(linears, 0)

    # The last input and its sum: q, k and v are given one tensor, gate and up too.
    last: list[Any] = [None, None]

    def watch(path: str) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0]
            if last[0] is not x:
                last[:] = x, x.detach().reshape(-1, x.shape[-1]).float().square().sum(0).double()
            sums[path] += last[1]
            seen[path] += x.numel() // x.shape[-1]

        return hook

    hooks = [linear.register_forward_pre_hook(watch(path)) for path, linear in linears.items()]
    # The head's logits are not needed, and are the largest activation by far.
    backbone = getattr(module, "base_model", module)
    device = next(module.parameters()).device
    try:
        with torch.inference_mode():
            for row in progress.track(range(len(windows)), "calibrating", total=len(windows)):
                backbone(input_ids=torch.from_numpy(windows[row])[None].to(device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()

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
    # Outside inference mode the results are ordinary tensors again.
    return {path: total.clone() / seen[path] for path, total in sums.items()}
