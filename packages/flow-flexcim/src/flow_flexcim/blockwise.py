"""Runs of a model that skip its first blocks: each window's block outputs are kept and replayed.

Sequential calibration and probing change one block at a time; what comes before it need not run
again. Memory: one output a block and window, 4 bytes x hidden x tokens x blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Stopped(Exception):
    pass


class Blockwise:
    """A model, the modules of its blocks in order, and token windows [n, window]."""

    def __init__(
        self, module: Any, blocks: Sequence[torch.nn.Module], windows: NDArray[np.int64]
    ) -> None:
        self._module, self._blocks = module, blocks
        device = next(module.parameters()).device
        self.windows = [torch.from_numpy(row)[None].to(device) for row in windows]
        self._outputs: list[list[Any]] = [[None] * len(blocks) for _ in self.windows]

    def nll(self, start: int = 0, keep: bool = False) -> torch.Tensor:
        """Mean NLL of each window, nats a token, float64 [n]; the blocks before `start` are
        replayed. keep: what the others give is what later runs replay.
        """
        found = []
        with torch.inference_mode():
            for row, ids in enumerate(self.windows):
                with self._replaying(row, start, len(self._blocks) if keep else start):
                    logits = self._module(input_ids=ids, use_cache=False).logits[0, :-1].float()
                found.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:]).double())
        return torch.stack(found).clone()

    def runs(self, block: int) -> Iterator[Callable[[], None]]:
        """For each window a run of this block alone, on what the blocks before it gave; its output
        is kept for the next.
        """
        for row in range(len(self.windows)):
            yield partial(self._run, row, block)

    def _run(self, row: int, block: int) -> None:
        def stop(*_: Any) -> None:
            raise _Stopped

        backbone = getattr(self._module, "base_model", self._module)
        with torch.inference_mode(), self._replaying(row, block, block + 1):
            handle = self._blocks[block].register_forward_hook(stop)  # after the one that keeps
            try:
                backbone(input_ids=self.windows[row], use_cache=False)
            except _Stopped:
                pass
            finally:
                handle.remove()

    @contextmanager
    def _replaying(self, row: int, start: int, keep_until: int) -> Iterator[None]:
        kept = self._outputs[row]

        def replay(index: int) -> Callable[..., Any]:
            return lambda *_, **__: kept[index]

        def keep(index: int) -> Callable[..., None]:
            def hook(_: Any, __: Any, output: Any) -> None:
                kept[index] = output

            return hook

        handles = [self._blocks[i].register_forward_hook(keep(i)) for i in range(start, keep_until)]
        for i in range(start):
            self._blocks[i].forward = replay(i)
        try:
            yield
        finally:
            for i in range(start):
                del self._blocks[i].forward
            for handle in handles:
                handle.remove()
