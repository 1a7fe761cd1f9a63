"""Baselines behind the same interface: full, window, random, H2O, R-KV, SnapKV, KIVI.

Each is a Row of the same cache: it stores its tokens for real (fp16, or packed), frees what it
evicts by copying the survivors together, and acts every 16 tokens, so that pieces of 16 equal token
by token. Evictors choose for each KV head and keep `budget` tokens of everything after the
protected prompt. Sources: StreamingLLM (arXiv 2309.17453), H2O (2306.14048), SnapKV (2404.14469),
R-KV (2505.24133), KIVI (2402.02750).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from thinkv.attention import Dense, Part, paged
from thinkv.formats import pack
from thinkv.layout import GROUP

Evictor = Literal["full", "window", "random", "h2o", "rkv", "snapkv"]


@dataclass(frozen=True)
class BaselineSettings:
    """budget_tokens: kept after each eviction. sinks: first tokens that a window keeps. recent: of
    the budget, the last tokens that every scoring method keeps. observed: queries whose attention
    SnapKV and R-KV look at. mix: R-KV's lambda. kernel: width of their max pooling."""

    method: Evictor = "full"
    budget_tokens: int = 1024
    sinks: int = 4
    recent: float = 0.5
    observed: int = 16
    kernel: int = 7
    mix: float = 0.1
    seed: int = 0


