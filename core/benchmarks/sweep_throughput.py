"""How fast sweeps go beside a bare loop over the same points: processes here, and Ray.

Every way starts with an empty step cache and includes what it takes to start its processes. With
`--write` the numbers go into the README beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from readme import markdown_table, write_section

from crosslayer.discovery import discover
from crosslayer.machine import allowed_cores
from crosslayer.pipeline.schema import Pipeline
from crosslayer.runner import run
from crosslayer.sweeps.engine import sweep

ROUNDS = 2  # of all ways in turn; the best of each counts
LIGHT: dict[str, Any] = {"model": {"use": "llama-3.1-8b"}, "accelerator": "roofline:h100-80g"}
HEAVY = LIGHT | {
    "workload": {
        "arrivals": "poisson", "rate_per_s": 2.0, "requests": 1_000, "prompt_tokens": 800,
        "output_tokens": 200, "prompt_cv": 1.0, "output_cv": 1.0,
    },
    "simulate": {"use": "isolated"},
}  # fmt: skip


def seconds_of(work: Callable[[Path], None]) -> float:
    """Wall-clock seconds of the work, with a cache and a runs directory of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CROSSLAYER_CACHE_DIR"] = f"{folder}/cache"
        start = time.perf_counter()
        work(Path(folder))
        return time.perf_counter() - start


def measure(tables: dict[str, Any], points: int, key: str) -> list[tuple[str, float]]:
    """(way, seconds) of each way to run the points, which differ in an integer."""
    registry = discover()
    values = list(range(1, points + 1))

    def loop(folder: Path) -> None:
        table, _, name = key.partition(".")
        for value in values:
            changed = tables | {table: tables.get(table, {}) | {name: value}, "name": f"p{value}"}
            run(Pipeline(**changed), registry=registry, runs_dir=folder, threads=1)

    def executor(**options: Any) -> Callable[[Path], None]:
        def work(folder: Path) -> None:
            done = sweep(
                Pipeline(**tables), {key: values}, registry=registry, runs_dir=folder, **options
            )
            assert done.exit_code == 0
            assert done.ran == points

        return work

    ways = [("bare loop", loop), ("local, 1 at once", executor(jobs=1))]
    ways.append((f"local, {allowed_cores()} at once", executor()))
    ways.append((f"Ray, {allowed_cores()} cores, started and stopped", executor(executor="ray")))
    rounds = [[seconds_of(work) for _, work in ways] for _ in range(ROUNDS)]
    best = [min(of_way) for of_way in zip(*rounds, strict=True)]
    return [(name, seconds) for (name, _), seconds in zip(ways, best, strict=True)]


def main() -> None:
    """Prints the table; with --write also into the README."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--light", type=int, default=24, help="points of the light pipeline")
    parser.add_argument("--heavy", type=int, default=6, help="points of the heavy one")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # what others do at the same time
    with tempfile.TemporaryDirectory() as folder:  # imports count for nobody
        run(Pipeline(**HEAVY), runs_dir=folder, threads=1)
    rows = []
    for name, tables, points, key in (
        ("estimate", LIGHT, arguments.light, "workload.batch_size"),
        ("simulation of 1,000 requests", HEAVY, arguments.heavy, "workload.prompt_tokens"),
    ):
        found = measure(tables, points, key)
        bare = found[0][1]
        for way, seconds in found:
            ratio = f"{bare / seconds:.2f}"
            rows.append(
                [f"{points} x {name}", way, f"{seconds:.1f}", f"{points / seconds:.1f}", ratio]
            )
    head = ("points", "way", "wall s", "points/s", "times the bare loop")
    text = f"""
*measured* on {platform.machine()}, {allowed_cores()} cores, Python {platform.python_version()},
Ray {version("ray")}: wall-clock seconds of all points, processes started and stopped included, one
thread a point; the best of {ROUNDS} rounds. Load average of the machine before: {load:.1f}.

{markdown_table(head, rows)}"""
    print(text)
    if arguments.write:
        write_section("sweep-throughput", text)


if __name__ == "__main__":
    main()
