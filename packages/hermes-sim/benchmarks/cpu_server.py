"""A real server on this CPU, measured and predicted: fit on one load, predict another.

`python benchmarks/cpu_server.py [--requests 100]` serves a random-weight Llama in torch, batched by
iterations (prompts alone, then decodes together; one cache a call, padded for the batch), fits a
step model to the steps of the first load, simulates the second, and prints errors beside measured
values; it draws both distributions to cases/figures/cpu-server.svg. The server's time is the CPU
time of its one thread, and waiting for the next arrival takes none. Both loads are served side by
side, so that a machine that is busier for a while is so for both. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
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


class Served:
    """One load on the server. steps: a row of `COLUMNS` a step. first, last: tokens of each
    request, in CPU seconds of this thread from its arrival.
    """

    def __init__(self, trace: RequestTrace) -> None:
        self.trace = trace
        self.steps: list[tuple[float, ...]] = []
        self.made = 0
        self.first, self.last = np.zeros(len(trace)), np.zeros(len(trace))
        self.arrival = trace.arrival_ns / 1e9


class Server:
    """The model, and how it is served."""

    def __init__(self) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.torch = torch
        self.model = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()

    def serve(self, load: Served) -> Iterator[int]:
        """Serve a load; pauses after every step, and says how many tokens it has made."""
        trace, count = load.trace, len(load.trace)
        waiting, running, following = [], [], 0
        now = 0.0
        while following < count or waiting or running:
            while following < count and load.arrival[following] <= now:
                row = following
                waiting.append(
                    Running(row, int(trace.prompt_tokens[row]), int(trace.output_tokens[row]))
                )
                following += 1
            joined: list[Running] = []
            begin = time.thread_time()
            if waiting and len(running) < RULES.max_calls:
                while waiting and len(running) + len(joined) < RULES.max_calls:
                    joined.append(waiting.pop(0))
                for call in joined:
                    self.prefill(call)
                took = time.thread_time() - begin
                tokens = sum(call.prompt for call in joined)
                pairs = sum(call.prompt * (call.prompt + 1) // 2 for call in joined)
                load.steps.append((len(joined), tokens, pairs, 0, 0, took))
                running += joined
                for call in joined:
                    load.first[call.row] = now + took - load.arrival[call.row]
            elif running:
                context = sum(call.prompt + call.made for call in running)
                self.decode(running)
                took = time.thread_time() - begin
                load.steps.append((0, 0, 0, len(running), context, took))
            else:
                now = float(load.arrival[following])
                continue
            now += took
            for call in running:
                if call.made == call.output:
                    load.last[call.row] = now - load.arrival[call.row]
            load.made += len(joined) if joined else len(running)
            running = [call for call in running if call.made < call.output]
            yield load.made

    def in_turns(self, *loads: Served) -> None:
        """All of them side by side: the next step is of the load that is least far, so that all
        begin and end together and see the same machine.
        """
        total = [int(load.trace.output_tokens.sum()) for load in loads]
        with self.torch.no_grad():
            open_ = {i: self.serve(load) for i, load in enumerate(loads)}
            while open_:
                least = min(open_, key=lambda i: loads[i].made / total[i])
                if next(open_[least], None) is None:
                    del open_[least]

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
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--fit-rate", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=8.0)
    asked = parser.parse_args()
    server = Server()
    server.in_turns(Served(load(6, 20.0, 9)))  # warm up
    seen = Served(load(asked.requests, asked.fit_rate, 0))
    trace = load(asked.requests, asked.rate, 1)
    other = Served(trace)
    server.in_turns(seen, other)
    model = fit(dict(zip(COLUMNS, np.array(seen.steps).T, strict=True)))
    print(
        f"fitted on {model.samples} steps at {asked.fit_rate:g}/s; held-out error {model.error:.1%}"
    )
    ttft, e2e = other.first, other.last
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
    figures = [
        Figure(
            name=name,
            title=f"A small Llama served on a CPU: {title}",
            x_label="seconds",
            panels=(
                Panel(
                    series=tuple(
                        Series(label=label, x=tuple(np.percentile(values, shares).tolist()),
                               y=tuple((shares / 100).tolist()))
                        for label, values in (("measured", real), ("simulated", made))
                    ),
                    y_label="share of requests",
                ),
            ),
            provenance="modelled",
            source="hermes on steps fitted at another load; measured: benchmarks/cpu_server.py",
        )
        for name, title, real, made in (
            ("ttft", "time to first token", ttft, calls.ttft_s),
            ("tpot", "time per output token", tpot, calls.tpot_s),
            ("e2e", "end to end", e2e, calls.e2e_s),
        )
    ]  # fmt: skip
    folder = Path(__file__).parent / "cases" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    write_svg(tuple(figures), folder / "cpu-server.svg")


if __name__ == "__main__":
    main()
