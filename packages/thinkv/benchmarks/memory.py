"""Memory honesty: the process grows as the cache says it does while 8k tokens are generated.

A model of SmolLM2's shape with random weights writes 8,192 tokens, greedily, through `generate`,
or reads as many random ones in pieces of 16 (`--read`, which is quicker). Resident memory of the
process (after a garbage collection) and the cache's reported bytes are sampled every 128 tokens;
both are fitted by a line over the tokens, and one over the other should give a slope of 1 where the
cache grows. At the end a walk over every reachable tensor storage should give the reported bytes
within 2 %. Each cache runs in a process of its own and is kept as a cell; `python
benchmarks/memory.py --caches thinkv-1024` takes 20 minutes of CPU or more, the others longer.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import Results, table
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from crosslayer.models.presets import preset_config
from crosslayer.places import cache_dir
from thinkv.baselines import BaselineSettings, EvictingRow
from thinkv.cache import MethodCache, attached
from thinkv.layout import formats_of
from thinkv.row import Settings, ThinKVRow
from thinkv.thoughts import Rules

CACHES = ("full", "thinkv", "thinkv-1024")  # fp16; R4E4T2 without and with a budget
PROMPT, EVERY = 16, 128


def row_of(name: str, layers: int) -> Any:
    """The row of a cache by its name; one type of thought, nothing but the first pass is prompt."""
    if name == "full":
        return EvictingRow(BaselineSettings(), layers)
    budget = int(name.split("-")[1]) if "-" in name else None
    rules = Rules(budget_tokens=budget)
    return ThinKVRow(Settings(formats_of("R4E4T2"), rules, prompt_tokens=PROMPT), layers)


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


class Samples(StoppingCriteria):
    """Looks at process and cache every so many tokens; never stops anything."""

    def __init__(self, cache: MethodCache) -> None:
        self.cache = cache
        self.tokens: list[int] = []
        self.reported: list[int] = []
        self.process: list[int] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        if self.cache.logical % EVERY == 0:
            self.take()
        return torch.zeros(len(input_ids), dtype=torch.bool)

    def take(self) -> None:
        """One sample."""
        self.cache.settle()
        self.tokens.append(self.cache.logical)
        self.reported.append(sum(self.cache.bytes().values()))
        self.process.append(resident())
        if self.cache.logical % 1024 == 0:
            print(self.tokens[-1], self.reported[-1], self.process[-1], flush=True)


def grow(name: str, layers: int, tokens: int, read: bool) -> dict[str, Any]:
    """One cache from a prompt of 16 to so many tokens: the samples, and the walk at the end."""
    torch.set_num_threads(1)
    config = LlamaConfig(**{**preset_config("smollm2-135m"), "num_hidden_layers": layers})
    config.vocab_size = 512  # the tokens mean nothing; a large LM head would only take time
    config.max_position_embeddings = tokens
    torch.manual_seed(0)
    module = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 512, (1, tokens))
    cache = MethodCache(config, lambda n: row_of(name, n))
    samples = Samples(cache)
    with attached(module), torch.inference_mode():
        if read:
            for start in range(0, tokens, PROMPT):
                module(input_ids=ids[:, start : start + PROMPT], past_key_values=cache)
                samples(ids[:, :1], None)
        else:
            module.generate(
                ids[:, :PROMPT],
                past_key_values=cache,
                max_new_tokens=tokens - PROMPT + 1,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([samples]),
            )
    held = sum(cache.bytes().values())
    return {
        "tokens": samples.tokens,
        "reported": samples.reported,
        "process": samples.process,
        "held": held,
        "walked": walked(cache),
    }


def main() -> None:
    """Run each cache and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--caches", nargs="+", choices=CACHES, default=CACHES)
    parser.add_argument("--read", action="store_true", help="read tokens instead of writing them")
    parser.add_argument("--folder", type=Path, default=cache_dir("thinkv", "benchmarks"))
    asked = parser.parse_args()
    how = "read" if asked.read else "generated"
    results = Results(asked.folder / "memory.jsonl")
    rows = []
    for name in asked.caches:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            found = results.cell(
                (name, asked.layers, asked.tokens, how),
                lambda name=name, alone=alone: alone.submit(
                    grow, name, asked.layers, asked.tokens, asked.read
                ).result(),
            )
        tokens, reported, process = (found[x] for x in ("tokens", "reported", "process"))
        rows.append(
            [
                name,
                how,
                f"{found['held'] / 1e6:.2f}",
                f"{found['walked'] / found['held']:.4f}",
                f"{(reported[-1] - reported[0]) / 1e6:.2f}",
                f"{(process[-1] - process[0]) / 1e6:.2f}",
                f"{np.polyfit(tokens, reported, 1)[0]:.0f}",
                f"{np.polyfit(tokens, process, 1)[0]:.0f}",
                f"{np.polyfit(reported, process, 1)[0]:.2f}",
            ]
        )
    head = [
        "cache",
        "tokens",
        "reported MB",
        "walk / reported",
        "reported growth, MB",
        "process growth, MB",
        "reported bytes a token",
        "process bytes a token",
        "process over reported",
    ]
    print(f"{asked.layers} layers of SmolLM2's shape, random weights, {asked.tokens} tokens")
    print(table(head, rows))


if __name__ == "__main__":
    main()
