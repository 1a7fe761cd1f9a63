"""Memory honesty: the process grows as the cache says it does while 8k tokens go by.

A model of SmolLM2's shapes with random weights reads 8,192 random tokens in pieces of 16 through
each cache. The resident memory of the process (after a garbage collection) and the cache's reported
bytes are sampled; the slope of one over the other should be 1 where the cache grows, and the walk
over every reachable tensor storage at the end should give the reported bytes within 2 %. `python
benchmarks/memory.py [--layers 30] [--tokens 8192]`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import table
from transformers import LlamaConfig, LlamaForCausalLM

from crosslayer.models.presets import preset_config
from thinkv.baselines import BaselineSettings, EvictingRow
from thinkv.cache import MethodCache, attached
from thinkv.layout import formats_of
from thinkv.row import Settings, ThinKVRow
from thinkv.thoughts import Rules


def resident() -> int:
    """Bytes of this process that are in memory, what the allocator keeps spare given back."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def walked(root: Any) -> int:
    """Bytes of the torch storages that can be reached from an object."""
    storages: dict[int, int] = {}
    waiting, seen = [root], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | torch.nn.Module) or callable(one):
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        else:
            waiting.extend(gc.get_referents(one))
    return sum(storages.values())


def main() -> None:
    """Run each cache and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=8192)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    config = LlamaConfig(**{**preset_config("smollm2-135m"), "num_hidden_layers": asked.layers})
    # A small vocabulary: the logits of a piece would otherwise be most of the traffic.
    config.vocab_size = 512
    torch.manual_seed(0)
    module = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 512, (1, asked.tokens))
    packed = formats_of("R4E4T2")
    caches = {
        "full, fp16": lambda n: EvictingRow(BaselineSettings(), n),
        "thinkv, no budget": lambda n: ThinKVRow(
            Settings(packed, Rules(budget_tokens=None), prompt_tokens=0), n
        ),
        "thinkv, budget 1024": lambda n: ThinKVRow(
            Settings(packed, Rules(budget_tokens=1024), prompt_tokens=0), n
        ),
    }
    rows = []
    for name, make in caches.items():
        cache = MethodCache(config, make)
        reported, measured = [], []
        with attached(module), torch.inference_mode():
            for start in range(0, asked.tokens, 16):
                module(input_ids=ids[:, start : start + 16], past_key_values=cache)
                if start % 512 == 496:
                    cache.settle()
                    reported.append(sum(cache.bytes().values()))
                    measured.append(resident())
        slope = np.polyfit(reported, measured, 1)[0]
        held = sum(cache.bytes().values())
        rows.append(
            [
                name,
                f"{held / 1e6:.1f}",
                f"{walked(cache) / held:.4f}",
                f"{(reported[-1] - reported[0]) / 1e6:.1f}",
                f"{(measured[-1] - measured[0]) / 1e6:.1f}",
                f"{slope:.2f}",
            ]
        )
        print(rows[-1], flush=True)
        del cache
        resident()
    head = [
        "cache",
        "reported MB",
        "walk / reported",
        "reported growth, MB",
        "process growth, MB",
        "slope",
    ]
    print(f"{asked.layers} layers of SmolLM2's shape, random weights, {asked.tokens} tokens")
    print(table(head, rows))


if __name__ == "__main__":
    main()
