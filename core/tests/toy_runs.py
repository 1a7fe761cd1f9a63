"""A toy pipeline file and its run, in a cache of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toy_parts import CALLS, toy_registry

import crosslayer as cl
from crosslayer.runner import run

PIPELINE = """\
[pipeline]
name = "Toy <b>run</b>"
seed = 3

[model]
use = "toy"

[[transform]]
use = "prune"
sparsity = 0.5

[accelerator]
use = "machine:small"

[workload]
prompt_tokens = 8
output_tokens = 4

[[simulate]]
use = "count"

[evaluate]
mean = { wanted = 4 }
"""

FOLDER = "toy-b-run-b-b286537d"  # of the pipeline above: its name with a hash, for "<>/" are lost


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    CALLS.clear()


def pipeline(tmp_path: Path, text: str = PIPELINE, name: str = "p.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def go(path: Path | cl.Pipeline, tmp_path: Path, **options: object) -> cl.Run:
    CALLS.clear()
    return run(path, registry=toy_registry(), runs_dir=tmp_path / "runs", threads=1, **options)  # type: ignore[arg-type]
