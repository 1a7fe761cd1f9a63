"""Profiles in vidur's format: a folder with mlp.csv and attention.csv, times in milliseconds.

https://github.com/microsoft/vidur (MIT). mlp.csv: time_stats.<op>.median by num_tokens and
num_tensor_parallel_workers. attention.csv: time_stats.attn_prefill.median by prefill_chunk_size and
kv_cache_size (is_prefill), time_stats.attn_decode.median by batch_size and kv_cache_size. Both may
be packed as .csv.xz. All-reduces are those of all_reduce.csv where there is one, else priced on a
link.
"""

from __future__ import annotations

import csv
import lzma
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from crosslayer.errors import InputError
from hermes_sim.readers.kernel_bundle import Floats, Shape, all_reduces
from hermes_sim.readers.tables import LONGEST_KERNEL_S, at_most, opened, packed
from hermes_sim.readers.vidur_network import read_collective
from hermes_sim.step_models.axes import Line
from hermes_sim.step_models.kernel_profile import KernelProfile
from hermes_sim.step_models.surfaces import SeparateAttention, Surface

MATRICES = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")  # of every model
LAYER_OPS = ("input_layernorm", "attn_rope", "post_attention_layernorm", "mlp_act", "add")
ATTENTION_OPS = ("attn_input_reshape", "attn_kv_cache_save", "attn_output_reshape")


def is_vidur_profile(folder: Path) -> bool:
    """Whether the folder looks like one."""
    return packed(folder, "mlp") is not None


def read_vidur_profile(
    folder: Path, shape: Shape, *, network: Path | None = None, overhead_s: float = 0.0,
    watts: float | None = None,
) -> KernelProfile:  # fmt: skip
    """The step model. network: the folder of all_reduce.csv; None: the profile's.

    Errors: InputError for what is missing or no number, with the line.
    """
    if shape.experts:
        raise InputError(
            f"{folder}: vidur's profiles know no experts, and the model has {shape.experts}; use a"
            " kernel profile with moe.csv"
        )
    tokens = _by_tokens(folder, shape)
    prefill, decode = [], []
    for line, row in _rows(folder, "attention"):
        if int(_number(folder, line, row, "num_tensor_parallel_workers")) != shape.tensor_parallel:
            continue
        cached = _number(folder, line, row, "kv_cache_size")
        extra = sum(_time(folder, line, row, op, 0.0) for op in ATTENTION_OPS)
        if row.get("is_prefill", "").lower() in ("true", "1", "1.0"):
            chunk = _number(folder, line, row, "prefill_chunk_size")
            prefill.append((chunk, cached, extra + _time(folder, line, row, "attn_prefill")))
        else:
            calls = _number(folder, line, row, "batch_size")
            decode.append((calls, cached, extra + _time(folder, line, row, "attn_decode")))
    if not prefill or not decode:
        raise InputError(
            f"{folder}: attention.csv has no rows of prefill or of decode for"
            f" {shape.tensor_parallel} tensor-parallel workers"
        )
    axis = np.array(sorted(tokens))
    seconds = np.array([tokens[at] for at in axis.tolist()])
    if shape.tensor_parallel > 1:
        seconds += _all_reduces(network or folder, axis, shape)
    return KernelProfile(
        name=f"vidur profile {folder.name}",
        tokens=Line(axis, seconds),
        rows=Line(np.array([0.0, 1.0]), np.zeros(2)),
        attention=SeparateAttention(Surface(prefill), Surface(decode)),
        layers=shape.layers,
        token_limit=float(axis[-1]),
        overhead_s=overhead_s,
        watts=watts,
    )


def _by_tokens(folder: Path, shape: Shape) -> dict[float, float]:
    """Seconds of all that follows tokens, by their number."""
    found: dict[float, float] = {}
    for line, row in _rows(folder, "mlp"):
        if int(_number(folder, line, row, "num_tensor_parallel_workers")) == shape.tensor_parallel:
            layer = sum(_time(folder, line, row, op) for op in MATRICES)
            layer += sum(_time(folder, line, row, op, 0.0) for op in LAYER_OPS)
            once = _time(folder, line, row, "emb", 0.0)
            at = _number(folder, line, row, "num_tokens")
            found[at] = once + shape.layers * layer
    if len(found) < 2:
        raise InputError(
            f"{folder}: mlp.csv has fewer than two rows for {shape.tensor_parallel}"
            " tensor-parallel workers"
        )
    return found


def _all_reduces(folder: Path, tokens: Floats, shape: Shape) -> Floats:
    """Of a step, as measured within one node: two a layer, of bf16 activations."""
    ways = shape.tensor_parallel
    measured = read_collective(folder, "all_reduce", ways, ways)
    if measured is None:
        return all_reduces(tokens, shape)
    if not shape.hidden:
        raise InputError(f"{folder}: the width of the model is not known; name the model")
    return 2 * shape.layers * np.maximum(measured.at(tokens * shape.hidden * 2), 0.0)


def _rows(folder: Path, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    path = packed(folder, name)
    if path is None:
        raise InputError(f"{folder}: there is no {name}.csv")
    with opened(path) as stream:
        reader = csv.DictReader(stream)
        try:
            for row in reader:
                if None in row or None in row.values():
                    how = "too long" if None in row else "cut off"
                    raise InputError(f"{path}:{reader.line_num}: the row is {how}")
                yield reader.line_num, row
        except (lzma.LZMAError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None


def _number(
    folder: Path, line: int, row: dict[str, str], name: str, most: float = 2.0**53
) -> float:
    try:
        return at_most(most)(row[name])
    except KeyError:
        raise InputError(f"{folder}: the column {name!r} is missing") from None
    except ValueError:
        raise InputError(
            f"{folder}: line {line}: {name} is {row[name]!r}, which is not possible there"
        ) from None


def _time(
    folder: Path, line: int, row: dict[str, str], op: str, default: float | None = None
) -> float:
    """Seconds of an op: the median; the default where the profile does not have it."""
    name = f"time_stats.{op}.median"
    if default is not None and not row.get(name):
        return default
    return _number(folder, line, row, name, LONGEST_KERNEL_S * 1e3) * 1e-3
