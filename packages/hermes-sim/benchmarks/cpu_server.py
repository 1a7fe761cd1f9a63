"""A real server on this CPU, measured and predicted: fit on one load, predict another.

`python benchmarks/cpu_server.py [--requests 150]` serves a random-weight Llama in torch, batched by
iterations (prompts alone, then decodes together; one cache a call, padded for the batch), fits a
step model to the steps of the first load, simulates the second, and prints errors beside measured
values; it draws both distributions to cases/figures/cpu-server.svg. The server's time is the CPU
time of its one thread, and waiting for the next arrival takes none, so that other work on the
machine does not count. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from crosslayer.contracts.report import Figure, Panel, Series
from crosslayer.contracts.requests import RequestTrace
from crosslayer.traces.drawing import write_svg
from hermes_sim.batching import Batching
from hermes_sim.replay import replay
from hermes_sim.step_models.fitted import COLUMNS, fit

CONFIG = {
    "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 3, "vocab_size": 2048, "max_position_embeddings": 2048,
}  # fmt: skip
RULES = Batching("continuous", max_calls=16, token_budget=1 << 20, alone=True)


@dataclass
class Running:
    """A call that is being served."""

    row: int
    prompt: int
    output: int
    keys: list = field(default_factory=list)  # a layer each: [kv heads, tokens, head]
    values: list = field(default_factory=list)
    made: int = 0


class Server:
    """The model, and what it did: a row of `COLUMNS` a step."""

    def __init__(self) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.torch = torch
        self.model = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()
        self.steps: list[tuple[float, ...]] = []

    def serve(self, trace: RequestTrace) -> tuple[np.ndarray, np.ndarray]:
        """First and last token of each request, in CPU seconds of this thread from its arrival."""
        count = len(trace)
        first, last = np.zeros(count), np.zeros(count)
        arrival = trace.arrival_ns / 1e9
        waiting, running, following = [], [], 0
        now = 0.0
        with self.torch.no_grad():
            while following < count or waiting or running:
                while following < count and arrival[following] <= now:
                    row = following
                    waiting.append(
                        Running(row, int(trace.prompt_tokens[row]), int(trace.output_tokens[row]))
                    )
                    following += 1
                if waiting and len(running) < RULES.max_calls:
                    joined = []
                    while waiting and len(running) + len(joined) < RULES.max_calls:
                        joined.append(waiting.pop(0))
                    begin = time.thread_time()
                    for call in joined:
                        self.prefill(call)
                    took = time.thread_time() - begin
                    now += took
                    tokens = sum(call.prompt for call in joined)
                    pairs = sum(call.prompt * (call.prompt + 1) // 2 for call in joined)
                    self.steps.append((len(joined), tokens, pairs, 0, 0, took))
                    for call in joined:
                        first[call.row] = last[call.row] = now
                    running += [call for call in joined if call.made < call.output]
                elif running:
                    context = sum(call.prompt + call.made for call in running)
                    begin = time.thread_time()
                    self.decode(running)
                    took = time.thread_time() - begin
                    now += took
                    self.steps.append((0, 0, 0, len(running), context, took))
                    for call in running:
                        if call.made == call.output:
                            last[call.row] = now
                    running = [call for call in running if call.made < call.output]
                elif following < count:
                    now = float(arrival[following])
        return first - arrival, last - arrival

    def prefill(self, call: Running) -> None:
        """One prompt alone."""
        from transformers import DynamicCache

        tokens = self.torch.randint(0, CONFIG["vocab_size"], (1, call.prompt))
        cache = DynamicCache()
        self.model(tokens, past_key_values=cache, logits_to_keep=1)
        for layer in cache.layers:
            call.keys.append(layer.keys[0])
            call.values.append(layer.values[0])
        call.made = 1

    def decode(self, calls: list[Running]) -> None:
        """A token for each call: caches are padded on the left to the longest."""
        from transformers import DynamicCache

        torch = self.torch
        lengths = [call.keys[0].shape[1] for call in calls]
        longest = max(lengths)
        cache = DynamicCache()
        for layer in range(CONFIG["num_hidden_layers"]):
            stacked = [
                torch.stack([
                    torch.nn.functional.pad(part[layer], (0, 0, longest - n, 0))
                    for part, n in zip(parts, lengths, strict=True)
                ])
                for parts in ([c.keys for c in calls], [c.values for c in calls])
            ]  # fmt: skip
            cache.update(*stacked, layer)
        mask = torch.zeros(len(calls), longest + 1, dtype=torch.long)
        for i, n in enumerate(lengths):
            mask[i, longest - n :] = 1
        self.model(
            torch.randint(0, CONFIG["vocab_size"], (len(calls), 1)), attention_mask=mask,
            position_ids=torch.tensor(lengths)[:, None], past_key_values=cache,
        )  # fmt: skip
        for i, call in enumerate(calls):
            for layer in range(CONFIG["num_hidden_layers"]):
                found = cache.layers[layer]
                start = longest - lengths[i]
                call.keys[layer] = found.keys[i, :, start:]
                call.values[layer] = found.values[i, :, start:]
            call.made += 1


def load(count: int, rate: float, seed: int) -> RequestTrace:
    """Poisson arrivals, prompts of 16 to 300 and outputs of 4 to 60 tokens."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(np.rint(rng.exponential(1e9 / rate, count)).astype(np.int64))
    return RequestTrace(arrival, rng.integers(16, 300, count), rng.integers(4, 60, count))


def main() -> None:
    """Measure, fit, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--fit-rate", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=8.0)
    asked = parser.parse_args()
    server = Server()
    server.serve(load(6, 20.0, 9))  # warm up
    server.steps.clear()
    server.serve(load(asked.requests, asked.fit_rate, 0))
    table = dict(zip(COLUMNS, np.array(server.steps).T, strict=True))
    model = fit(table)
    print(
        f"fitted on {model.samples} steps at {asked.fit_rate:g}/s; held-out error {model.error:.1%}"
    )
    trace = load(asked.requests, asked.rate, 1)
    ttft, e2e = server.serve(trace)
    calls = replay(trace, model, RULES).calls
    print(f"\nat {asked.rate:g}/s, {asked.requests} requests:\n")
    print("| | measured (s) | simulated (s) | error |\n|---|---|---|---|")
    tpot = (e2e - ttft) / (trace.output_tokens - 1)
    for name, real, made in (
        ("TTFT", ttft, calls.ttft_s), ("TPOT", tpot, calls.tpot_s), ("E2E", e2e, calls.e2e_s)
    ):  # fmt: skip
        for label, of in (("mean", np.mean), ("p90", lambda v: np.percentile(v, 90))):
            a, b = float(of(real)), float(of(made))
            print(f"| {name} {label} | {a:.4f} | {b:.4f} | {b / a - 1:+.1%} |")
    shares = np.arange(101)
    panels = []
    for name, real, made in (("TTFT", ttft, calls.ttft_s), ("end to end", e2e, calls.e2e_s)):
        panels.append(
            Panel(
                series=tuple(
                    Series(label=f"{name}, {label}", x=tuple(np.percentile(v, shares).tolist()),
                           y=tuple((shares / 100).tolist()))
                    for label, v in (("measured", real), ("simulated", made))
                ),
                y_label="share of requests",
            )
        )  # fmt: skip
    figure = Figure(
        name="cpu_server", title="A small Llama served on a CPU", x_label="seconds",
        panels=tuple(panels), provenance="measured", source="benchmarks/cpu_server.py",
    )  # fmt: skip
    folder = Path(__file__).parent / "cases" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    write_svg((figure,), folder / "cpu-server.svg")


if __name__ == "__main__":
    main()
