"""Decode attention of one layer on a GPU: the Triton kernel against dense and gather baselines.

Shapes of Llama-3.1-8B (32 query heads, 8 KV heads of 128), one sequence, random keys and values.
"dense" is PyTorch's SDPA over the whole context in fp16; "gather" copies the tokens that a budget
leaves out of a full fp16 cache, as eviction by compaction does, and attends to the copy; "copied
before" is that without the copy. The kernel reads the packed store where it lies: what the budget
leaves of a context after the ladder, or all of it in 4 bits. Outputs are compared with
`attention.reference` before anything is timed. Median of CUDA events; needs an NVIDIA GPU and
Triton: `python benchmarks/kernel_speed.py [--tokens 8192 32768] [--budget 1024]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from results import table

from thinkv.attention import Part, paged, reference
from thinkv.layout import cache_format
from thinkv.paged import Pool
from thinkv.thoughts import Rules, Thought, Timeline

HEADS, KV_HEADS, DIM, BLOCK = 32, 8, 128, 8


def packed(k: Any, v: Any, budget: int | None) -> tuple[Pool, Any]:
    """A 4-bit pool of one layer after so many tokens, and the positions [n] that are in it."""
    tokens = k.shape[1]
    timeline = Timeline(Rules(budget_tokens=budget))
    for _ in range(tokens // 16):
        if timeline.room == 0:
            timeline.open(Thought.REASONING)
        timeline.add(16)
        timeline.fit()
    pool = Pool(cache_format("nvfp4"), KV_HEADS, DIM, BLOCK, k.device)
    for one in timeline.segments:
        at = torch.arange(one.start, one.start + one.alive, device=k.device)
        pool.write(k[:, at].float(), v[:, at].float(), Thought.REASONING, at, one.start)
    return pool, pool.table.position[pool.table.live].long()


def sdpa(q: Any, k: Any, v: Any) -> Any:
    """PyTorch's attention of one query a head in the format of the cache."""
    one = torch.nn.functional.scaled_dot_product_attention(
        q[None].to(k.dtype), k[None], v[None], enable_gqa=True
    )
    return one[0]


def microseconds(run: Callable[[], Any], times: int) -> float:
    """Median GPU time of a call after a tenth as many to warm up."""
    for _ in range(max(3, times // 10)):
        run()
    found = []
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        found.append(1000 * start.elapsed_time(end))
    return sorted(found)[len(found) // 2]


def contenders(tokens: int, budget: int, device: Any) -> dict[str, tuple[Callable[[], Any], int]]:
    """What is timed at a context length, and the tokens that each attends to, checked."""
    from thinkv.kernel import decode_step

    torch.manual_seed(0)
    k, v = (x.half() for x in torch.randn(2, KV_HEADS, tokens, DIM, device=device))
    q = torch.randn(HEADS, 1, DIM, device=device)
    new = torch.randn(2, KV_HEADS, 1, DIM, device=device)
    scaling = DIM**-0.5
    kept, where = packed(k, v, budget)
    everything, _ = packed(k, v, None)
    copied = k[:, where], v[:, where]
    for pool in (kept, everything):
        parts = [Part(pool, pool.table.live)]
        found, exact = (
            attend(q, new[0], new[1], parts, scaling) for attend in (decode_step, reference)
        )
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)
    few, all_ = ([Part(pool, pool.table.live)] for pool in (kept, everything))
    return {
        "dense fp16": (lambda: sdpa(q, k, v), tokens),
        "gather fp16": (lambda: sdpa(q, k[:, where], v[:, where]), len(where)),
        "copied before, fp16": (lambda: sdpa(q, *copied), len(where)),
        "kernel, budget": (lambda: decode_step(q, new[0], new[1], few, scaling), len(where)),
        "kernel, 4 bits": (lambda: decode_step(q, new[0], new[1], all_, scaling), tokens),
        "PyTorch, budget": (lambda: paged(q, new[0], new[1], few, scaling), len(where)),
    }


def main() -> None:
    """Time every contender and print the table, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--times", type=int, default=200)
    asked = parser.parse_args()
    if not torch.cuda.is_available() or find_spec("triton") is None:
        print("kernel_speed.py: there is no CUDA GPU with Triton here, so nothing was timed.")
        return
    rows = []
    for tokens in asked.tokens:
        runs = contenders(tokens, asked.budget, torch.device("cuda"))
        times = {name: microseconds(run, asked.times) for name, (run, _) in runs.items()}
        for name, (_, attended) in runs.items():
            took = times[name]
            ratios = [f"{times[one] / took:.2f}" for one in ("dense fp16", "gather fp16")]
            rows.append([str(tokens), name, str(attended), f"{took:.1f}", *ratios])
            print(rows[-1], flush=True)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, one layer, one sequence")
    head = ["tokens", "attention", "attended", "us", "speed-up on dense", "speed-up on gather"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
