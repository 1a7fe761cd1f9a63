"""Rows for a calibration: replay traces with the full cache and note each layer's sparsity.

Replaying a trace token by token or in pieces gives the same rows as decoding it, because the cache
is complete; so a trace costs one pass over it. Keys are read in blocks, and of a row only its
sparsity is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from crosslayer.kinds import LiveModel
from crosslayer.progress import Progress
from thinkv.attention import Dense, Part, paged
from thinkv.cache import MethodCache, attached
from thinkv.calibration import Calibration, CalibrationSettings, fit, model_hash
from thinkv.sparsity import streamed_sparsity

PIECE = 256  # tokens of a replay's pass


class ProbeRow:
    """A full cache that notes the sparsity of every row of every layer."""

    def __init__(self, layers: int, settings: CalibrationSettings) -> None:
        self.settings = settings
        self.seen = 0
        self.k: list[Any] = [None] * layers
        self.v: list[Any] = [None] * layers
        self.sparsities: list[list[Any]] = [[] for _ in range(layers)]

    @property
    def physical(self) -> int:
        """Everything is alive."""
        return self.seen

    def begin(self, tokens: int) -> None:
        """Nothing happens between passes."""
        self._tokens = tokens

    def attend(self, layer: int, q: Any, k: Any, v: Any, scaling: float) -> Any:
        """Full attention, and the rows' sparsities."""
        past = [] if self.k[layer] is None else [Part(Dense(self.k[layer], self.v[layer]))]
        out = paged(q, k, v, past, scaling)
        keys = k if self.k[layer] is None else torch.cat([self.k[layer], k], 1)
        values = v if self.v[layer] is None else torch.cat([self.v[layer], v], 1)
        self.k[layer], self.v[layer] = keys, values
        found = streamed_sparsity(
            q, keys, scaling, self.seen, self.settings.head_reduce, self.settings.cut
        )
        self.sparsities[layer].append(found)
        if layer == len(self.k) - 1:
            self.seen += self._tokens
        return out

    def settle(self) -> None:
        """Nothing happens between passes."""

    def bytes(self) -> dict[str, int]:
        """Keys and values."""
        return {"payload": sum(x.nbytes for x in [*self.k, *self.v] if x is not None)}


def sparsity_rows(
    module: Any, ids: Any, settings: CalibrationSettings, progress: Progress | None = None
) -> dict[int, NDArray[Any]]:
    """Token ids [n] of a trace -> {layer: sparsity of the rows from skip_tokens on}."""
    cache = MethodCache(module.config, lambda layers: ProbeRow(layers, settings))
    starts = range(0, len(ids), PIECE)
    with attached(module), torch.inference_mode():
        for start in (progress or Progress()).track(starts, "replaying a trace", total=len(starts)):
            module(
                input_ids=ids[None, start : start + PIECE],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
    (row,) = cache.rows
    assert isinstance(row, ProbeRow)
    rows = (torch.cat(found)[settings.skip_tokens :] for found in row.sparsities)
    return {layer: found.double().numpy() for layer, found in enumerate(rows)}


def calibrate(
    live: LiveModel,
    traces: Sequence[Any],
    settings: CalibrationSettings | None = None,
    name: str = "",
    progress: Progress | None = None,
) -> Calibration:
    """Traces (token ids [n] each) of this model's own chains of thought -> its calibration.

    Errors: InputError where a trace is no longer than skip_tokens, or the model has no full
    attention.
    """
    settings = settings or CalibrationSettings()
    rows = [sparsity_rows(live.module, ids, settings, progress) for ids in traces]
    return fit(rows, settings, name or live.module.config.model_type, model_hash(live.module))
