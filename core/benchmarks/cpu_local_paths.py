"""What `cpu-local` predicts beside what the same steps take here, for everything that is no plain
fp32 Llama: a Mamba, a mixture of experts, bf16, convolutions, and models written in NumPy.

All weights are random. The calibrations are measured anew, before the models; one thread is timed
in CPU seconds. With `--write` the numbers go into the README beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cpu_local import clock_for
from readme import markdown_table, write_section

from crosslayer.accelerators import cpu_calibration
from crosslayer.accelerators.cpu_local import CpuLocal
from crosslayer.accelerators.cpu_measure import measure
from crosslayer.accelerators.cpu_params import CpuLocalParams
from crosslayer.contracts import ops
from crosslayer.contracts.lowering import lower
from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.steps import StepShape
from crosslayer.evaluators_params import StepTimeParams
from crosslayer.kinds import Instance, ModelArtifact, RunContext, Stack
from crosslayer.machine import allowed_cores, limit_threads
from crosslayer.models.random_model import random_model
from crosslayer.progress import progress_for
from crosslayer.step_time import StepTime

REPEATS, OUTPUT, PROMPTS = 7, 8, (32, 256)
LLAMA = {
    "model_type": "llama", "vocab_size": 8192, "hidden_size": 1024, "intermediate_size": 2816,
    "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}  # fmt: skip
MAMBA = {
    "model_type": "mamba", "vocab_size": 8192, "hidden_size": 768, "state_size": 16,
    "num_hidden_layers": 4, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": 256,
}  # fmt: skip
MOE = {
    "model_type": "mixtral", "vocab_size": 8192, "hidden_size": 768, "intermediate_size": 1536,
    "num_hidden_layers": 4, "num_attention_heads": 12, "num_key_value_heads": 4,
    "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 1024,
}  # fmt: skip
Row = list[str]


def row(what: str, best: float, predicted: float) -> Row:
    """Times in ms and the error."""
    return [what, f"{1e3 * best:.2f}", f"{1e3 * predicted:.2f}", f"{predicted / best - 1:+.0%}"]


def live(what: str, model: ModelArtifact, cpu: CpuLocal, context: RunContext) -> Iterator[Row]:
    """A live model's prefill and decode."""
    stack = Stack((Instance(model.spec.name, model, cpu),))
    for prompt in PROMPTS:
        timing = StepTime(
            StepTimeParams(prompt_tokens=prompt, output_tokens=OUTPUT, repeats=REPEATS)
        )
        report = timing.compare(timing.evaluate(stack, context), stack)
        columns = [column.name for column in report.table("step_time").columns]
        for cells in report.table("step_time").rows:
            at = dict(zip(columns, cells, strict=True))
            step = f"{what}, {at['step']} {'of' if at['step'] == 'prefill' else 'at'} {prompt}"
            yield row(step, float(at["best"]), float(at["predicted"]))  # type: ignore[arg-type]


def in_bf16(model: ModelArtifact) -> ModelArtifact:
    """The model computing in bf16, as its spec says it is stored."""
    import torch

    assert model.live is not None
    model.live.module.to(torch.bfloat16)
    return model


