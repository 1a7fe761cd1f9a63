"""skew_fit.csv of a kernel bundle, in both forms that LLMServingSim has written, with what
meta.yaml says of it.

Older: pc,n_label,skew_rate_label,kv_big_label,kp_label,alpha. Newer: layer,decode_q_len,pc_label,
lev_label,n_anchor,alpha, whose labels meta.yaml bounds (skew_fit.per_tp.N.axes). Either counts only
where meta.yaml says that the fit is enabled.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosslayer.errors import InputError
from hermes_sim.readers.tables import Columns, header, rows, signed, whole
from hermes_sim.step_models.skew import BucketSkew, GapSkew, Skew

KERNEL = "attention|q=1"  # of decodes of one token


def read_skew(folder: Path, about: Mapping[str, Any], tensor_parallel: int) -> Skew | None:
    """The correction; None: there is none, or it is not enabled. about: meta.yaml.

    Errors: InputError naming the file and what is wrong in it.
    """
    path, fit = folder / "skew_fit.csv", _table(about, "skew_fit", folder)
    if not fit.get("enabled") or not path.is_file():
        return None
    per_tp = _table(fit, "per_tp", folder)
    summary = _table(
        per_tp, tensor_parallel if tensor_parallel in per_tp else str(tensor_parallel), folder
    )
    if "lev_label" in header(path):
        return _by_gap(path, summary, folder)
    return _by_bucket(path, summary, folder)


def _by_gap(path: Path, summary: Mapping[str, Any], folder: Path) -> GapSkew:
    axes = _table(summary, "axes", folder)
    chunks, chunk_at = _bounds(axes, "pc", folder)
    gaps, gap_at = _bounds(axes, "lev", folder)
    cells: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
    columns: Columns = [
        ("layer", str), ("decode_q_len", whole), ("pc_label", str), ("lev_label", str),
        ("n_anchor", whole), ("alpha", signed),
    ]  # fmt: skip
    for line, (layer, queries, chunk, gap, n, alpha) in rows(path, columns):
        if f"{layer}|q={queries}" != KERNEL:
            continue
        if chunk not in chunk_at or gap not in gap_at or n < 1:
            raise InputError(
                f"{path}:{line}: {chunk}, {gap}, {n} is no cell of the axes in meta.yaml"
            )
        cells[chunk_at[chunk], gap_at[gap]].append((n, alpha))
    defaults = _table(summary, "alpha_default_by_kernel", folder)
    counts = _table(summary, "n_range_by_kernel", folder).get(KERNEL, (2, math.inf))
    if not isinstance(counts, list | tuple) or len(counts) != 2 or not all(map(_number, counts)):
        raise InputError(f"{folder}/meta.yaml: n_range_by_kernel is {counts!r}, no two counts")
    return GapSkew(
        {cell: sorted(anchors) for cell, anchors in cells.items()},
        chunks, gaps, (float(counts[0]), float(counts[1])), _default(defaults, KERNEL, folder),
    )  # fmt: skip


def _bounds(
    axes: Mapping[str, Any], name: str, folder: Path
) -> tuple[tuple[float, ...], dict[str, int]]:
    """(upper bounds of an axis, position by label). The first bin is the lower end of all."""
    bins, labels = axes.get(f"{name}_bins"), axes.get(f"{name}_labels")
    if not isinstance(bins, list) or not isinstance(labels, list) or not labels:
        bins, labels = [], []
    if len(bins) != len(labels) + 1 or not all(map(_number, bins)) or bins != sorted(bins):
        raise InputError(
            f"{folder}/meta.yaml: the axes of the skew fit have no {name}_bins, growing and one"
            f" more than {name}_labels; `profiler refit-skew` writes them"
        )
    return tuple(map(float, bins[1:])), {str(label): at for at, label in enumerate(labels)}


def _by_bucket(path: Path, summary: Mapping[str, Any], folder: Path) -> BucketSkew:
    names = ("n_label", "skew_rate_label", "kv_big_label", "kp_label")
    alphas = {}
    for _, (chunk, alpha, *labels) in rows(
        path, [("pc", whole), ("alpha", signed), *((name, str) for name in names)]
    ):
        bounds = tuple(_bound(label) for label in labels)
        alphas[(float(chunk), *bounds)] = alpha
    if not alphas:
        raise InputError(f"{path}: has no rows; switch skew_fit off in meta.yaml")
    return BucketSkew(
        alphas,  # type: ignore[arg-type]
        tuple(tuple(sorted({key[i] for key in alphas})) for i in range(1, 5)),
        tuple(sorted({key[0] for key in alphas})),
        _default(summary, "alpha_default", folder),
    )


def _default(table: Mapping[Any, Any], key: str, folder: Path) -> float:
    value = table.get(key, 0.0)
    if not _number(value) or not math.isfinite(value):
        raise InputError(f"{folder}/meta.yaml: {key} is {value!r} and should be a number")
    return float(value)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _table(about: Mapping[Any, Any], key: object, folder: Path) -> Mapping[Any, Any]:
    """The mapping under a key of meta.yaml; empty if there is none."""
    found = about.get(key) or {}
    if not isinstance(found, dict):
        raise InputError(f"{folder}/meta.yaml: {key} is {found!r} and should hold named values")
    return found


def _bound(label: str) -> float:
    """The upper bound that a label such as "kvB<=16k", "sr<=5%" or "kp=0" names."""
    found = re.fullmatch(r"\w+(<=|=|>)([\d.]+)([k%]?)", label)
    if found is None:
        raise InputError(f"skew_fit.csv: {label!r} is no label such as n<=16")
    value = float(found[2]) * {"": 1.0, "k": 1024.0, "%": 0.01}[found[3]]
    return float("inf") if found[1] == ">" else value
