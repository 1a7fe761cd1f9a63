"""One sequence in the cache: its stores by layer, its thoughts, and when they are shrunk.

Within a forward pass every layer attends first and stores afterwards, so a token's group of 16 is
quantised once the group's last token has been attended to. Everything that concerns all layers
(labels, eviction) happens between passes, in `settle`. That makes text fed in pieces of one group
exactly equal to token by token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from crosslayer.errors import ComponentError
from thinkv.attention import Decoding, Dense, Part, attend
from thinkv.kmeans import representatives
from thinkv.layout import GROUP, CacheFormat
from thinkv.paged import Pool
from thinkv.sparsity import row_sparsity
from thinkv.thoughts import CUT, PROMPT, HeadReduce, Rules, Shrink, Thought, Timeline, thought_of

BUFFERS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Labeller:
    """How thoughts are told: thresholds on the mean sparsity of some layers, or given labels.

    layers empty: one type of thought. window: rows before a refresh that are averaged. labels:
    types of segments 0, 1, ... instead of the rows (an oracle; past its end R).
    """

    layers: tuple[int, ...] = ()
    thresholds: tuple[float, float] | None = None
    head_reduce: HeadReduce = "max-logit"
    cut: float = CUT
    window: int = 1
    labels: tuple[Thought, ...] | None = None

    def label(self, segment: int, sparsity: float | None) -> Thought:
        """The type of the segment of that index."""
        if self.labels is not None:
            return self.labels[segment] if segment < len(self.labels) else Thought.REASONING
        return thought_of(sparsity, self.thresholds)


@dataclass(frozen=True)
class Settings:
    """What a ThinKV row needs to know; formats by type in the order T, E, R.

    prompt_tokens: how many first tokens are prompt (never evicted, type R); None: the first pass of
    a sequence, and any later one of more than a group.
    """

    formats: tuple[CacheFormat, CacheFormat, CacheFormat]
    rules: Rules = field(default_factory=Rules)
    labeller: Labeller = field(default_factory=Labeller)
    block_tokens: int = 8
    prompt_tokens: int | None = None
    buffer_format: str = "fp16"
    decoding: Decoding = "auto"
    budget_counts_prompt: bool = False
    iterations: int = 10

    def format(self, thought: Thought) -> CacheFormat:
        """The format of a type's tokens."""
        return self.formats[thought]


class LayerStore:
    """One layer of one sequence: a pool a format, and the buffer of tokens not yet in a group."""

    def __init__(self, settings: Settings, kv_heads: int, head_dim: int, device: Any) -> None:
        self.settings = settings
        self.shape = (kv_heads, head_dim, device)
        self.pools: dict[str, Pool] = {}
        dtype = BUFFERS[settings.buffer_format]
        self.buffer_k = torch.empty(kv_heads, 0, head_dim, dtype=dtype, device=device)
        self.buffer_v = torch.empty(kv_heads, 0, head_dim, dtype=dtype, device=device)

    def pool(self, thought: Thought) -> Pool:
        """The pool of a type's format, made when it is first needed."""
        format = self.settings.format(thought)
        if format.name not in self.pools:
            heads, dim, device = self.shape
            self.pools[format.name] = Pool(format, heads, dim, self.settings.block_tokens, device)
        return self.pools[format.name]

    def parts(self) -> list[Part]:
        """What a query sees of the past."""
        found = [Part(pool, pool.table.live) for pool in self.pools.values()]
        if self.buffer_k.shape[1]:
            found.append(Part(Dense(self.buffer_k, self.buffer_v)))
        return found

    def buffer(self, k: Any, v: Any) -> None:
        """Append tokens to the buffer."""
        self.buffer_k = torch.cat([self.buffer_k, k.to(self.buffer_k.dtype)], 1)
        self.buffer_v = torch.cat([self.buffer_v, v.to(self.buffer_v.dtype)], 1)

    def flush(self, tokens: int, thought: Thought, positions: Any, segment: int) -> None:
        """Quantise the first tokens of the buffer."""
        k, v = self.buffer_k[:, :tokens].float(), self.buffer_v[:, :tokens].float()
        self.pool(thought).write(k, v, thought, positions, segment)
        self.buffer_k = self.buffer_k[:, tokens:].clone()  # a view would keep the old storage
        self.buffer_v = self.buffer_v[:, tokens:].clone()

    def bytes(self) -> dict[str, int]:
        """Allocated bytes by kind."""
        total = {"payload": 0, "scales": 0, "tables": 0}
        for pool in self.pools.values():
            for kind, size in pool.bytes().items():
                total[kind] += size
        return total | {"buffer": self.buffer_k.nbytes + self.buffer_v.nbytes}


