"""The serving view: bytes alive over a context, slots reused, and the largest batch of a memory.

A trace of thoughts drives the simulated store. Everything here is modelled; the full cache and the
cache that evicts by gathering are counted by the same rules.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosslayer.contracts.kv import KVCurve
from crosslayer.contracts.model import Attention, ModelSpec
from crosslayer.errors import InputError
from thinkv.curve import kv_curve, layout_of, rules_of
from thinkv.layout import GROUP
from thinkv.params import ThinKVParams
from thinkv.simulate import LayerSimulation
from thinkv.thoughts import Thought


def thoughts_of(letters: str) -> tuple[Thought, ...]:
    """ "RERT" -> types. InputError for other letters and for none."""
    known = {thought.letter: thought for thought in Thought}
    if not letters or set(letters) - set(known):
        raise InputError(f"labels {letters!r}: write one of R, E, T for each segment, as in RERT")
    return tuple(known[letter] for letter in letters)


def serving_curve(spec: ModelSpec, params: ThinKVParams, letters: str) -> KVCurve:
    """What one layer of each sequence holds under a repeated timeline of thoughts."""
    return kv_curve(params, _attention(spec), thoughts_of(letters))


def simulate_serving(
    spec: ModelSpec,
    params: ThinKVParams,
    letters: str,
    tokens: int,
    prompt: int,
    memory_bytes: float,
    seed: int | None = None,
) -> dict[str, Any]:
    """One sequence's layer simulated and multiplied: see the keys. InputError for bad labels.

    gathered_bytes: what eviction that closes its gaps would have copied; the store copies none.
    moved per generated token counts all layers. batch: sequences whose caches fit the memory at
    the end of the context.
    """
    part = _attention(spec)
    layers = sum(1 for _ in spec.parts(Attention))
    labels = thoughts_of(letters)
    rng = None if seed is None else np.random.default_rng(seed)
    layer = LayerSimulation(layout_of(params, part), rules_of(params), rng)
    layer.prompt(prompt)
    counted = prompt if params.budget_counts_prompt else 0
    trajectory = layer.generate(labels, tokens, counted)
    buffer = layer.layout.buffer_token_bytes * (GROUP - 1)
    stored = layers * (layer.bytes + buffer)
    full = spec.kv_bytes(prompt, tokens)
    slots = sum(len(pool.live) for pool in layer.pools.values())
    return {
        "generated_tokens": layer.timeline.generated,
        "alive_tokens": layer.timeline.alive,
        "floor_tokens": layer.timeline.rules.floor(layer.timeline.generated),
        "bytes": stored,
        "peak_bytes": layers * (max(trajectory.bytes_) + buffer),
        "full_bytes": full,
        "share_of_full": stored / full,
        "payload_bytes": layers * layer.payload,
        "slots_allocated": slots,
        "slots_dead": layer.dead,
        "slots_reused_in_place": layer.reused,
        "evicted_tokens": layer.evicted,
        "eviction_calls_per_token": layer.timeline.calls / max(1, layer.timeline.generated),
        "moved_bytes": 0,
        "gathered_bytes": layers * layer.moved,
        "gathered_bytes_per_token": layers * layer.moved / max(1, layer.timeline.generated),
        "batch": int(memory_bytes // stored),
        "batch_full": int(memory_bytes // full),
    }


def _attention(spec: ModelSpec) -> Attention:
    for _, part in spec.parts(Attention):
        found: Attention = part
        return found
    raise InputError(f"{spec.name} has no attention, so no KV cache")
