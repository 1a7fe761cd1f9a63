"""Kernel profiles in LLMServingSim's format: a folder of CSV files, times in microseconds.

https://github.com/casys-kaist/LLMServingSim (MIT). dense.csv layer,tokens; per_sequence.csv
layer,sequences; attention.csv prefill_chunk,kv_prefill,n_decode,kv_decode (perhaps layer and
decode_q_len; newer ones have prefill_key for kv_prefill: what a token of the prompts looks back on,
its cached tokens and half of its chunk); moe.csv tokens,activated_experts (perhaps ep); step.csv
branch,num_tokens,saved_us (what CUDA graphs save); skew_fit.csv. meta.yaml and hardware.yaml may
lie in a folder above.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.network import collective_seconds
from crosslayer.errors import InputError
from hermes_sim.readers.skew_fit import read_skew
from hermes_sim.readers.tables import (
    LONGEST_KERNEL_S,
    Columns,
    at_most,
    header,
    number,
    rows,
    signed,
    whole,
)
from hermes_sim.step_models.axes import Line, weights
from hermes_sim.step_models.kernel_profile import AttentionGrid, KernelProfile, Savings

Floats = NDArray[np.float64]
LINK = (25e9, 5e-6)  # bytes per second and seconds, assumed where nothing was measured
LARGEST_GRID = 3e7  # points
ONCE = frozenset({"embedding", "final_layernorm", "lm_head", "sampler"})
TWICE = frozenset({"layernorm"})  # before attention and before the MLP
MLP = frozenset({"gate_up_proj", "act_fn", "down_proj"})  # a MoE has experts in their place
_TIME = ("time_us", at_most(LONGEST_KERNEL_S * 1e6))


@dataclass(frozen=True)
class Shape:
    """What a profile does not say of a model: layers, width, experts and how many a token wakes.

    tensor_parallel, expert_parallel: ways that it is split. link: (bytes per second one way,
    latency in seconds) between its devices, for all-reduces.
    """

    layers: int
    hidden: int = 0
    experts: int = 0
    active_experts: int = 0
    tensor_parallel: int = 1
    expert_parallel: int = 1
    link: tuple[float, float] = LINK

    @property
    def gathered(self) -> int:
        """Engines whose tokens meet at shared experts: the data-parallel ones; 1: there is one."""
        return max(1, self.expert_parallel // self.tensor_parallel)


def read_kernel_bundle(
    folder: Path, shape: Shape, *, overhead_s: float = 0.0, watts: float | None = None
) -> KernelProfile:
    """The step model of a bundle. Errors: InputError for a file that is missing or broken."""
    folder = _degree(folder, shape.tensor_parallel)
    if (folder / "linear_attention.csv").is_file():
        raise InputError(
            f"{folder / 'linear_attention.csv'}: layers of linear attention are not priced from"
            " a profile; run the model in a pipeline, on an [accelerator] without a profile"
        )
    about = read_meta(folder)
    dense = _by_layer(folder / "dense.csv", "tokens")
    moe = None
    if (folder / "moe.csv").is_file():
        moe = _moe(folder / "moe.csv", shape)
        dense = {name: points for name, points in dense.items() if name not in MLP}
    elif shape.experts:
        raise InputError(
            f"{folder}: there is no moe.csv, but the model has {shape.experts} experts; profile"
            " them, or name the model that the profile is of"
        )
    measured = np.unique([point for points in dense.values() for point in points])
    if moe is not None:
        measured = with_every_count(measured)
    tokens = _total(dense, shape.layers, measured)
    if moe is not None:
        tokens += shape.layers * np.array([moe(point) for point in measured])
    tokens += collectives(measured, shape)
    sequences = _by_layer(folder / "per_sequence.csv", "sequences")
    counts = np.unique([point for points in sequences.values() for point in points])
    return KernelProfile(
        name=f"kernel profile {about.get('hardware', folder.name)}",
        tokens=Line(measured, tokens),
        rows=Line(counts, _total(sequences, shape.layers, counts)),
        attention=_attention(folder / "attention.csv"),
        layers=shape.layers,
        token_limit=min(max(points) for points in dense.values()),
        overhead_s=overhead_s,
        watts=watts,
        skew=read_skew(folder, about, shape.tensor_parallel),
        savings=_savings(folder / "step.csv"),
        about=about,
    )


def _degree(folder: Path, ways: int) -> Path:
    """Where the kernels of so many tensor-parallel devices lie: here or in tp<N>.

    Errors: InputError where the profile is known to be of other numbers of devices.
    """
    if not (folder / "dense.csv").is_file():
        others = sorted(place.parent.name for place in folder.glob("tp*/dense.csv"))
        if (folder / f"tp{ways}").is_dir() or not others:
            place = folder / f"tp{ways}"
            return place if place.is_dir() else folder
        raise InputError(f"{folder}: there is no tp{ways}; there are: {', '.join(others)}")
    named = re.fullmatch(r"tp(\d+)", folder.resolve().name)
    there = [int(named[1])] if named else read_meta(folder).get("tp_degrees")
    if isinstance(there, list) and there and ways not in there:
        degrees = ", ".join(map(str, there))
        raise InputError(
            f"{folder}: was profiled for a tensor parallelism of {degrees}, not of {ways}"
        )
    return folder


def read_meta(folder: Path, name: str = "meta.yaml") -> dict[str, Any]:
    """A YAML file of a bundle or of a folder above it; empty if there is none."""
    import yaml

    for place in (folder, *folder.resolve().parents[:4]):
        path = place / name
        if path.is_file():
            try:
                read = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise InputError(f"{path}: is no YAML: {str(error).splitlines()[0]}") from None
            return read if isinstance(read, dict) else {}
    return {}


def _by_layer(path: Path, size: str) -> dict[str, dict[float, float]]:
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for _, (layer, at, time_us) in rows(path, [("layer", str), (size, whole), _TIME]):
        found[layer][at] = time_us * 1e-6
    if not found:
        raise InputError(f"{path}: has no rows; profile at least one layer")
    ends = {name: max(points) for name, points in found.items()}
    shortest = min(ends, key=ends.__getitem__)
    if 2 * ends[shortest] <= max(ends.values()):
        raise InputError(
            f"{path}: {shortest} ends at {size} {ends[shortest]}, others at {max(ends.values())};"
            " the file seems to be cut off"
        )
    return dict(found)


def _total(kernels: Mapping[str, Mapping[float, float]], layers: int, at: Floats) -> Floats:
    """Seconds of all these kernels in a step, at each size."""
    total = np.zeros(len(at))
    for name, one in kernels.items():
        times = 1 if name in ONCE else layers * (2 if name in TWICE else 1)
        points = np.array(sorted(one), dtype=np.float64)
        total += times * Line(points, np.array([one[point] for point in points])).at(at)
    return total


def _attention(path: Path) -> AttentionGrid:
    there = header(path)
    keyed = "prefill_key" in there
    second = ("prefill_key", number) if keyed else ("kv_prefill", whole)
    columns: Columns = [
        ("prefill_chunk", whole), second, ("n_decode", whole), ("kv_decode", whole), _TIME
    ]  # fmt: skip
    columns += [(name, str) for name in ("layer", "decode_q_len") if name in there]
    kept = []
    for line, values in rows(path, columns):
        if "layer" in there and values[5] != "attention":
            raise InputError(
                f"{path}:{line}: the kernel {values[5]!r} beside attention is not priced from a"
                " profile; run the model in a pipeline, on an [accelerator] without a profile"
            )
        if "decode_q_len" not in there or values[-1] == "1":
            kept.append(values[:5])
    if not kept:
        raise InputError(f"{path}: has no rows of attention; profile it on a grid")
    table = np.array(kept, dtype=np.float64)
    # Half of an odd chunk is rounded when a batch is made up, so keys come up to half a token off.
    found = [_axis(table[:, i], 0.5 if keyed and i == 1 else 0.0) for i in range(4)]
    axes = [axis for axis, _ in found]
    if np.prod([float(len(axis)) for axis in axes]) > LARGEST_GRID:
        raise InputError(f"{path}: its rows lie on no grid; profile all combinations of few values")
    seconds = np.full([len(axis) for axis in axes], np.nan)
    seconds[tuple(place for _, place in found)] = table[:, 4] * 1e-6
    seconds[0, 0, 0, 0] = 0.0
    return AttentionGrid(tuple(tuple(axis.tolist()) for axis in axes), seconds, keyed)


def _axis(values: Floats, apart: float) -> tuple[Floats, NDArray[np.int64]]:
    """(points of an axis, where each value lies on it). Values no more than `apart` from the one
    before count as one point. Zero, for a part that a batch does not have, is a point of all axes.
    """
    points = np.unique(np.concatenate([[0.0], values]))
    new = np.concatenate([[True], np.diff(points) > apart])
    return points[new], (np.cumsum(new) - 1)[np.searchsorted(points, values)]


def _moe(path: Path, shape: Shape) -> Callable[[float], float]:
    """Seconds of one layer's experts by tokens, at the expected number of distinct experts."""
    if not shape.experts:
        raise InputError(f"{path}: how many experts the model has is not known; name the model")
    ways = shape.expert_parallel
    columns: Columns = [
        ("tokens", whole), ("activated_experts", whole), _TIME
    ]  # fmt: skip
    if "ep" in header(path):
        columns.append(("ep", whole))
    grid: dict[float, dict[float, float]] = defaultdict(dict)
    for _, values in rows(path, columns):
        if values[3:] in ([], [ways]):
            grid[values[0]][values[1]] = values[2] * 1e-6
    if not grid:
        raise InputError(f"{path}: has no rows for expert parallelism {ways}")
    lines = {}
    for tokens, points in grid.items():
        counts = np.array(sorted(points), dtype=np.float64)
        lines[tokens] = Line(counts, np.array([points[count] for count in counts]))
    axis = sorted(lines)

    def seconds(tokens: float) -> float:
        everywhere = tokens * shape.gathered  # for its own experts a rank sees those of all
        share = 1 - shape.active_experts / shape.experts
        awake = shape.experts / ways * (1 - share**everywhere)
        return sum(
            weight * lines[axis[i]].one(min(awake, max(grid[axis[i]])))
            for i, weight in weights(axis, everywhere)
        )

    return seconds


