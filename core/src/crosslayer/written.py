"""Files that a step writes, as its report names them."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

from crosslayer.contracts.report import Cell, Column, WrittenFile


def written(path: Path, name: str, media_type: str) -> WrittenFile:
    """A file that stands in the step's output folder."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return WrittenFile(name=name, path=path.name, media_type=media_type, sha256=digest)


def write_csv(
    path: Path, name: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]
) -> WrittenFile:
    """A table as CSV, seconds marked in the header: "first token" in s is first_token_s."""
    header = [
        column.name.replace(" ", "_") + ("_s" if column.unit == "s" else "") for column in columns
    ]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return written(path, name, "text/csv")
