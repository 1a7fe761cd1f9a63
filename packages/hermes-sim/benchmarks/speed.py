"""Requests per CPU second: taking iterations together against one by one, and growth up to 10^6.

`python benchmarks/speed.py [--requests 5000] [--largest 1000000] [--data DIR]` prints the tables of
the README. Lengths are those of --data/azure-llm-2023 (prompt and output at most 4,096 together)
where it is given, else lognormal of the same means. Arrivals are Poisson. Metrics are on: every
call's columns are kept and summed up, and every step is on the tape.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from crosslayer.contracts.requests import RequestTrace
from crosslayer.traces import read_trace
from crosslayer.traces.lengths import empirical, independent
from hermes_sim.batching import batching
from hermes_sim.replay import Replayed, replay
from hermes_sim.step_models.protocol import Linear

# An 8B model on one large GPU, roughly: what matters here is the number of steps, not their times.
STEPS = Linear(fixed_s=9e-3, prompt_token_s=6e-5, pair_s=1e-9, decode_s=2e-5, context_token_s=5e-8)


def trace_of(count: int, rate: float, data: Path | None, seed: int) -> RequestTrace:
    """Poisson arrivals with the lengths of the Azure conversation trace."""
    rng = np.random.default_rng(seed)
    if data is None:
        lengths = independent(1100, 210, 1.0, 1.0)
    else:
        real = read_trace(data / "azure-llm-2023" / "AzureLLMInferenceTrace_conv.csv")
        keep = np.flatnonzero(real.prompt_tokens + real.output_tokens <= 4096)
        lengths = empirical(
            RequestTrace(real.arrival_ns[keep], real.prompt_tokens[keep], real.output_tokens[keep])
        )
    arrival = np.cumsum(np.rint(rng.exponential(1e9 / rate, count)).astype(np.int64))
    return RequestTrace(arrival, *lengths(count, rng))


def timed(trace: RequestTrace, run_ahead: bool, scheduler: str) -> tuple[Replayed, float]:
    """The run, and the CPU seconds that it took with its summary."""
    start = time.process_time()
    found = replay(
        trace, STEPS, batching(scheduler, 128, 512), kv_blocks=20_000, run_ahead=run_ahead,
        tape_rows=500_000,
    )  # fmt: skip
    for values in (found.calls.ttft_s, found.calls.tpot_s, found.calls.e2e_s):
        np.percentile(values, (50, 90, 99))
    return found, time.process_time() - start


def main() -> None:
    """Print both tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()

    print(
        "| rate (1/s) | scheduler | iterations | together (requests/CPU s) | one by one | ratio |"
    )
    print("|---|---|---|---|---|---|")
    for rate, scheduler in ((1.0, "chunked"), (3.0, "chunked"), (3.0, "vllm_v1")):
        speeds = []
        for seed in range(asked.seeds):
            trace = trace_of(asked.requests, rate, asked.data, seed)
            fast, fast_s = timed(trace, True, scheduler)
            slow, slow_s = timed(trace, False, scheduler)
            for name, column in fast.calls.columns.items():
                assert (column == slow.calls[name]).all(), name
            speeds.append((len(trace) / fast_s, len(trace) / slow_s, fast.tape.iterations))
        together, single, iterations = np.median(np.array(speeds), axis=0)
        print(
            f"| {rate:g} | {scheduler} | {iterations:,.0f} | {together:,.0f} | {single:,.0f}"
            f" | {together / single:.1f} |",
            flush=True,
        )

    print("\n| requests | CPU seconds | requests/CPU s | peak memory (MB) |")
    print("|---|---|---|---|")
    count = 10_000
    while count <= asked.largest:
        trace = trace_of(count, 3.0, asked.data, 0)
        _, seconds = timed(trace, True, "chunked")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {count:,} | {seconds:.1f} | {count / seconds:,.0f} | {peak:,.0f} |", flush=True)
        count *= 10


if __name__ == "__main__":
    main()
