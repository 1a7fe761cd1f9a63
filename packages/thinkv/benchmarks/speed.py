"""Decode speed on this CPU: a step of SmolLM2-135M over a long cache, thinkv against the full one.

The caches are filled with random keys and values as if so many tokens had been generated (at 16k
the model is beyond its context, so only speed is looked at). Full is transformers' DynamicCache,
which joins new tokens to its tensors at each step, and once more without that copying; thinkv keeps
the budget, or everything in 4 bits. One process and one thread; methods alternate step by step, and
what is compared is CPU time, whose lowest value counts. `python benchmarks/speed.py
[--tokens 8192 16384] [--budget 1024] [--layers 30]`.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from results import table
from transformers import DynamicCache

from crosslayer.models.smollm2 import smollm2
from thinkv.cache import MethodCache, attached
from thinkv.layout import formats_of
from thinkv.row import LayerStore, Settings, ThinKVRow
from thinkv.thoughts import Rules, Thought


class Preallocated(DynamicCache):
    """The full cache without the copying: new tokens are written into room kept at the end."""

    def __init__(self, keys: Any, room: int) -> None:
        super().__init__()
        self.full = [(k.clone(), v.clone()) for k, v in keys]
        self.length = keys[0][0].shape[2] - room

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def update(self, k: Any, v: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        keys, values = self.full[layer_idx]
        end = self.length + k.shape[2]
        keys[:, :, self.length : end], values[:, :, self.length : end] = k, v
        if layer_idx == len(self.full) - 1:
            self.length = end
        return keys[:, :, :end], values[:, :, :end]


def filled(module: Any, tokens: int, budget: int | None, layers: int) -> MethodCache:
    """A thinkv cache after so many tokens, its stores filled with what the budget leaves."""
    config = module.config
    settings = Settings(formats_of("R4E4T2"), Rules(budget_tokens=budget), prompt_tokens=0)
    cache = MethodCache(config, lambda n: ThinKVRow(settings, n))
    row = ThinKVRow(settings, layers)
    for _ in range(tokens // 16):  # the ladder decides how many tokens each segment has left
        if row.timeline.room == 0:
            row.timeline.open(Thought.REASONING)
        row.timeline.add(16)
        row.timeline.fit()
    for layer in range(layers):
        store = LayerStore(
            settings, config.num_key_value_heads, config.head_dim, torch.device("cpu")
        )
        for segment in row.timeline.segments:
            k, v = torch.randn(2, config.num_key_value_heads, segment.alive, config.head_dim)
            positions = torch.arange(segment.start, segment.start + segment.alive)
            store.pool(Thought.REASONING).write(k, v, Thought.REASONING, positions, segment.start)
        row.layers[layer] = store
    row.seen = cache.logical = tokens
    cache.rows = [row]
    return cache


def step(module: Any, cache: Any, at: int) -> float:
    """CPU seconds of one decoding step."""
    ids = torch.tensor([[1 + at % 1000]])
    start = time.process_time()
    module(input_ids=ids, past_key_values=cache, position_ids=torch.tensor([[at]]), use_cache=True)
    return time.process_time() - start


def main() -> None:
    """Time every method at every length and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 16384])
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    module = smollm2().live.module
    module.config.num_hidden_layers = asked.layers
    module.model.layers = module.model.layers[: asked.layers]
    rows = []
    for tokens in asked.tokens:
        shape = (1, module.config.num_key_value_heads, tokens, module.config.head_dim)
        keys = [(torch.randn(shape), torch.randn(shape)) for _ in range(asked.layers)]
        full = DynamicCache()
        for i, (k, v) in enumerate(keys):
            full.update(k, v, i)
        room = [
            (
                torch.nn.functional.pad(k, (0, 0, 0, asked.steps + 1)),
                torch.nn.functional.pad(v, (0, 0, 0, asked.steps + 1)),
            )
            for k, v in keys
        ]
        caches = {
            "full, DynamicCache": full,
            "full, written in place": Preallocated(room, asked.steps + 1),
            f"thinkv, budget {asked.budget}": filled(module, tokens, asked.budget, asked.layers),
            "thinkv, no budget (4 bits)": filled(module, tokens, None, asked.layers),
        }
        times: dict[str, list[float]] = {name: [] for name in caches}
        with attached(module), torch.inference_mode():
            for i in range(asked.steps + 1):
                for name, cache in caches.items():
                    took = step(module, cache, tokens + i)
                    if i:  # the first step warms up
                        times[name].append(took)
        base = min(times["full, DynamicCache"])
        place = min(times["full, written in place"])
        for name, cache in caches.items():
            best = min(times[name])
            size = (
                sum(cache.bytes().values())
                if isinstance(cache, MethodCache)
                else asked.layers * 2 * 4 * tokens * shape[1] * shape[3]
            )
            rows.append(
                [
                    str(tokens),
                    name,
                    f"{size / 1e6:.0f}",
                    f"{1000 * best:.0f}",
                    f"{base / best:.2f}",
                    f"{place / best:.2f}",
                ]
            )
            print(rows[-1], flush=True)
        del caches, full, keys, room
    head = [
        "tokens",
        "cache",
        "MB held",
        "CPU ms a step",
        "speed-up on DynamicCache",
        "speed-up on in place",
    ]
    print(f"SmolLM2-135M, {asked.layers} layers, float32, one thread, {asked.steps} steps each")
    print(table(head, rows))


if __name__ == "__main__":
    main()
