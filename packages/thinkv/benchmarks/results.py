"""Results that survive an interruption: one JSON line a cell, read back before it is run again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crosslayer.intervals import mean_interval
from crosslayer.places import cache_dir


class Results:
    """A file of cells by key; `cell` runs what is not in it yet."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        self.rows = {tuple(row["key"]): row["value"] for row in map(json.loads, lines)}

    def cell(self, key: tuple[Any, ...], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The value of a cell."""
        if key not in self.rows:
            value = run()
            with self.file.open("a") as out:
                out.write(json.dumps({"key": key, "value": value}) + "\n")
            self.rows[key] = value
            print(key, {k: v for k, v in value.items() if not isinstance(v, list)}, flush=True)
        return self.rows[key]


def shown(values: list[float], digits: int = 3) -> str:
    """Mean and 95 % Student t interval over seeds."""
    finite = [v for v in values if v is not None and np.isfinite(v)]
    if not finite:
        return "-"
    mean, interval = mean_interval(finite)
    text = f"{mean:.{digits}f}"
    return text + (f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else "")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def folder_argument(parser: argparse.ArgumentParser) -> None:
    """--folder, where models and cells are kept."""
    home = cache_dir("thinkv", "benchmarks")
    parser.add_argument("--folder", type=Path, default=home, help=f"models and cells ({home})")
