"""What a run's meta.json says of the engine, and what it leaves to be derived or assumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crosslayer.errors import InputError
from hermes_sim.known_models import Model
from hermes_sim.readers.engine_run import EngineRun
from hermes_sim.readers.kernel_bundle import LINK, Shape, read_meta
from hermes_sim.readers.tables import packed

NULL_BLOCKS = 1  # vLLM keeps one of its blocks as a placeholder
NOT_KV_BYTES = 1.2e9  # activations, graphs and the framework, where the engine does not say


def settings(engine: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's arguments by name: as it resolved them, and what was given to it."""
    resolved = ("parallel_config", "model_config", "scheduler_config")
    made: dict[str, Any] = {}
    for name in resolved:
        made |= table(engine, "resolved_config", name)
    return made | given(table(engine, "engine_kwargs"))


def given(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a table says; null: nothing."""
    return {key: value for key, value in found.items() if value is not None}


def left_out(run: EngineRun) -> list[str]:
    """What of the run a replay leaves out. Errors: InputError for what makes it worthless."""
    engine = settings(run.engine)
    resolved = table(run.engine, "resolved_config")
    if engine.get("speculative_config") or resolved.get("speculative_config"):
        raise InputError(
            "meta.json: the engine decoded speculatively (speculative_config), which a replay does"
            " not model; record a run without it"
        )
    notes = []
    if run.failed:
        notes.append(f"{run.failed} requests of the run got no token and are left out")
    recorded, there = run.engine.get("num_requests"), len(run) + run.failed
    if isinstance(recorded, int) and recorded not in (0, there):
        notes.append(
            f"meta.json counts {recorded} requests, requests.jsonl holds {there}: is it whole?"
        )
    order = engine.get("policy", engine.get("scheduling_policy", "fcfs"))
    if order != "fcfs":
        notes.append(f"the queue's order {order!r} is simulated as fcfs")
    if engine.get("enable_chunked_prefill") is False:
        notes.append("the engine did not chunk prompts; the simulation does")
    return notes


def link_of(
    profile: Path, network: Path | None, shape: Shape, stages: int, notes: list[str]
) -> tuple[float, float] | None:
    """What joins the devices of an engine, as measured or else assumed; None: nothing is needed."""
    reduces = shape.tensor_parallel > 1 and packed(network or profile, "all_reduce") is None
    if not reduces and shape.gathered == 1 and stages == 1:
        return None
    found = _measured_link(profile)
    if found is None:
        found = LINK
        devices = max(shape.tensor_parallel, shape.expert_parallel) * stages
        notes.append(
            f"the link between the {devices} devices was not measured; {found[0] / 1e9:g} GB/s"
            f" and {found[1] * 1e6:g} us are assumed"
        )
    return found


def count(of: Mapping[str, Any], name: str, default: int = 1) -> int:
    """A whole number of 1 or more; the default where there is none. Errors: InputError."""
    value = of.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"meta.json: {name} is {value!r}; a whole number of 1 or more is needed")
    return value


def size(of: Mapping[str, Any], name: str, default: float = 0.0) -> float:
    """A number above 0, such as bytes or a share; the default where there is none."""
    value = of.get(name)
    if value is None:
        return default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise InputError(f"meta.json: {name} is {value!r}; a number above 0 is needed")
    return float(value)


def table(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A table in a table; empty where there is none."""
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def kv_blocks_of(
    engine: Mapping[str, Any], cache: Mapping[str, Any], about: Model, block_tokens: int,
    engines: int, cards: int, notes: list[str],
) -> int:  # fmt: skip
    """Blocks of one engine: as it resolved them, else from the memory of its cards.

    vLLM counts the blocks of all data-parallel engines together, but their tokens (where it gives
    them) of one.
    """
    if cache.get("kv_cache_size_tokens"):
        return count(cache, "kv_cache_size_tokens") // block_tokens - NULL_BLOCKS
    if cache.get("num_gpu_blocks"):
        return count(cache, "num_gpu_blocks") // engines - NULL_BLOCKS
    memory = size(table(engine, "hardware"), "device_total_memory_bytes")
    if not memory:
        raise InputError(
            "the run's meta.json names neither num_gpu_blocks nor the card's memory;"
            " give --kv-blocks"
        )
    usable = cards * memory * size(cache, "gpu_memory_utilization", 0.9)
    usable -= about.weight_bytes + cards * NOT_KV_BYTES
    kind = str(given(table(engine, "engine_kwargs")).get("kv_cache_dtype", "auto"))
    per_token = about.kv_bytes_per_token * (0.5 if kind.startswith("fp8") else 1.0)
    blocks = int(usable // (per_token * block_tokens))
    if blocks < 1:
        raise InputError(
            f"the weights ({about.weight_bytes / 1e9:.1f} GB) leave no memory of the {cards} cards"
            " for keys and values; give --kv-blocks"
        )
    notes.append(
        f"{blocks} KV blocks are derived from the card's memory; the engine's own count is better"
    )
    return blocks


def _measured_link(folder: Path) -> tuple[float, float] | None:
    """Bandwidth and latency of a ring from the all-reduces that hardware.yaml measured."""
    samples = table(read_meta(folder, "hardware.yaml"), "measured", "interconnect").get("samples")
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
    sizes, seconds = np.array(pairs).T
    design = np.stack([np.ones(len(sizes)), sizes], axis=1) / seconds[:, None]
    (twice, slope), *_ = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)
    return (1 / float(slope), float(twice) / 2) if slope > 0 and twice >= 0 else None
