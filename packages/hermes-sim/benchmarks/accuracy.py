"""The recorded vLLM run on an RTX 4090 replayed: errors, and what each of the engine's facts does.

`python benchmarks/accuracy.py --data DIR` with DIR/vllm-rtx4090-llama31-8b: the run and, in
profile/, the kernel profile of the same card (casys-kaist/LLMServingSim, MIT).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from crosslayer.contracts.requests import RequestTrace
from hermes_sim.batching import batching
from hermes_sim.readers.engine_run import read_run
from hermes_sim.readers.kernel_bundle import Shape, read_kernel_bundle
from hermes_sim.replay import replay
from hermes_sim.validation import validate


def main() -> None:
    """Print both tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data / "vllm-rtx4090-llama31-8b"
    found = validate(folder, folder / "profile")
    print("| | recorded | simulated | error |\n|---|---|---|---|")
    for name in ("ttft", "tpot", "e2e"):
        for label in ("mean", "p50", "p90", "p99"):
            row = found.row(f"{name}_{label}_s")
            values = f"{row.recorded:.4g} s | {row.simulated:.4g} s | {row.error:+.1%}"
            print(f"| {name.upper()} {label} | {values} |")
    row = found.row("output_tokens_per_s")
    rates = f"{row.recorded:.0f} | {row.simulated:.0f} | {row.error:+.1%}"
    print(f"| output tokens per second | {rates} |")

    run = read_run(folder)
    steps = read_kernel_bundle(folder / "profile", Shape(layers=32))
    trace = RequestTrace(
        np.rint(run.arrival_s * 1e9).astype(np.int64), run.prompt_tokens, run.output_tokens
    )
    real = (
        float(np.mean(run.first_token_s - run.arrival_s)),
        float(np.mean(run.last_token_s - run.arrival_s)),
    )
    full = batching("vllm_v1", 256, 2048)
    print("\n| told to the simulator | TTFT mean | E2E mean | preemptions |\n|---|---|---|---|")
    for name, rules, blocks in (
        ("all of it", full, 2587),
        ("no prefix caching", replace(full, prefix_caching=False), 2587),
        ("prompts need not fit whole", replace(full, whole_prompt_fits=False), 2587),
        ("neither", replace(full, prefix_caching=False, whole_prompt_fits=False), 2587),
        ("10 % more KV blocks", full, 2846),
        ("10 % fewer KV blocks", full, 2328),
    ):
        made = replay(trace, steps, rules, kv_blocks=blocks)
        errors = made.calls.ttft_s.mean() / real[0] - 1, made.calls.e2e_s.mean() / real[1] - 1
        print(f"| {name} | {errors[0]:+.1%} | {errors[1]:+.1%} | {made.preemptions} |")


if __name__ == "__main__":
    main()