class EvictingRow:
    """Plain fp16 keys and values, and what a method has seen of the attention to them."""

    def __init__(self, settings: BaselineSettings, layers: int) -> None:
        self.settings = settings
        self.seen = self.since = 0
        self.k: list[Any] = [None] * layers
        self.v: list[Any] = [None] * layers
        self.position: list[Any] = [None] * layers  # [heads, n]
        self.score: list[Any] = [None] * layers  # [heads, n] accumulated or recent attention
        self.queries: list[Any] = [None] * layers  # the last ones, scaled [heads, group, w, dim]
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.moved = self.calls = 0
        self._tokens = 0

    @property
    def physical(self) -> int:
        """Tokens alive in each head."""
        return 0 if self.k[0] is None else int(self.k[0].shape[1])

    def begin(self, tokens: int) -> None:
        """A pass starts."""
        self.settle()
        self._tokens = tokens

    def attend(self, layer: int, q: Any, k: Any, v: Any, scaling: float) -> Any:
        """Attention over what is kept and the new tokens, which are then kept."""
        heads, t, _ = k.shape
        k16, v16 = k.half(), v.half()
        if self.k[layer] is None:
            self.k[layer], self.v[layer] = k16[:, :0], v16[:, :0]
            self.position[layer] = torch.empty(heads, 0, dtype=torch.int32)
            if self.settings.method == "h2o":
                self.score[layer] = torch.empty(heads, 0)
        past = Part(Dense(self.k[layer], self.v[layer]))
        if self.score[layer] is not None:
            self.score[layer] = torch.cat([self.score[layer], torch.zeros(heads, t)], 1)

        def accumulate(_: Any, weights: Any, __: int) -> None:
            summed = weights.sum((1, 2))
            self.score[layer][:, : summed.shape[1]] += summed

        watch = accumulate if self.settings.method == "h2o" else None
        out = paged(q, k16.float(), v16.float(), [past], scaling, watch)
        if self.settings.method in ("rkv", "snapkv"):
            last = (q.float() * scaling).unflatten(0, (heads, -1)).half()
            if self.queries[layer] is not None:
                last = torch.cat([self.queries[layer], last], 2)
            self.queries[layer] = last[:, :, -self.settings.observed :].clone()
        self.k[layer] = torch.cat([self.k[layer], k16], 1)
        self.v[layer] = torch.cat([self.v[layer], v16], 1)
        new = torch.arange(self.seen, self.seen + t, dtype=torch.int32).expand(heads, t)
        self.position[layer] = torch.cat([self.position[layer], new], 1)
        if layer == len(self.k) - 1:
            self.seen += t
            self.since += t
        return out

    def settle(self) -> None:
        """Evict down to the budget once 16 tokens have come in."""
        if self.since < GROUP or self.settings.method == "full":
            return
        self.since %= GROUP
        if self.physical <= self.settings.budget_tokens:
            return
        self.calls += 1
        for layer in range(len(self.k)):
            keep = self._choose(layer)
            for stored in (self.k, self.v):
                index = keep[..., None].expand(-1, -1, stored[layer].shape[2])
                stored[layer] = stored[layer].gather(1, index)
                self.moved += stored[layer].nbytes
            self.position[layer] = self.position[layer].gather(1, keep)
            if self.score[layer] is not None:
                self.score[layer] = self.score[layer].gather(1, keep)

    def bytes(self) -> dict[str, int]:
        """Keys and values, positions, and the scores that the method keeps."""

        def total(tensors: Any) -> int:
            return sum(x.nbytes for x in tensors if x is not None)

        return {
            "payload": total([*self.k, *self.v]),
            "scales": 0,
            "tables": total([*self.position, *self.score, *self.queries]),
            "buffer": 0,
        }

    def _attention(self, layer: int) -> Any:
        """Mean weights of the last queries on all that is kept [heads, n]."""
        queries, keys = self.queries[layer].float(), self.k[layer].float()
        count, n = queries.shape[2], keys.shape[1]
        scores = queries @ keys[:, None].transpose(2, 3)
        hidden = torch.ones(count, n, dtype=torch.bool).triu(n - count + 1)
        return scores.masked_fill(hidden, -torch.inf).softmax(-1).mean((1, 2))

    def _choose(self, layer: int) -> Any:
        """Indices to keep [heads, budget], ascending."""
        settings, budget = self.settings, self.settings.budget_tokens
        heads, n = self.position[layer].shape
        if settings.method == "window":
            sinks = min(settings.sinks, budget)
            kept = torch.cat([torch.arange(sinks), torch.arange(n - budget + sinks, n)])
            return kept.expand(heads, -1)
        recent = min(int(budget * settings.recent), budget)
        if settings.method in ("rkv", "snapkv"):
            recent = min(settings.observed, budget)
        old = n - recent
        if settings.method == "random":
            score = torch.rand(heads, old, generator=self.generator)
        elif settings.method == "h2o":
            score = self.score[layer][:, :old]
        else:
            seen = self._attention(layer)[:, :old]
            score = torch.nn.functional.max_pool1d(
                seen[:, None], settings.kernel, 1, settings.kernel // 2
            )[:, 0]
            if settings.method == "rkv":
                score = settings.mix * score - (1 - settings.mix) * _redundancy(
                    self.k[layer][:, :old].float()
                )
        top = score.topk(budget - recent, dim=1).indices.sort(1).values
        return torch.cat([top, torch.arange(old, n).expand(heads, -1)], 1)


def _redundancy(keys: Any) -> Any:
    """Mean cosine similarity of each key [heads, n, dim] to the others, as a softmax over keys."""
    unit = torch.nn.functional.normalize(keys, dim=-1)
    mean = (unit @ unit.sum(1)[..., None])[..., 0] / keys.shape[1]
    return mean.softmax(-1)


@dataclass(frozen=True)
class KiviSettings:
    """bits of K and V, tokens (K) or channels (V) that share a scale, tokens kept in fp16."""

    bits: int = 4
    group: int = 32
    residual: int = 128