def with_every_count(tokens: Floats) -> Floats:
    """These numbers of tokens and all smaller ones up to 2,048: how many experts are awake is no
    straight line between numbers that were measured.
    """
    return np.unique(np.concatenate([tokens, np.arange(1.0, min(2048.0, tokens[-1]) + 1)]))


def collectives(tokens: Floats, shape: Shape) -> Floats:
    """Seconds of a step of so many tokens: the all-reduces of tensor parallelism, and what brings
    the tokens of data-parallel engines to shared experts and back.
    """
    return all_reduces(tokens, shape) + experts_exchange(tokens, shape)


def all_reduces(tokens: Floats, shape: Shape) -> Floats:
    """Two a layer, after attention and after the MLP (Megatron-LM), of bf16 activations."""
    rate, latency = shape.link
    seconds = collective_seconds(
        "all_reduce", tokens * shape.hidden * 2, shape.tensor_parallel, rate, latency
    )
    return np.asarray(2 * shape.layers * seconds, dtype=np.float64)


def experts_exchange(tokens: Floats, shape: Shape) -> Floats:
    """An all-gather before and a reduce-scatter after the experts of each layer (vLLM's default),
    of bf16 activations; as many tokens from each engine.
    """
    rate, latency = shape.link
    payload = tokens * shape.gathered * shape.hidden * 2
    there, back = (
        collective_seconds(kind, payload, shape.gathered, rate, latency)
        for kind in ("all_gather", "reduce_scatter")
    )
    return np.asarray(shape.layers * (there + back), dtype=np.float64)


def _savings(path: Path) -> Savings | None:
    if not path.is_file():
        return None
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    columns: Columns = [("branch", str), ("num_tokens", whole), ("saved_us", signed)]
    for _, (kind, tokens, saved) in rows(path, columns):
        found[kind][tokens].append(saved * 1e-6)

    def branch(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        sizes = sorted(found[name])
        return tuple(sizes), tuple(sum(found[name][s]) / len(found[name][s]) for s in sizes)

    return Savings(branch("full"), branch("piecewise"))
