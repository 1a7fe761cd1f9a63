"""Mechanics of eviction, simulated: calls, bytes moved, fragmentation, the largest batch.

Shapes of Llama-3.1-8B, 32,768 generated tokens after a prompt of 128, R4E4T2, timelines of thoughts
with 10 to 30 % transitions drawn by seed. Gathering is counted twice: by ThinKV's own evictions if
they had to close their gaps, and by an evictor at the same budget that compacts every 128 tokens
(R-KV's buffer). The paper's figures stand beside ours as published. `python
benchmarks/mechanics.py [--seeds 5]` takes 15 s of CPU.
"""

from __future__ import annotations

import argparse

import numpy as np
from results import shown, table

from crosslayer.contracts.model import ModelSpec
from crosslayer.models.presets import preset_config
from thinkv.params import ThinKVParams
from thinkv.serving import simulate_serving

TOKENS, PROMPT, MEMORY = 32768, 128, 60e9


def timeline(seed: int, transitions: float) -> str:
    """Types of 256 segments."""
    rng = np.random.default_rng(seed)
    weights = [transitions, (1 - transitions) / 2, (1 - transitions) / 2]
    return "".join(rng.choice(list("TER"), 256, p=weights))


def main() -> None:
    """Simulate every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    spec = ModelSpec.from_hf_config(preset_config("llama-3.1-8b"), name="llama-3.1-8b")
    kv_token = spec.kv_bytes(0, 1)
    rows, ratios = [], []
    for budget in (1024, 2048):
        for transitions in (0.1, 0.2, 0.3):
            params = ThinKVParams(budget_tokens=budget)
            found = [
                simulate_serving(
                    spec, params, timeline(seed, transitions), TOKENS, PROMPT, MEMORY, seed
                )
                for seed in seeds
            ]
            # R-KV in 16 bits: once over this budget it rewrites all that it keeps every 128 tokens.
            gathered = budget * kv_token * (TOKENS - budget) / 128
            rows.append(
                [
                    f"{budget}",
                    f"{transitions:.0%}",
                    shown([100 * f["eviction_calls_per_token"] for f in found], 2),
                    "0",
                    shown([f["gathered_bytes"] / 1e9 for f in found], 2),
                    f"{gathered / 1e9:.1f}",
                    shown([100 * f["share_of_full"] for f in found], 2),
                    shown([100 * f["slots_dead"] / f["slots_allocated"] for f in found], 1),
                    shown([f["batch"] for f in found], 0),
                    f"{found[0]['batch_full']}",
                ]
            )
            print(rows[-1], flush=True)
            # An evictor that makes room for one token at a time is called at every step over k.
            every = (TOKENS - budget) / TOKENS
            ratios.append(
                [
                    f"{budget}",
                    f"{transitions:.0%}",
                    shown([every / f["eviction_calls_per_token"] for f in found], 1),
                    shown([gathered / f["gathered_bytes"] for f in found], 1),
                    shown([f["gathered_bytes_per_token"] / kv_token for f in found], 1),
                    shown([f["full_bytes"] / f["bytes"] for f in found], 1),
                    shown([f["batch"] / f["batch_full"] for f in found], 1),
                ]
            )
    ratios += [
        ["published, table 5", "", f"{82.93 / 4.59:.1f}", "", "", "", ""],
        ["1024, published, table 2", "", "", "", "", f"{100 / 2.51:.1f}", ""],
        ["2048, published, table 3", "", "", "", "", "", f"{290 / 13:.1f}"],
    ]
    head = [
        "k",
        "T segments",
        "evictions, % of steps",
        "moved by CT, GB",
        "its evictions gathered, GB",
        "compaction every 128 tokens, GB",
        "bytes, % of full",
        "dead slots, %",
        "batch",
        "batch of full",
    ]
    print(f"modelled; {TOKENS} tokens, {MEMORY / 1e9:.0f} GB for caches, {len(seeds)} seeds")
    print(table(head, rows))
    head = [
        "k",
        "T segments",
        "steps that evict: one token at a time / thinkv",
        "moved: compaction / thinkv's evictions gathered",
        "gathered for a token / its own bytes",
        "bytes: full / thinkv",
        "batch: thinkv / full",
    ]
    print("ratios; modelled, and in the last three rows published (arXiv 2510.01290)")
    print(table(head, ratios))


if __name__ == "__main__":
    main()
