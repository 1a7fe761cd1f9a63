"""Kernel profiles in LLMServingSim's older layout (its profiler v0), times in nanoseconds.

https://github.com/casys-kaist/LLMServingSim (MIT). tp<N>/layers.csv: layer_name,input,kv_cache,
tp_size,latency(ns), a row a kernel and number of tokens; tp<N>/predictions/:
attn_prefill_predictions.csv kv_cache_size,prefill_chunk_size,prediction and
attn_decode_predictions.csv batch_size,kv_cache_size,prediction, of one layer. Attention of a mixed
batch is their sum. Neither a sampler, nor uneven contexts, nor CUDA graphs were measured.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from crosslayer.errors import InputError
from hermes_sim.readers.kernel_bundle import Floats, Shape, collectives, with_every_count
from hermes_sim.readers.tables import LONGEST_KERNEL_S, Columns, at_most, rows, whole
from hermes_sim.step_models.axes import Line
from hermes_sim.step_models.kernel_profile import KernelProfile
from hermes_sim.step_models.surfaces import SeparateAttention, Surface

ONCE = ("embedding", "final_layernorm")
HEAD = "lm_head"
EXPERT = ("expert.w1", "expert.w2", "expert.w3", "act_fn")  # of one expert, by its own tokens


def layers_folder(folder: Path, tensor_parallel: int) -> Path | None:
    """Where the profile of so many devices lies, here or in tp<N>; None: it is none of these."""
    places = (folder, folder / f"tp{tensor_parallel}")
    return next((place for place in places if (place / "layers.csv").is_file()), None)


def read_layers_profile(
    folder: Path, shape: Shape, *, overhead_s: float = 0.0, watts: float | None = None
) -> KernelProfile:
    """The step model. Errors: InputError for what is missing or broken, with file and line."""
    place = layers_folder(folder, shape.tensor_parallel) or folder
    kernels = _layers(place / "layers.csv", shape.tensor_parallel)
    head = kernels.pop(HEAD, None)
    if head is None:
        raise InputError(f"{place / 'layers.csv'}: has no {HEAD}")
    sparse = any(name in kernels for name in EXPERT[:3])
    experts = [kernels.pop(name) for name in EXPERT if sparse and name in kernels]
    points = np.unique([at for line in kernels.values() for at in line.points])
    if experts:
        points = with_every_count(points)
    seconds = np.zeros(len(points))
    for name, line in kernels.items():
        seconds += (1 if name in ONCE else shape.layers) * line.at(points)
    if experts:
        seconds += shape.layers * _experts(place, experts, points * shape.gathered, shape)
    seconds += collectives(points, shape)
    return KernelProfile(
        name=f"kernel profile {'/'.join(place.resolve().parts[-4:])}",
        tokens=Line(points, seconds),
        rows=head,
        attention=_attention(place / "predictions"),
        layers=shape.layers,
        token_limit=min(line.points[-1] for line in kernels.values()),
        overhead_s=overhead_s,
        watts=watts,
    )


def _layers(path: Path, tensor_parallel: int) -> dict[str, Line]:
    """Seconds of each kernel by tokens."""
    columns: Columns = [
        ("layer_name", str), ("input", whole), ("kv_cache", whole), ("tp_size", whole),
        ("latency(ns)", at_most(LONGEST_KERNEL_S * 1e9)),
    ]  # fmt: skip
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for line, (name, tokens, cached, ways, ns) in rows(path, columns):
        if ways != tensor_parallel:
            raise InputError(
                f"{path}:{line}: tp_size is {ways}, but the model runs on {tensor_parallel} devices"
            )
        if not cached and name != "attn":  # attention is in the predictions
            found[name][tokens] = ns * 1e-9
    if not found:
        raise InputError(f"{path}: has no rows; profile at least one layer")
    return {
        name: Line(np.array(sorted(of), dtype=np.float64), np.array([of[at] for at in sorted(of)]))
        for name, of in found.items()
    }


def _experts(place: Path, kernels: list[Line], tokens: Floats, shape: Shape) -> Floats:
    """Seconds of one layer's experts on a device, which has its share of them and runs those that
    are awake one after another, each on its share of the tokens.
    """
    if not shape.experts:
        raise InputError(f"{place}: how many experts the model has is not known; name the model")
    share = shape.active_experts / shape.experts
    awake = 1 - (1 - share) ** tokens  # chance that an expert has a token, tokens choosing evenly
    own = shape.experts / max(shape.tensor_parallel, shape.expert_parallel)
    each = tokens * share / awake
    seconds: Floats = own * awake * np.sum([line.at(each) for line in kernels], axis=0)
    return seconds


def _attention(folder: Path) -> SeparateAttention:
    tables = []
    for kind, first, second in (
        ("prefill", "prefill_chunk_size", "kv_cache_size"),
        ("decode", "batch_size", "kv_cache_size"),
    ):
        path = folder / f"attn_{kind}_predictions.csv"
        points = [
            (at, cached, ns * 1e-9)
            for _, (at, cached, ns) in rows(
                path,
                [(first, whole), (second, whole), ("prediction", at_most(LONGEST_KERNEL_S * 1e9))],
            )
        ]
        if not points:
            raise InputError(f"{path}: has no rows; build the attention predictions")
        tables.append(Surface(points))
    return SeparateAttention(*tables)
