"""A real run of an engine replayed in simulation, beside what was recorded.

The simulator gets the engine's documented settings (meta.json), the recorded arrivals and lengths,
and the kernel profile of the same card. Nothing is fitted on the run's times.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import CrosslayerError, InputError
from hermes_sim.batching import batching
from hermes_sim.metrics import Calls, Floats, mean, percentile
from hermes_sim.readers.engine_run import EngineRun, read_run
from hermes_sim.readers.kernel_bundle import LINK, Shape, read_kernel_bundle, read_meta
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


@dataclass(frozen=True)
class Model:
    """What must be known of the model: shape, KV bytes of a token, bytes of its weights."""

    shape: Mapping[str, int]
    kv_bytes_per_token: float
    weight_bytes: float


def validate(
    run_folder: Path, profile_folder: Path, *, model: str | None = None,
    kv_blocks: int | None = None, link: tuple[float, float] | None = None,
    overhead_s: float = 0.0,
) -> Validation:  # fmt: skip
    """Replay a recorded run.

    model: a spec preset of the core or a config.json; None: by the name in the run's settings.
    kv_blocks: of each engine, where the settings do not say. link: bytes per second and seconds
    between the devices of a tensor-parallel engine; None: as measured (hardware.yaml), else
    assumed. Errors: InputError for files that are missing or broken, and for an unknown model.
    """
    run = read_run(run_folder)
    engine = {**_table(run.engine, "resolved_config", "scheduler_config"), **_kwargs(run.engine)}
    notes: list[str] = []
    about = find_model(model or str(run.engine.get("model", "")), run_folder)
    tensor, data = int(engine["tensor_parallel_size"]), int(engine["data_parallel_size"])
    if link is None and tensor > 1:
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
    steps = read_kernel_bundle(profile_folder, shape, overhead_s=overhead_s)
    cache = {
        **_table(run.engine, "resolved_config", "cache_config"),
        **_table(run.engine, "kv_cache"),
    }
    block_tokens = int(cache.get("block_size") or 16)
    if kv_blocks is None:
        kv_blocks = _kv_blocks(run.engine, cache, about, block_tokens, tensor, notes)
    budget = int(engine.get("max_num_batched_tokens") or 2048)
    calls = min(int(engine.get("max_num_seqs") or 256), budget)
    caching = bool(cache.get("enable_prefix_caching", True))
    rules = batching("vllm_v1", calls, budget, caching)
    limit = engine.get("max_model_len")
    arrival = np.rint(run.arrival_s * 1e9).astype(np.int64)
    replayed = replay(
        RequestTrace(arrival, run.prompt_tokens, run.output_tokens), steps, rules,
        kv_blocks=kv_blocks, block_tokens=block_tokens, clients=data,
        context_tokens=None if limit is None else int(limit),
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
    tokens = int(run.output_tokens.sum())
    rows.append(
        Row("output_tokens_per_s", "token/s", tokens / length, calls.output_tokens / calls.span_s)
    )
    return rows


def _of(values: Floats, share: float | None) -> float:
    return mean(values) if share is None else percentile(values, share)


def _kwargs(engine: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        key: value for key, value in _table(engine, "engine_kwargs").items() if value is not None
    }
    return {"tensor_parallel_size": 1, "data_parallel_size": 1} | given


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
        return int(cache["kv_cache_size_tokens"]) // block_tokens - NULL_BLOCKS
    if cache.get("num_gpu_blocks"):
        return int(cache["num_gpu_blocks"]) - NULL_BLOCKS
    memory = _table(engine, "hardware").get("device_total_memory_bytes")
    if not memory:
        raise InputError(
            "the run's meta.json names neither num_gpu_blocks nor the card's memory;"
            " give --kv-blocks"
        )
    usable = tensor * (float(memory) * float(cache.get("gpu_memory_utilization") or 0.9))
    usable -= about.weight_bytes + tensor * NOT_KV_BYTES
    blocks = int(usable // (about.kv_bytes_per_token * block_tokens))
    notes.append(
        f"{blocks} KV blocks are derived from the card's memory; the engine's own count is better"
    )
    return blocks


def _measured_link(folder: Path) -> tuple[float, float] | None:
    """Bandwidth and latency of a ring from the all-reduces that hardware.yaml measured."""
    samples = _table(read_meta(folder, "hardware.yaml"), "measured", "interconnect").get("samples")
    if not isinstance(samples, list):
        return None
    pairs = [
        (float(one["bytes"]), float(one["us"]) * 1e-6)
        for one in samples
        if isinstance(one, dict) and one.get("collective", "all_reduce") == "all_reduce"
    ]
    if len(pairs) < 2:
        return None
    # Two devices: seconds = 2 latency + bytes / rate, each sample weighed by its own seconds.
    size, seconds = np.array(pairs).T
    design = np.stack([np.ones(len(size)), size], axis=1) / seconds[:, None]
    (twice, slope), *_ = np.linalg.lstsq(design, np.ones(len(size)), rcond=None)
    return (1 / float(slope), float(twice) / 2) if slope > 0 and twice >= 0 else None


def find_model(name: str, folder: Path) -> Model:
    """What is known of a model: from a config.json (`name`, or in the folder), the core's presets
    or known_models.toml. Errors: InputError if nobody knows it.
    """
    from crosslayer.contracts.model import ModelSpec
    from crosslayer.models.presets import config_names

    config = Path(name) if name.endswith(".json") else folder / "config.json"
    if config.is_file():
        try:
            table = json.loads(config.read_text(encoding="utf-8"))
            return _of_spec(ModelSpec.from_hf_config(table), table)
        except (ValueError, CrosslayerError) as error:
            raise InputError(f"{config}: is no config.json of a model: {error}") from None
    short = re.sub(r"(-instruct|-chat|-hf|-\d{4})+$", "", name.rstrip("/").split("/")[-1].lower())
    if short in config_names():
        text = files("crosslayer.models").joinpath(f"{short}.json").read_text(encoding="utf-8")
        table = json.loads(text)
        return _of_spec(ModelSpec.from_hf_config(table), table)
    known = tomllib.loads(files("hermes_sim").joinpath("known_models.toml").read_text("utf-8"))
    if short in known:
        one = known[short]
        shape = {"layers": one["layers"], "hidden": one["hidden"]}
        return Model(shape, one["kv_bytes_per_token"], one["weight_bytes"])
    names = ", ".join([*config_names(), *known])
    raise InputError(
        f"the model {name!r} is not known; give --model, a config.json or one of: {names}"
    )


def _of_spec(spec: Any, table: Mapping[str, Any]) -> Model:
    shape = {"layers": int(table["num_hidden_layers"]), "hidden": int(table["hidden_size"])}
    experts = table.get("num_experts") or table.get("num_local_experts")
    if experts:
        shape |= {"experts": int(experts), "active_experts": int(table["num_experts_per_tok"])}
    return Model(shape, float(spec.kv_bytes(1, 0)), float(spec.weight_bytes))
