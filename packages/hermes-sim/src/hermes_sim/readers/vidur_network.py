"""Collectives in vidur's network profiles: all_reduce.csv and send_recv.csv, in milliseconds.

https://github.com/microsoft/vidur (MIT): time_stats.<collective>.median by num_workers,
devices_per_node and size (bytes). Either may be packed as .csv.xz.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from crosslayer.errors import InputError
from hermes_sim.readers.tables import LONGEST_KERNEL_S, Columns, at_most, packed, rows, whole
from hermes_sim.step_models.axes import Line


def read_collective(
    folder: Path, collective: str, workers: int, devices_per_node: int
) -> Line | None:
    """Seconds over bytes of "all_reduce" or "send_recv"; None: the folder has no such file.

    Sizes that were measured twice are averaged. Errors: InputError for a broken file, and for one
    without two sizes of so many workers, with what there is.
    """
    path = packed(folder, collective)
    if path is None:
        return None
    columns: Columns = [
        ("num_workers", whole), ("devices_per_node", whole), ("size", whole), ("collective", str),
        (f"time_stats.{collective}.median", at_most(LONGEST_KERNEL_S * 1e3)),
    ]  # fmt: skip
    found: dict[int, list[float]] = defaultdict(list)
    there: set[tuple[int, int]] = set()
    for _, (many, per_node, size, name, ms) in rows(path, columns):
        if name == collective:
            there.add((many, per_node))
            if (many, per_node) == (workers, devices_per_node):
                found[size].append(ms * 1e-3)
    if len(found) < 2:
        listed = ", ".join(f"{many} with {node} a node" for many, node in sorted(there))
        raise InputError(
            f"{path}: fewer than two sizes for {workers} workers with {devices_per_node} a node;"
            f" there are: {listed or 'none'}"
        )
    sizes = sorted(found)
    seconds = np.array([sum(found[size]) / len(found[size]) for size in sizes])
    return Line(np.array(sizes, dtype=np.float64), seconds)


def read_link(folder: Path) -> tuple[float, float] | None:
    """Bytes per second and latency in seconds between two devices of one node, fitted to
    send_recv.csv on relative errors; None: the folder has no such file.

    Errors: InputError as in `read_collective`, and for times that do not grow with the size.
    """
    measured = read_collective(folder, "send_recv", 2, 2)
    if measured is None:
        return None
    sizes = np.array(measured.points)
    seconds = np.maximum(measured.at(sizes), 1e-12)
    design = np.stack([np.ones(len(sizes)), sizes], axis=1) / seconds[:, None]
    (latency, slope), *_ = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)
    if not slope > 0:
        raise InputError(f"{folder}: send_recv.csv takes no longer for more bytes")
    return 1 / float(slope), max(0.0, float(latency))