class ThinKVRow:
    """A sequence: `begin` a pass of n tokens, `attend` in each layer in order."""

    def __init__(self, settings: Settings, layers: int) -> None:
        self.settings = settings
        self.layers: list[LayerStore | None] = [None] * layers
        self.timeline = Timeline(settings.rules)
        self.seen = 0  # logical length
        self.prompt = 0  # prompt tokens among them
        self.positions: list[int] = []  # of the generated tokens in the buffers
        self.piece = (0, 0)  # prompt and generated tokens of the pass that runs
        self.waiting = 0  # generated tokens whose segment has no label yet
        self.sparsities: dict[int, list[float]] = {}  # segment index -> values that label it
        self.history: list[tuple[int, float | None, Thought]] = []  # (start, sparsity, label)
        self.flushed = False  # a group was stored since the last settling
        self.evicted = 0

    def begin(self, tokens: int) -> None:
        """A forward pass of that many tokens starts."""
        self.settle()
        fixed = self.settings.prompt_tokens
        if fixed is not None:
            prompt = min(max(fixed - self.seen, 0), tokens)
        else:
            prompt = tokens if self.seen == 0 or tokens > GROUP else 0
        self.piece = (prompt, tokens - prompt)

    def attend(self, layer: int, q: Any, k: Any, v: Any, scaling: float) -> Any:
        """q [query heads, t, dim], k, v [kv heads, t, dim] of the new tokens -> [query heads, t,
        dim]; stores k and v. The last layer ends the pass."""
        store = self.layers[layer]
        if store is None:
            store = LayerStore(self.settings, k.shape[0], k.shape[2], k.device)
            self.layers[layer] = store
        dtype = store.buffer_k.dtype
        k, v = k.to(dtype).float(), v.to(dtype).float()  # what the buffer holds, from the start
        watched = layer in self.settings.labeller.layers and self._labels()
        watch = self._watch if watched else None
        out = attend(q, k, v, store.parts(), scaling, watch, self.settings.decoding)
        with _named(layer):
            self._store(store, k, v)
        if layer == len(self.layers) - 1:
            self._end()
        return out

    def settle(self) -> None:
        """What happens between passes: labels of the segments that begin, eviction, flushing."""
        while self.timeline.room == 0:
            index = len(self.timeline.segments)
            values = self.sparsities.pop(index, None)
            sparsity = sum(values) / len(values) if values else None
            label = self.settings.labeller.label(index, sparsity)
            self.history.append((self.timeline.generated, sparsity, label))
            self._shrink(self.timeline.open(label))
            taken = min(self.waiting, self.timeline.room)
            self.timeline.add(taken)
            self.waiting -= taken
            self._flush()
        if self.flushed:  # the budget holds whenever a group has been stored
            self.flushed = False
            self._shrink(self.timeline.fit(self.counted_prompt))

    def bytes(self) -> dict[str, int]:
        """Allocated bytes by kind, all layers."""
        total: dict[str, int] = {"payload": 0, "scales": 0, "tables": 0, "buffer": 0}
        for store in self.layers:
            for kind, size in store.bytes().items() if store else ():
                total[kind] += size
        return total

    @property
    def physical(self) -> int:
        """Tokens alive in each layer: the same number in all of them."""
        return self.prompt + self.timeline.alive + self.waiting

    @property
    def counted_prompt(self) -> int:
        """Prompt tokens that take their share of the budget."""
        return self.prompt if self.settings.budget_counts_prompt else 0

    def _labels(self) -> dict[int, int]:
        """Which of the tokens of this pass label a segment: index of the token -> segment."""
        tau = self.settings.rules.segment_tokens
        prompt, generated = self.piece
        before = self.timeline.generated + self.waiting  # generated tokens before this pass
        found = {}
        for at in range(generated):
            count = before + at + 1  # generated tokens once this one is there
            index = -(-count // tau)  # of the segment that this row would label
            if index * tau - count < self.settings.labeller.window:
                found[prompt + at] = index
        return found

    def _watch(self, scores: Any, probabilities: Any, first: int) -> None:
        """Keep the sparsities of the rows that label a segment."""
        labeller = self.settings.labeller
        for token, index in self._labels().items():
            if first <= token < first + scores.shape[2]:
                row = scores[:, :, token - first : token - first + 1]
                found = float(row_sparsity(row, labeller.head_reduce, labeller.cut))
                self.sparsities.setdefault(index, []).append(found)

    def _store(self, store: LayerStore, k: Any, v: Any) -> None:
        prompt, generated = self.piece
        if prompt:
            positions = torch.arange(self.seen, self.seen + prompt, device=k.device)
            kind = Thought.REASONING
            store.pool(kind).write(k[:, :prompt], v[:, :prompt], kind, positions, PROMPT)
        if generated:
            store.buffer(k[:, prompt:], v[:, prompt:])

    def _end(self) -> None:
        prompt, generated = self.piece
        first = self.seen + prompt
        self.positions.extend(range(first, first + generated))
        self.seen += prompt + generated
        self.prompt += prompt
        taken = min(generated, self.timeline.room) if not self.waiting else 0
        self.timeline.add(taken)
        self.waiting += generated - taken
        self._flush()

    def _flush(self) -> None:
        """Quantise every whole group of the buffers whose segment has its label."""
        ready = len(self.positions) - self.waiting
        segment = self.timeline.current
        while ready >= GROUP:
            first = self.positions[:GROUP]
            for layer, store in enumerate(self.layers):
                if store is not None:
                    positions = torch.tensor(first, device=store.buffer_k.device)
                    with _named(layer):
                        store.flush(GROUP, segment.thought, positions, segment.start)
            del self.positions[:GROUP]
            ready -= GROUP
            self.flushed = True

    def _shrink(self, shrinks: Sequence[Shrink]) -> None:
        """Keep the representatives of each segment, chosen in every layer from its own keys."""
        thoughts = {segment.start: segment.thought for segment in self.timeline.segments}
        stores = [store for store in self.layers if store is not None]
        for shrink in shrinks:
            pools = [store.pool(thoughts[shrink.start]) for store in stores]
            slots = [pool.slots_of(shrink.start) for pool in pools]
            keys = torch.stack(
                [
                    pool.keys(where).transpose(0, 1).flatten(1)
                    for pool, where in zip(pools, slots, strict=True)
                ]
            )
            kept = representatives(keys, shrink.tokens, self.settings.iterations)
            for pool, where, keep in zip(pools, slots, kept, strict=True):
                gone = torch.ones(len(where), dtype=torch.bool, device=where.device)
                gone[keep] = False
                pool.evict(where[gone])
            self.evicted += keys.shape[1] - shrink.tokens


@contextlib.contextmanager
def _named(layer: int) -> Iterator[None]:
    """An error in there says which layer it concerns."""
    try:
        yield
    except ComponentError as error:
        raise ComponentError(f"thinkv, layer {layer}: {error}") from error
