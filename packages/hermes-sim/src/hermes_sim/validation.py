"""A real run of an engine replayed in simulation, beside what was recorded.

The simulator gets the engine's documented settings (meta.json), the recorded arrivals and lengths,
and the kernel profile of the same card. Nothing is fitted on the run's times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import InputError
from hermes_sim.batching import batching
from hermes_sim.engine_settings import (
    count,
    given,
    kv_blocks_of,
    left_out,
    link_of,
    settings,
    table,
)
from hermes_sim.known_models import find_model, short_name
from hermes_sim.metrics import Calls, Floats, mean, percentile
from hermes_sim.readers.engine_run import EngineRun, read_run
from hermes_sim.readers.kernel_bundle import LINK, Shape
from hermes_sim.readers.profiles import read_profile
from hermes_sim.replay import Replayed, replay
from hermes_sim.step_models.kernel_profile import KernelProfile
from hermes_sim.step_models.protocol import StepModel
from hermes_sim.step_models.staged import Send, Staged

STATISTICS = (("mean", None), ("p50", 50), ("p90", 90), ("p99", 99))


@dataclass(frozen=True)
class Row:
    """One metric: recorded, simulated, and the difference as a share of the recorded value."""

    metric: str
    unit: str
    recorded: float
    simulated: float

    @property
    def error(self) -> float | None:
        """Relative, signed; None: the recorded value is zero and the other is not."""
        if not self.recorded:
            return None if self.simulated else 0.0
        return self.simulated / self.recorded - 1


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
    """Replay a recorded run. What the engine did and the simulator does not is noted or refused.

    model: a spec preset of the core or a config.json; None: by the name in the run's settings.
    kv_blocks: of each engine, where the settings do not say. link: bytes per second and seconds
    between the devices of a tensor-parallel engine; None: as measured (hardware.yaml), else
    assumed. network: the folder of vidur's all_reduce.csv, for a profile in that format. Errors:
    InputError for files that are missing or broken, and for an unknown model.
    """
    run = read_run(run_folder)
    engine, notes = settings(run.engine), left_out(run)
    about = find_model(model) if model else find_model(str(run.engine.get("model")), run_folder)
    tensor, data, stages = (
        count(engine, f"{kind}_parallel_size") for kind in ("tensor", "data", "pipeline")
    )
    experts = data * tensor if engine.get("enable_expert_parallel") else 1
    shape = replace(Shape(**about.shape), tensor_parallel=tensor, expert_parallel=experts)
    if link is None:
        link = link_of(profile_folder, network, shape, stages, notes)
    shape = replace(shape, link=link or LINK)
    steps = read_profile(profile_folder, shape, network=network, overhead_s=overhead_s)
    profiled, served = steps.about.get("model"), str(run.engine.get("model"))
    if isinstance(profiled, str) and short_name(profiled) != short_name(served):
        notes.append(f"the profile is of {profiled}, the run of {served}")
    if engine.get("enforce_eager"):
        steps.savings = None  # without CUDA graphs
    staged = steps if stages == 1 else _in_stages(steps, shape, stages)
    cache = {
        **table(run.engine, "resolved_config", "cache_config"),
        **given(table(run.engine, "kv_cache")),
    }
    block_tokens = count(cache, "block_size", 16)
    if kv_blocks is None:
        kv_blocks = kv_blocks_of(
            run.engine, cache, about, block_tokens, data, tensor * stages, notes
        )
    budget = count(engine, "max_num_batched_tokens", 2048)
    calls = min(count(engine, "max_num_seqs", 256), budget)
    caching = cache.get("enable_prefix_caching")
    rules = batching("vllm_v1", calls, budget, True if caching is None else bool(caching))
    scheduler = table(run.engine, "resolved_config", "scheduler_config")
    if scheduler:  # else as vLLM 0.19
        whole = bool(scheduler.get("scheduler_reserve_full_isl"))
        rules = replace(rules, whole_prompt_fits=whole)
    arrival = np.rint(run.arrival_s * 1e9).astype(np.int64)
    replayed = replay(
        RequestTrace(arrival, run.prompt_tokens, run.output_tokens), staged, rules,
        kv_blocks=kv_blocks, block_tokens=block_tokens, clients=data,
        context_tokens=count(engine, "max_model_len", 1 << 40),
    )  # fmt: skip
    if not replayed.calls.finished.any():
        raise InputError(
            f"none of the {len(run)} requests can be served with {kv_blocks} KV blocks of"
            f" {block_tokens} tokens; give --kv-blocks as the engine had them"
        )
    facts = {
        "engine": f"vLLM {run.engine.get('vllm_version', '?')}",
        "model": str(run.engine.get("model", "?")),
        "profile": steps.name,
        "requests": len(run),
        "kv_blocks": kv_blocks,
        "block_tokens": block_tokens,
        "max_num_seqs": calls,
        "max_num_batched_tokens": budget,
        "prefix_caching": rules.prefix_caching,
        "prompts_fit_whole": rules.whole_prompt_fits,
        "tensor_parallel": tensor,
        "pipeline_parallel": stages,
        "data_parallel": data,
        "expert_parallel": experts,
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


def _in_stages(steps: KernelProfile, shape: Shape, stages: int) -> StepModel:
    """Equal pipeline stages that send bf16 activations over the link."""
    rate, latency = shape.link
    return Staged([steps], Send(latency, shape.hidden * 2 / rate), parts=stages)
