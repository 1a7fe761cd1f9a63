"""A report like the quickstart's, for the tests of what is rendered. Its numbers are invented."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

from crosslayer.contracts.report import (
    Column,
    Figure,
    Metric,
    Panel,
    Report,
    Series,
    Table,
    WrittenFile,
)

MARKUP = "<script>alert(1)</script>&\"'"
TEXT = "wikipedia-sample, 2,048 tokens, smollm2-135m in fp32 on bf16 values"
ROOFLINE = "roofline:a100-80g, bf16, batch 1, 512 tokens cached"
BLOCKS = tuple(f"block {i}" for i in range(30))
KEPT = tuple(float(8 if i in (0, 29) else 5 if i < 4 else 3 + i % 2) for i in range(30))
DENSITY = tuple(kept / 8 for kept in KEPT)
ERROR = tuple(0.02 + 0.11 * (1 - d) + 0.01 * math.sin(i) for i, d in enumerate(DENSITY))

PIPELINE = """[pipeline]
name = "smollm2-135m pruned by flow"
seed = 0

[model]
use = "smollm2-135m"

[[transform]]
use = "flow"
sparsity = 0.5

[accelerator]
use = "roofline:a100-80g"

[evaluate]
perplexity = { text = "wikipedia-sample", tokens = 2048 }
"""

RUN_INFO: dict[str, object] = {
    "started": "2026-01-05T10:00:00Z",
    "took_s": 141.273,
    "threads": 2,
    "crosslayer": "0.1.0",
    "machine": {"processor": "x86-64, 2 cores", "memory_bytes": 16_777_216_000, "python": "3.11.2"},
    "steps": [
        {"name": "transform 1 flow", "cached": False, "took_s": 61.25},
        {"name": "evaluate perplexity", "cached": True, "took_s": 0.0041},
    ],
}


def metrics() -> tuple[Metric, ...]:
    """Before and after, quality, modelled time, one wall-clock time, one published number."""

    def perplexity(name: str, value: float) -> Metric:
        return Metric(
            name=name,
            value=value,
            unit="",
            provenance="measured",
            source=TEXT,
            better="lower",
            interval=(value * 0.94, value * 1.07),
            confidence=0.95,
            samples=2047,
        )

    def modelled(name: str, value: float, unit: str, source: str, note: str = "") -> Metric:
        return Metric(
            name=name,
            value=value,
            unit=unit,
            provenance="modelled",
            source=source,
            better="lower",
            note=note,
        )

    dense = "No sparse unit of this preset runs these patterns, so they run dense."
    return (
        perplexity("perplexity", 31.4071),
        perplexity("perplexity_original", 17.2043),
        modelled("weight_bytes", 184_320_512.0, "bytes", "packed values and indices of the spec"),
        modelled("weight_bytes_original", 269_030_016.0, "bytes", "bf16 values of the spec"),
        modelled("latency_per_token", 4.3712e-4, "s", ROOFLINE, dense),
        modelled("latency_per_token_original", 4.3712e-4, "s", ROOFLINE),
        Metric(
            name="next_token_agreement",
            value=0.7133,
            unit="share",
            provenance="measured",
            source=TEXT,
            better="higher",
            interval=(0.6931, 0.7325),
            confidence=0.95,
            samples=2047,
        ),
        modelled("prefill_latency", 0.00218, "s", "roofline:a100-80g, bf16, 512 tokens"),
        Metric(
            name="pruning_time",
            value=61.25,
            unit="s",
            provenance="measured",
            source="this machine, 2 threads",
            wall_clock=True,
        ),
        Metric(
            name="paper_perplexity",
            value=8.25,
            unit="",
            provenance="published",
            source="the paper, its table of another model",
            note="Of another and larger model: shown for its kind, not for comparison.",
        ),
    )


def block_figure() -> Figure:
    """Three panels over 30 blocks."""
    low, high = tuple(e * 0.9 for e in ERROR), tuple(e * 1.12 for e in ERROR)
    return Figure(
        name="blocks",
        title="What was kept of each block, and what it cost",
        x_label="block of the model, from input to output",
        panels=(
            Panel(
                series=(Series(label="kept", x=BLOCKS, y=KEPT),),
                y_label="weights kept of 8",
                kind="bars",
            ),
            Panel(
                series=(Series(label="density", x=BLOCKS, y=DENSITY),),
                y_label="density",
                kind="steps",
            ),
            Panel(
                series=(
                    Series(label="attention", x=BLOCKS, y=ERROR, low=low, high=high),
                    Series(label="feed-forward", x=BLOCKS, y=tuple(1.3 * e for e in ERROR)),
                ),
                y_label="relative output error on the calibration text",
                kind="points",
            ),
        ),
        provenance="measured",
        source="calibration text wikipedia-sample, 1,024 tokens",
        note="Error: norm of the difference of the block's output over the norm of the output.",
    )


def sweep_figure() -> Figure:
    """Two lines over numbers, both axes logarithmic."""
    x = tuple(float(2**i) for i in range(11))
    return Figure(
        name="batch",
        title="Modelled latency per token over the batch",
        x_label="sequences in the batch",
        x_scale="log",
        panels=(
            Panel(
                series=(
                    Series(label="original", x=x, y=tuple(4e-4 + 2e-6 * b for b in x)),
                    Series(label="flow at 50 %", x=x, y=tuple(3.1e-4 + 1.9e-6 * b for b in x)),
                ),
                y_label="seconds a step",
                y_scale="log",
            ),
        ),
        provenance="modelled",
        source=ROOFLINE,
    )


def tables() -> tuple[Table, ...]:
    """A table of blocks and a table of ops."""
    blocks = Table(
        name="blocks",
        title="Blocks",
        columns=(
            Column(name="block"),
            Column(name="pattern"),
            Column(name="density", provenance="measured"),
            Column(name="packed size", unit="bytes", provenance="modelled"),
            Column(name="output error", unit="", provenance="measured"),
            Column(name="protected"),
        ),
        rows=tuple(
            (i, f"{int(KEPT[i])}:8", DENSITY[i], 3_538_944 * 2 * DENSITY[i], ERROR[i], KEPT[i] == 8)
            for i in range(30)
        ),
        note="Patterns as kept:of. Packed size: values and indices.",
    )
    names = (
        "q_proj",
        "k_proj",
        "v_proj",
        "attention",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    ops = Table(
        name="ops",
        title="Ops of one decode step",
        columns=(
            Column(name="op"),
            Column(name="shape (m × k × n)"),
            Column(name="count"),
            Column(name="work", unit="FLOP", provenance="modelled"),
            Column(name="traffic", unit="bytes", provenance="modelled"),
            Column(name="time", unit="s", provenance="modelled"),
            Column(name="energy", unit="J", provenance="modelled"),
            Column(name="bound by"),
        ),
        rows=tuple(
            (
                f"model.layers.*.{name}",
                "1 × 576 × 576",
                30,
                2e7 + i * 3e6,
                1.1e7 + i * 9e5,
                3e-6 * (i + 1),
                None,
                "launch",
            )
            for i, name in enumerate(names)
        ),
    )
    return blocks, ops


def quickstart_report(title: str = "SmolLM2-135M pruned by flow at 50 %, on an A100") -> Report:
    """All of it."""
    return Report(
        title=title,
        metrics=metrics(),
        tables=tables(),
        figures=(block_figure(), sweep_figure()),
        files=(
            WrittenFile(
                name="weights",
                path="steps/flow/weights.safetensors",
                media_type="application/octet-stream",
                sha256="9f" * 32,
            ),
        ),
        notes=(
            "Calibration and evaluation use different articles.",
            "The roofline prices 2:4 as sparse and every other pattern as dense.",
        ),
    )


def bars(labels: tuple[str, ...], **more: object) -> Figure:
    """One panel of bars; `more` replaces fields."""
    series = Series(label="one", x=labels, y=tuple(float(i + 1) for i in range(len(labels))))
    panel = Panel(series=(series,), y_label="height", kind="bars")
    fields: dict[str, object] = {"name": "f", "title": "Title", "x_label": "x", "panels": (panel,)}
    origin = {"provenance": "modelled", "source": "a model"}
    return Figure.model_validate(fields | origin | more)


def in_another_process(program: str) -> str:
    """What a program prints in a Python of its own with another seed for the hashes of strings."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONHASHSEED": "4242", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