class KiviRow:
    """KIVI: asymmetric integers, K by channel over 32 tokens, V by token over 32 channels; the last
    tokens stay in fp16 and are quantised `residual` at a time. Scale and minimum are fp16."""

    def __init__(self, settings: KiviSettings, layers: int) -> None:
        self.settings = settings
        self.seen = 0
        self.k: list[Any] = [None] * layers  # residual [heads, n, dim]
        self.v: list[Any] = [None] * layers
        self.old: list[list[tuple[Any, ...]]] = [[] for _ in range(layers)]
        self._tokens = 0

    @property
    def physical(self) -> int:
        """Everything is alive."""
        return self.seen

    def begin(self, tokens: int) -> None:
        """A pass starts."""
        self.settle()

    def attend(self, layer: int, q: Any, k: Any, v: Any, scaling: float) -> Any:
        """Attention over the quantised tokens, the residual and the new ones."""
        if self.k[layer] is None:
            self.k[layer], self.v[layer] = k[:, :0].half(), v[:, :0].half()
        k16, v16 = k.half(), v.half()
        parts = [Part(_Kivi(old, self.settings)) for old in self.old[layer]]
        parts.append(Part(Dense(self.k[layer], self.v[layer])))
        out = paged(q, k16.float(), v16.float(), parts, scaling)
        self.k[layer] = torch.cat([self.k[layer], k16], 1)
        self.v[layer] = torch.cat([self.v[layer], v16], 1)
        if layer == len(self.k) - 1:
            self.seen += k.shape[1]
        return out

    def settle(self) -> None:
        """Quantise the residual's whole blocks, keeping what came in since."""
        size = self.settings.residual
        for layer, k in enumerate(self.k):
            while k is not None and k.shape[1] >= size:
                v = self.v[layer]
                new = (
                    *_asymmetric(k[:, :size].float().transpose(1, 2), self.settings),
                    *_asymmetric(v[:, :size].float(), self.settings),
                )
                old = self.old[layer]
                if old:  # one growing store: codes and scales joined along the tokens
                    axes = (2, 2, 2, 1, 1, 1)
                    new = tuple(
                        torch.cat(pair, axis) for *pair, axis in zip(old[0], new, axes, strict=True)
                    )
                self.old[layer] = [new]
                k = self.k[layer] = k[:, size:].clone()
                self.v[layer] = v[:, size:].clone()

    def bytes(self) -> dict[str, int]:
        """Codes, scales and minima, and the fp16 residual."""
        stores = [old for layer in self.old for old in layer]
        return {
            "payload": sum(old[0].nbytes + old[3].nbytes for old in stores),
            "scales": sum(old[i].nbytes for old in stores for i in (1, 2, 4, 5)),
            "tables": 0,
            "buffer": sum(x.nbytes for x in [*self.k, *self.v] if x is not None),
        }


class _Kivi:
    """Codes as a store for attention."""

    def __init__(self, stored: tuple[Any, ...], settings: KiviSettings) -> None:
        self.stored, self.settings = stored, settings

    def keys(self, slots: Any | None = None) -> Any:
        """Dequantised keys."""
        k = _restore(self.stored[:3], self.settings).transpose(1, 2)
        return k if slots is None else k[:, slots]

    def values(self, slots: Any | None = None) -> Any:
        """Dequantised values."""
        v = _restore(self.stored[3:], self.settings)
        return v if slots is None else v[:, slots]


def _asymmetric(x: Any, settings: KiviSettings) -> tuple[Any, Any, Any]:
    """[heads, rows, n] in groups along n -> packed codes, fp16 scales and fp16 minima."""
    groups = x.unflatten(-1, (-1, min(settings.group, x.shape[-1])))
    low = groups.amin(-1).half()
    step = ((groups.amax(-1) - low.float()) / (2**settings.bits - 1)).half()
    scaled = (groups - low.float()[..., None]) / step.float().clamp(min=1e-8)[..., None]
    codes = scaled.round().clamp(0, 2**settings.bits - 1).to(torch.uint8)
    return pack(codes.flatten(-2), settings.bits), step, low


def _restore(stored: tuple[Any, ...], settings: KiviSettings) -> Any:
    codes, step, low = stored
    shifts = torch.arange(0, 8, settings.bits, dtype=torch.uint8)
    values = (codes[..., None] >> shifts) & (2**settings.bits - 1)
    groups = values.flatten(-2).float().unflatten(-1, (step.shape[-1], -1))
    return (groups * step.float()[..., None] + low.float()[..., None]).flatten(-2)
