"""A real run of an engine replayed in simulation, beside what was recorded.

The simulator gets the engine's documented settings (meta.json), the recorded arrivals and lengths,
and the kernel profile of the same card. Nothing is fitted on the run's times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import InputError
from hermes_sim.batching import batching
from hermes_sim.known_models import Model, find_model
from hermes_sim.metrics import Calls, Floats, mean, percentile
from hermes_sim.readers.engine_run import EngineRun, read_run
from hermes_sim.readers.kernel_bundle import LINK, Shape, read_meta
from hermes_sim.readers.profiles import read_profile
from hermes_sim.readers.tables import packed
from hermes_sim.replay import Replayed, replay

NULL_BLOCKS = 1  # vLLM keeps one of its blocks as a placeholder
NOT_KV_BYTES = 1.2e9  # activations, graphs and the framework, where the engine does not say
STATISTICS = (("mean", None), ("p50", 50), ("p90", 90), ("p99", 99))


@dataclass(frozen=True)
class Row:
    """One metric: recorded, simulated, and the difference as a share of the recorded value."""

    metric: str
    unit: str
    recorded: float
    simulated: float

    @property
    def error(self) -> float:
        """Relative, signed."""
        return self.simulated / self.recorded - 1 if self.recorded else 0.0


@dataclass(frozen=True)
class Validation:
    """The comparison. facts: what the simulator was told, by name; notes: what it assumed."""

    rows: tuple[Row, ...]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    run: EngineRun
    replayed: Replayed

    def row(self, metric: str) -> Row:
        """The row of a metric such as "ttft_mean_s"."""
        return next(row for row in self.rows if row.metric == metric)

    @property
    def iterations(self) -> int:
        """Iterations that were simulated."""
        return self.replayed.tape.iterations


def validate(
    run_folder: Path, profile_folder: Path, *, model: str | None = None,
    kv_blocks: int | None = None, link: tuple[float, float] | None = None,
    network: Path | None = None, overhead_s: float = 0.0,
) -> Validation:  # fmt: skip
    """Replay a recorded run.

    model: a spec preset of the core or a config.json; None: by the name in the run's settings.
    kv_blocks: of each engine, where the settings do not say. link: bytes per second and seconds
    between the devices of a tensor-parallel engine; None: as measured (hardware.yaml), else
    assumed. network: the folder of vidur's all_reduce.csv, for a profile in that format. Errors:
    InputError for files that are missing or broken, and for an unknown model.
    """
    run = read_run(run_folder)
    engine = {**_table(run.engine, "resolved_config", "scheduler_config"), **_kwargs(run.engine)}
    notes: list[str] = []
    about = find_model(model) if model else find_model(str(run.engine.get("model")), run_folder)
    tensor, data = _count(engine, "tensor_parallel_size"), _count(engine, "data_parallel_size")
    if link is None and tensor > 1 and packed(network or profile_folder, "all_reduce") is None:
        link = _measured_link(profile_folder)
        if link is None:
            link = LINK
            notes.append(
                f"the link between the {tensor} devices was not measured; {link[0] / 1e9:g} GB/s"
                f" and {link[1] * 1e6:g} us are assumed"
            )
    shape = Shape(
        **about.shape,
        tensor_parallel=tensor,
        expert_parallel=data * tensor if engine.get("enable_expert_parallel") else 1,
        link=link or LINK,
    )
    steps = read_profile(profile_folder, shape, network=network, overhead_s=overhead_s)
    cache = {
        **_table(run.engine, "resolved_config", "cache_config"),
        **_table(run.engine, "kv_cache"),
    }
    block_tokens = _count(cache, "block_size", 16)
    if kv_blocks is None:
        kv_blocks = _kv_blocks(run.engine, cache, about, block_tokens, tensor, notes)
    budget = _count(engine, "max_num_batched_tokens", 2048)
    calls = min(_count(engine, "max_num_seqs", 256), budget)
    caching = bool(cache.get("enable_prefix_caching", True))
    rules = batching("vllm_v1", calls, budget, caching)
    arrival = np.rint(run.arrival_s * 1e9).astype(np.int64)
    replayed = replay(
        RequestTrace(arrival, run.prompt_tokens, run.output_tokens), steps, rules,
        kv_blocks=kv_blocks, block_tokens=block_tokens, clients=data,
        context_tokens=_count(engine, "max_model_len", 1 << 40),
    )  # fmt: skip
    facts = {
        "engine": f"vLLM {run.engine.get('vllm_version', '?')}",
        "model": str(run.engine.get("model", "?")),
        "profile": steps.name,
        "requests": len(run),
        "kv_blocks": kv_blocks,
        "block_tokens": block_tokens,
        "max_num_seqs": calls,
        "max_num_batched_tokens": budget,
        "prefix_caching": caching,
        "tensor_parallel": tensor,
        "data_parallel": data,
        "skew_correction": steps.skew is not None,
        "cuda_graph_savings": steps.savings is not None,
    }
    return Validation(tuple(_rows(run, replayed.calls)), facts, tuple(notes), run, replayed)


def _rows(run: EngineRun, calls: Calls) -> list[Row]:
    gaps = run.output_tokens - 1
    span = run.last_token_s - run.first_token_s
    recorded = {
        "ttft": run.first_token_s - run.arrival_s,
        "tpot": span[gaps > 0] / gaps[gaps > 0],
        "e2e": run.last_token_s - run.arrival_s,
        "queue": run.scheduled_s - run.arrival_s,
    }
    rows = []
    for name, real in recorded.items():
        simulated = calls.latency(name)
        for label, share in STATISTICS:
            rows.append(Row(f"{name}_{label}_s", "s", _of(real, share), _of(simulated, share)))
    length = float(run.last_token_s.max() - run.arrival_s.min())
    rows.append(Row("makespan_s", "s", length, calls.span_s))
    rates = [
        tokens / seconds if seconds > 0 else 0.0
        for tokens, seconds in (
            (int(run.output_tokens.sum()), length), (calls.output_tokens, calls.span_s)
        )
    ]  # fmt: skip
    rows.append(Row("output_tokens_per_s", "token/s", rates[0], rates[1]))
    return rows


def _of(values: Floats, share: float | None) -> float:
    return mean(values) if share is None else percentile(values, share)


def _kwargs(engine: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        key: value for key, value in _table(engine, "engine_kwargs").items() if value is not None
    }
    return {"tensor_parallel_size": 1, "data_parallel_size": 1} | given


def _count(table: Mapping[str, Any], name: str, default: int = 1) -> int:
    """A whole number of 1 or more; the default where there is none. Errors: InputError."""
    value = table.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"meta.json: {name} is {value!r}; a whole number of 1 or more is needed")
    return value


def _size(table: Mapping[str, Any], name: str, default: float = 0.0) -> float:
    """A number above 0, such as bytes or a share; the default where there is none."""
    value = table.get(name)
    if value is None:
        return default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise InputError(f"meta.json: {name} is {value!r}; a number above 0 is needed")
    return float(value)


def _table(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A table in a table; empty where there is none."""
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def _kv_blocks(
    engine: Mapping[str, Any], cache: Mapping[str, Any], about: Model, block_tokens: int,
    tensor: int, notes: list[str],
) -> int:  # fmt: skip
    """Blocks of one engine: as it resolved them, else from the card's memory."""
    if cache.get("kv_cache_size_tokens"):
        return _count(cache, "kv_cache_size_tokens") // block_tokens - NULL_BLOCKS
    if cache.get("num_gpu_blocks"):
        return _count(cache, "num_gpu_blocks") - NULL_BLOCKS
    memory = _size(_table(engine, "hardware"), "device_total_memory_bytes")
    if not memory:
        raise InputError(
            "the run's meta.json names neither num_gpu_blocks nor the card's memory;"
            " give --kv-blocks"
        )
    usable = tensor * memory * _size(cache, "gpu_memory_utilization", 0.9)
    usable -= about.weight_bytes + tensor * NOT_KV_BYTES
    blocks = int(usable // (about.kv_bytes_per_token * block_tokens))
    if blocks < 1:
        raise InputError(
            f"the weights ({about.weight_bytes / 1e9:.1f} GB) leave no memory of the {tensor} cards"
            " for keys and values; give --kv-blocks"
        )
    notes.append(
        f"{blocks} KV blocks are derived from the card's memory; the engine's own count is better"
    )
    return blocks


def _measured_link(folder: Path) -> tuple[float, float] | None:
    """Bandwidth and latency of a ring from the all-reduces that hardware.yaml measured."""
    samples = _table(read_meta(folder, "hardware.yaml"), "measured", "interconnect").get("samples")
    if not isinstance(samples, list):
        return None
    try:
        pairs = [
            (float(one["bytes"]), float(one["us"]) * 1e-6)
            for one in samples
            if isinstance(one, dict) and one.get("collective", "all_reduce") == "all_reduce"
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"hardware.yaml: a sample of the interconnect is none: {error}") from None
    if not all(0 < value < float("inf") for pair in pairs for value in pair):
        raise InputError(
            "hardware.yaml: a sample of the interconnect has no bytes or takes no time"
        )
    if len(pairs) < 2:
        return None
    # Two devices: seconds = 2 latency + bytes / rate, each sample weighed by its own seconds.
    size, seconds = np.array(pairs).T
    design = np.stack([np.ones(len(size)), size], axis=1) / seconds[:, None]
    (twice, slope), *_ = np.linalg.lstsq(design, np.ones(len(size)), rcond=None)
    return (1 / float(slope), float(twice) / 2) if slope > 0 and twice >= 0 else None