def best_of(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Seconds of the best repeat after one that warms up."""
    times = []
    for _ in range(REPEATS + 1):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times[1:])


def convolutions(cpu: CpuLocal, clock: Callable[[], float]) -> Iterator[Row]:
    """Layers on a square picture, one at a time and as a stack."""
    import torch

    layers, priced = [], []
    stack, size = torch.ones(1, 32, 56, 56), 56
    for name, inputs, outputs, kernel in (
        ("3 x 3, 32 to 64 channels", 32, 64, 3),
        ("pointwise, 64 to 128 channels", 64, 128, 1),
        ("3 x 3, 128 to 128 channels", 128, 128, 3),
    ):
        layer = torch.nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        x = torch.ones(1, inputs, size, size)
        op = ops.Conv2d(
            positions=size * size, inputs=size * size, in_channels=inputs, out_channels=outputs,
            kernel_h=kernel, kernel_w=kernel,
        )  # fmt: skip
        layers += [layer, torch.nn.SiLU()]
        activation = ops.Elementwise(elements=size * size * outputs, kind="silu")
        priced += [op, activation]
        with torch.inference_mode():
            best = best_of(lambda layer=layer, x=x: [layer(x) for _ in range(10)], clock)
        yield row(f"convolution {name}", best / 10, cpu.estimate(op).seconds)
    whole = torch.nn.Sequential(*layers).eval()
    with torch.inference_mode():
        best = best_of(lambda: whole(stack), clock)
    predicted = sum(cpu.estimate(op).seconds for op in priced)
    yield row("these with their activations", best, predicted)


def numpy_llama(cpu: CpuLocal, clock: Callable[[], float]) -> Iterator[Row]:
    """A Llama of LLAMA's shape in NumPy: prefill, and a decode step that appends to its cache."""
    spec = ModelSpec.from_hf_config({**LLAMA, "dtype": "float32"}, name="numpy-llama")
    model = NumpyLlama()
    for prompt in PROMPTS:
        cache: list[Any] = []

        def prefill(prompt: int = prompt, cache: list[Any] = cache) -> None:
            cache[:] = model.step(np.arange(prompt) % 8192, [])[1]

        steps = (
            (f"prefill of {prompt}", prefill, (prompt, 0, 0)),
            (f"decode at {prompt}", lambda cache=cache: model.step(np.ones(1, int), cache),
             (1, prompt, 0)),
        )  # fmt: skip
        for name, call, (new, cached, generated) in steps:
            best = best_of(call, clock)
            shape = StepShape.from_sequences(spec, [(new, cached, generated)])
            predicted = lower(spec, shape).total(lambda op: cpu.estimate(op).seconds)
            yield row(f"NumPy Llama, {name}", best, predicted)


class NumpyLlama:
    """As plainly as NumPy allows: random weights, one sequence, logits of the last token."""

    def __init__(self) -> None:
        hidden, inter = LLAMA["hidden_size"], LLAMA["intermediate_size"]
        assert isinstance(hidden, int) and isinstance(inter, int)
        self.heads, self.kv, self.head = 16, 4, 64
        rng = np.random.default_rng(0)

        def weight(rows: int, columns: int) -> Any:
            return rng.standard_normal((rows, columns), np.float32) / 32

        q, kv = self.heads * self.head, self.kv * self.head
        shapes = ((q, hidden), (kv, hidden), (kv, hidden), (hidden, q))
        mlp = ((inter, hidden), (inter, hidden), (hidden, inter))
        self.layers = [[weight(*shape) for shape in (*shapes, *mlp)] for _ in range(4)]
        self.table, self.head_weight = weight(8192, hidden), weight(8192, hidden)
        self.scale = np.ones(hidden, np.float32)

    def norm(self, x: Any) -> Any:
        return self.scale * (x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6))

    def rope(self, x: Any, cos: Any, sin: Any) -> Any:
        half = self.head // 2
        return x * cos + np.concatenate((-x[..., half:], x[..., :half]), -1) * sin

    def step(self, ids: Any, cache: list[Any]) -> tuple[Any, list[Any]]:
        """(logits [vocabulary], K and V of each layer with the new tokens)."""
        start, new = (cache[0][0].shape[1] if cache else 0), len(ids)
        angle = np.arange(start, start + new)[:, None] / 10000 ** (
            np.arange(self.head) % (self.head // 2) / (self.head // 2)
        )
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        hidden = np.triu(np.full((new, new), -1e9, np.float32), 1) if new > 1 else None
        x, kept = self.table[ids], []
        for i, (wq, wk, wv, wo, gate, up, down) in enumerate(self.layers):
            y = self.norm(x)
            q = (y @ wq.T).reshape(new, self.heads, self.head).swapaxes(0, 1)
            k, v = ((y @ w.T).reshape(new, self.kv, self.head).swapaxes(0, 1) for w in (wk, wv))
            q, k = self.rope(q, cos, sin), self.rope(k, cos, sin)
            if cache:
                k, v = (np.concatenate(pair, 1) for pair in zip(cache[i], (k, v), strict=True))
            kept.append((k, v))
            q = q.reshape(self.kv, -1, new, self.head)
            scores = q @ k[:, None].swapaxes(-1, -2) / 8
            if hidden is not None:
                scores = scores + hidden
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            out = shares / shares.sum(-1, keepdims=True) @ v[:, None]
            out = out.reshape(self.heads, new, self.head).swapaxes(0, 1).reshape(new, -1)
            x = x + out @ wo.T
            y = self.norm(x)
            gated = y @ gate.T
            x = x + (gated / (1 + np.exp(-gated)) * (y @ up.T)) @ down.T
        return self.norm(x)[-1] @ self.head_weight.T, kept


def main() -> None:
    """Prints the table; with --write also into the README."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument(
        "--threads", type=int, default=allowed_cores(), help="all cores if not said"
    )
    arguments = parser.parse_args()
    load, threads, progress = os.getloadavg()[0], arguments.threads, progress_for()
    clock = clock_for(threads)
    limit_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        context = RunContext(0, Path(folder), progress, clock=clock, threads=threads)
        files, spread = {}, []
        for library in ("torch", "numpy"):
            files[library] = Path(folder, f"{library}.json")
            found = measure(threads, library=library, clock=clock)
            cpu_calibration.write(files[library], found)
            spread.append(f"{found.disagreement:.0%} ({library})")
        cpu = CpuLocal(CpuLocalParams(calibration_file=files["torch"]))
        stored = CpuLocal(CpuLocalParams(calibration_file=files["torch"], formats="stored"))
        in_numpy = CpuLocal(CpuLocalParams(calibration_file=files["numpy"]))
        rows = [
            *live("Llama in fp32", random_model(LLAMA), cpu, context),
            *live(
                'Llama in bf16, formats = "stored"', in_bf16(random_model(LLAMA)), stored, context
            ),
            *live("Mamba", random_model(MAMBA), cpu, context),
            *live("Mixtral, 2 of 8 experts", random_model(MOE), cpu, context),
            *convolutions(cpu, clock),
            *numpy_llama(in_numpy, clock),
        ]
    table = markdown_table(("step", "best", "predicted", "error"), rows)
    libraries = f"torch {version('torch')}, NumPy {np.__version__}"
    text = f"""
*measured* and *modelled* on {platform.machine()}, threads: {threads},
Python {platform.python_version()}, {libraries}: {"CPU" if threads == 1 else "wall-clock"} ms, the
best of {REPEATS} repeats. In the calibrations repeats differ by {" and ".join(spread)}.
Load average of the machine before: {load:.1f}.

{table}"""
    print(text)
    if arguments.write:
        write_section("cpu-local-paths", text)


if __name__ == "__main__":
    main()
