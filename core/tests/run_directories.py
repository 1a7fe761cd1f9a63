"""Run directories written by hand, for tests of what reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crosslayer.contracts.report import Column, Metric, Report, Table
from crosslayer.pipeline.toml_text import toml_text
from crosslayer.runner import report_json

LOCK = {"format": 1, "versions": {"crosslayer": "0.1.0"}}
INFO = {"threads": 2, "machine": {"cpu": "A"}, "versions": {"crosslayer": "0.1.0"}, "steps": []}

T2 = 4.3027  # the 0.975 quantile of Student's t with 2 degrees of freedom
FLOW = {"transform": [{"use": "flow", "sparsity": 0.5}]}
KV = {"transform": [{"use": "thinkv"}]}
BOTH = {"transform": [FLOW["transform"][0], KV["transform"][0]]}
INPUTS: tuple[dict[str, Any], ...] = ({}, FLOW, KV, BOTH)


def metric(name: str, value: float, unit: str = "s", **more: Any) -> Metric:
    """A modelled metric of which less is better; `more` replaces fields."""
    fields = {"provenance": "modelled", "source": "a model", "better": "lower"} | more
    return Metric(name=name, value=value, unit=unit, **fields)


def table(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table without units."""
    heads = tuple(Column(name=column) for column in columns)
    return Table(name=name, title=name, columns=heads, rows=tuple(tuple(row) for row in rows))


def write_run(
    folder: Path,
    metrics: Sequence[Metric],
    *,
    tables: Sequence[Table] = (),
    inputs: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
    lock: Mapping[str, Any] = LOCK,
    **report: Any,
) -> Path:
    """The files of a finished run in `folder`, whose lock file says a toy model and `inputs`."""
    folder.mkdir(parents=True)
    whole = Report(title=folder.name, metrics=tuple(metrics), tables=tuple(tables), **report)
    (folder / "report.json").write_text(report_json(whole))
    (folder / "run.json").write_text(json.dumps({**INFO, **(info or {})}))
    document = {"pipeline": {"name": folder.name, "seed": 0}, "model": {"use": "toy"}}
    (folder / "pipeline.lock.toml").write_text(
        toml_text(document | dict(inputs or {}) | {"lock": dict(lock)})
    )
    return folder


def perplexity_run(
    folder: Path, nll: Sequence[float], ids: Sequence[str] = ("x", "y", "z"), **more: Any
) -> Path:
    """A run with the perplexity of these windows, and an interval that overlaps everything."""
    value = math.exp(sum(nll) / len(nll))
    kept = table("perplexity_windows", ("window", "nll"), list(zip(ids, nll, strict=True)))
    one = metric(
        "perplexity", value, "1", provenance="measured", interval=(value / 2, value * 2),
        confidence=0.95,
    )  # fmt: skip
    return write_run(folder, [one], tables=[kept], **more)
