"""A sweep on a cluster of two nodes, all on 127.0.0.1, beside the same one in processes here."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from sweep_parts import PIPELINE, alive, registry

import crosslayer as cl
from crosslayer.errors import InputError

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # read on import: 127.0.0.1 is 127.0.0.1
ray = pytest.importorskip("ray", reason="needs the extra 'ray'")


def test_a_cluster_of_two_nodes_gives_the_same_results_and_both_nodes_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log"))
    (tmp_path / "p.toml").write_text(PIPELINE)
    grid: dict[str, Any] = {
        "transform.mark.value": [0.25, 0.75],
        "transform.mark.wait_s": [0.2],
        "evaluate.worth.power": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    }
    options: dict[str, Any] = {"registry": registry()}
    node = {
        "num_cpus": 1,
        "include_dashboard": False,
        "node_ip_address": "127.0.0.1",
        "object_store_memory": 80 << 20,
    }
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(**node)
        monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache-ray"))
        there = cl.sweep(
            tmp_path / "p.toml", grid, executor="ray", address=cluster.address,
            runs_dir=tmp_path / "ray", **options,
        )  # fmt: skip
        with pytest.raises(InputError, match=r"takes 2 threads, but no node .* more than 1 cores"):
            cl.sweep(
                tmp_path / "p.toml", grid, executor="ray", address=cluster.address, threads=2,
                runs_dir=tmp_path / "wide", **options,
            )  # fmt: skip
        assert not ray.is_initialized()
        assert cluster.address.startswith("127.0.0.1:")
        assert len(alive(tmp_path / "log")) >= 4  # two nodes, their head, and whatever else
    finally:
        cluster.shutdown()
    until = time.monotonic() + 10
    while alive(tmp_path / "log"):
        assert time.monotonic() < until, "Ray left processes"
        time.sleep(0.1)
    assert there.exit_code == 0
    nodes = {point.where.split()[-1] for point in there.points}
    assert len(nodes) == 2
    marks = [line for line in (tmp_path / "log").read_text().splitlines() if "begins" in line]
    assert sorted(marks) == ["mark 0.25 begins", "mark 0.75 begins"]  # once, on whichever node
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache-local"))
    here = cl.sweep(tmp_path / "p.toml", grid, runs_dir=tmp_path / "local", **options)
    assert len(here.points) == 12
    for point in here.points:
        files = [
            (result.directory / "points" / point.id / "report.json").read_bytes()
            for result in (here, there)
        ]
        assert files[0] == files[1]
        assert "pipeline.lock.toml" in os.listdir(there.directory / "points" / point.id)
    tables = [(result.directory / "table.csv").read_bytes() for result in (here, there)]
    assert tables[0] == tables[1]
