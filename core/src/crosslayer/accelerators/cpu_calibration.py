"""What a calibration of this CPU found, where it is kept, and when it is good for another run."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from crosslayer.contracts.base import Value
from crosslayer.errors import InputError
from crosslayer.machine import allowed_cores, installed_version, machine_facts
from crosslayer.places import cache_dir

FORMAT = 2  # of the file: a calibration of another format is not used
LEAST_S = 1e-9  # a time that noise made zero or less counts as this


class Curve(Value):
    """Seconds of one call over its size, between measured points a power law.

    Below the first point the call takes as long as there, above the last in proportion to its size.
    """

    name: str
    sizes: tuple[float, ...] = Field(min_length=1)
    seconds: tuple[float, ...] = Field(min_length=1)

    def at(self, size: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Seconds of each size; never falling, whatever noise the points carry."""
        x = np.log(np.asarray(self.sizes))
        y = np.log(np.maximum.accumulate(np.maximum(self.seconds, LEAST_S)))
        wanted = np.log(np.maximum(np.asarray(size, dtype=np.float64), 1e-300))
        return np.asarray(np.exp(np.interp(wanted, x, y) + np.maximum(wanted - x[-1], 0.0)))


class ProductGrid(Value):
    """Seconds of [m, k] x [k, n] without the overhead of a call, by m and by k x n; the weights
    come from memory, not from a cache.

    seconds[i][j] belongs to rows[i] and weights[j].
    """

    format: str
    rows: tuple[float, ...] = Field(min_length=1)
    weights: tuple[float, ...] = Field(min_length=1)
    seconds: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _every_cell_is_there(self) -> ProductGrid:
        shape = (len(self.rows), len(self.weights))
        if len(self.seconds) != shape[0] or any(len(row) != shape[1] for row in self.seconds):
            raise ValueError(f"a grid of {shape[0]} rows by {shape[1]} weights needs every cell")
        return self

    def at(self, m: NDArray[np.float64] | float, weights: float) -> NDArray[np.float64]:
        """Seconds by log m and log k x n, past the edges in proportion; never falling."""
        cells = np.maximum(np.asarray(self.seconds), LEAST_S)
        cells = np.log(np.maximum.accumulate(np.maximum.accumulate(cells, axis=0), axis=1))
        axis, wanted = np.log(np.asarray(self.weights)), np.log(max(float(weights), 1.0))
        column = np.array([np.interp(wanted, axis, row) for row in cells])
        column += max(wanted - axis[-1], 0.0) + min(wanted - axis[0], 0.0)
        x = np.log(np.asarray(self.rows))
        row = np.log(np.maximum(np.asarray(m, dtype=np.float64), 1.0))
        return np.asarray(np.exp(np.interp(row, x, column) + np.maximum(row - x[-1], 0.0)))

    @property
    def peak_flops_per_s(self) -> float:
        """The best rate of any cell."""
        work = 2 * np.outer(self.rows, self.weights)
        return float((work / np.maximum(np.asarray(self.seconds), LEAST_S)).max())


class CpuCalibration(Value):
    """Times of this machine's CPU with one library at one number of threads.

    call_s: overhead of the smallest product. elementwise: over elements, by kind of op.
    depthwise: 1-D convolutions, over multiplications. prefill_attention: over FLOPs;
    decode_attention: over bytes of K and V read, in fp32; scan_step: one token of a recurrence,
    over state elements. disagreement: how far the median of the repeats lies above the best one, in
    the median cell.
    """

    format: int = FORMAT
    cpu: str
    cores: int
    threads: int
    library: str
    version: str
    measured_on: str
    took_s: float
    disagreement: float
    memory_bytes: float = Field(gt=0)
    cache_bytes: float = Field(gt=0)
    copy_bytes_per_s: float = Field(gt=0)
    cache_bytes_per_s: float = Field(gt=0)
    call_s: float = Field(ge=0)
    products: tuple[ProductGrid, ...] = Field(min_length=1)
    elementwise: tuple[Curve, ...] = Field(min_length=1)
    depthwise: Curve
    prefill_attention: Curve
    decode_attention: Curve
    scan_step: Curve
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fp32_is_there(self) -> CpuCalibration:
        names = [grid.format for grid in self.products]
        if "fp32" not in names or len(set(names)) < len(names):
            raise ValueError(f"a calibration has one grid a format, fp32 among them, not {names}")
        return self

    @property
    def source(self) -> str:
        """Where and how these figures came about."""
        return (
            f"measured on {self.cpu}, {self.threads} of {self.cores} cores, {self.library} "
            f"{self.version}, {self.measured_on}"
        )

    @property
    def digest(self) -> str:
        """Changes with any figure."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def threads_now() -> int:
    """Threads that the numerical libraries of this process take."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    try:
        return max(1, int(os.environ.get("OMP_NUM_THREADS", "")))
    except ValueError:
        return allowed_cores()


def calibration_path(threads: int, seconds: float) -> Path:
    """Where this machine's calibration of so many seconds with these libraries and threads is, as
    it is measured now.
    """
    machine = machine_facts()
    here = Path(__file__).parent
    how = "".join((here / f"cpu_{name}.py").read_text("utf-8") for name in ("kernels", "measure"))
    same = {
        "format": FORMAT,
        "how": hashlib.sha256(how.encode()).hexdigest(),
        "seconds": seconds,
        "threads": threads,
        "machine": {name: machine[name] for name in ("cpu", "cores", "cores_allowed", "python")},
        "versions": {name: installed_version(name) for name in ("torch", "numpy")},
    }
    key = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir("calibration", f"cpu-{key}.json")


def read(path: Path) -> CpuCalibration:
    """The calibration of a file. Errors: InputError for one that cannot be read or is another."""
    try:
        found = CpuCalibration.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        what = str(error).splitlines()[0]
        raise InputError(f"{path}: is no calibration of a CPU: {what}") from error
    if found.format != FORMAT:
        raise InputError(
            f"{path}: is a calibration of format {found.format}, and this version reads {FORMAT}; "
            "calibrate again"
        )
    return found


def write(path: Path, calibration: CpuCalibration) -> None:
    """Keep it: the whole file at once. Errors: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=".writing-", delete=False, encoding="utf-8"
    ) as file:
        file.write(calibration.to_json())
    os.replace(file.name, path)
