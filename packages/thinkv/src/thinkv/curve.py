"""The spec's view: a KV curve for each attention part, from the simulated store. Needs no torch.

The curve is what the allocator holds, which never shrinks, so it can be a monotone curve; live
tokens are a mean over a segment, because a budget makes them a sawtooth of one rung.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crosslayer.contracts.kv import KVCurve
from crosslayer.contracts.model import Attention, ModelSpec
from crosslayer.errors import InputError
from thinkv.layout import GROUP, Layout, formats_of
from thinkv.params import ThinKVParams
from thinkv.simulate import LayerSimulation, Trajectory
from thinkv.thoughts import Rules, Thought

LONGEST = 1 << 15  # generated tokens that are simulated; the curve goes on with its last slope
TOLERANCE = 0.004  # of the largest value, by which a knot may be left out


def rules_of(params: ThinKVParams) -> Rules:
    """The eviction rules of the parameters."""
    return Rules(
        segment_tokens=params.segment_tokens,
        schedule=params.schedule,
        budget_tokens=params.budget_tokens or None,
        trigger=params.trigger,
    )


def layout_of(params: ThinKVParams, part: Attention) -> Layout:
    """The store's layout for an attention part. InputError for a shape that it cannot serve."""
    if part.window is not None or not part.causal:
        raise InputError(
            f"{part.name} is {'windowed' if part.window else 'not causal'}; thinkv needs causal "
            "attention over everything"
        )
    if part.head_dim % GROUP or part.values != part.head_dim:
        raise InputError(
            f"{part.name} has heads of {part.head_dim} and {part.values} channels; thinkv needs "
            "equal ones that split into groups of 16"
        )
    return Layout(
        part.kv_heads,
        part.head_dim,
        formats_of(params.bits),
        params.block_tokens,
        params.buffer_format,
    )


def labels_from_shares(shares: tuple[float, float, float] | None) -> tuple[Thought, ...]:
    """A periodic timeline with these shares of T, E, R, interleaved; None: R alone.

    For each segment in turn the type that is furthest behind its share.
    """
    if shares is None:
        return (Thought.REASONING,)
    counts = np.zeros(len(shares))
    found = []
    for i in range(1, 129):
        chosen = int(np.argmax(np.asarray(shares) * i - counts))
        counts[chosen] += 1
        found.append(Thought(chosen))
    return tuple(found)


def kv_curve(
    params: ThinKVParams, part: Attention, labels: Sequence[Thought], longest: int = LONGEST
) -> KVCurve:
    """What one layer holds over prompt and generated tokens, buffer included at half full."""
    layout = layout_of(params, part)
    rules = rules_of(params)
    prompt = LayerSimulation(layout, rules)
    prompt.prompt(16 * GROUP)
    trajectory = LayerSimulation(layout, rules).generate(labels, longest)
    buffer = layout.buffer_token_bytes * (GROUP - 1) / 2
    return KVCurve(
        prompt=((0.0, 0.0, 0.0), (16.0 * GROUP, 16.0 * GROUP, float(prompt.bytes))),
        generated=_knots(trajectory, params.segment_tokens // GROUP, buffer),
        policy=f"thinkv {params.bits}, budget {params.budget_tokens or 'none'}, "
        f"{len(set(labels))} types of thought",
    )


def with_curves(spec: ModelSpec, params: ThinKVParams, labels: Sequence[Thought]) -> ModelSpec:
    """The spec with a curve at each attention part. InputError for a model without attention."""
    curves: dict[Any, KVCurve] = {}

    def change(_: Any, part: Any) -> Any:
        if not isinstance(part, Attention):
            return part
        if part.kv_curve is not None:
            raise InputError(
                f"{part.name} already has the cache policy {part.kv_curve.policy!r}; a cache "
                "takes one"
            )
        key = (part.kv_heads, part.head_dim, part.values, part.window, part.causal)
        if key not in curves:
            curves[key] = kv_curve(params, part, labels)
        return part.replace(kv_curve=curves[key])

    changed = spec.map_parts(change)
    if not curves:
        raise InputError(f"{spec.name} has no attention, so no KV cache to compress")
    return changed


def _knots(
    trajectory: Trajectory, window: int, buffer: float
) -> tuple[tuple[float, float, float], ...]:
    x = np.array([0, *trajectory.generated], dtype=np.float64)
    alive = np.array([0, *trajectory.alive], dtype=np.float64)
    mean = np.convolve(np.pad(alive, (window - 1, 0), "edge"), np.ones(window) / window, "valid")
    early = np.arange(len(x)) * GROUP <= alive  # nothing evicted yet: no mean needed
    tokens = np.minimum(np.maximum.accumulate(np.where(early, alive, mean)), x)
    stored = np.maximum.accumulate(np.array([0, *trajectory.bytes_], dtype=np.float64))
    stored[1:] += buffer
    keep = sorted({0, 1, len(x) - 1} | _bends(x, tokens) | _bends(x, stored))
    return tuple((float(x[i]), float(tokens[i]), float(np.ceil(stored[i]))) for i in keep)


def _bends(x: Any, y: Any) -> set[int]:
    """Indices that a polyline through them needs to stay within TOLERANCE (Douglas-Peucker)."""
    allowed = TOLERANCE * max(1.0, float(y.max()))
    found: set[int] = set()
    waiting = [(0, len(x) - 1)]
    while waiting:
        a, b = waiting.pop()
        if b - a < 2:
            continue
        line = np.interp(x[a : b + 1], [x[a], x[b]], [y[a], y[b]])
        off = np.abs(y[a : b + 1] - line)
        worst = int(off.argmax())
        if off[worst] > allowed:
            found.add(a + worst)
            waiting += [(a, a + worst), (a + worst, b)]
    return found
