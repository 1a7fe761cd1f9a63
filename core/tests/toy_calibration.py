"""A stored calibration of round figures, and kernels whose times are known: a machine of ten lines.

Its calls take no time; they move the hands of a clock.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from crosslayer.accelerators.cpu_calibration import CpuCalibration, Curve, ProductGrid
from crosslayer.accelerators.cpu_kernels import Call


def curve(name: str, per_unit: float, call: float = 0.0) -> Curve:
    sizes = (1e3, 1e6)
    return Curve(name=name, sizes=sizes, seconds=tuple(call + per_unit * size for size in sizes))


def calibration(**changes: Any) -> CpuCalibration:
    """10 GFLOP/s at one row and 100 at 64, in fp32; bf16 at half the time for one row."""
    rows, weights = (1.0, 64.0), (1e4, 1e6)
    cells = tuple(
        tuple(2 * m * w / rate for w in weights) for m, rate in zip(rows, (1e10, 1e11), strict=True)
    )
    half = tuple(tuple(cell / 2 for cell in row) for row in cells)
    values: dict[str, Any] = {
        "cpu": "Toy CPU", "cores": 4, "threads": 2, "library": "torch", "version": "9",
        "measured_on": "2030-01-01", "took_s": 1.5, "disagreement": 0.01, "memory_bytes": 1e9,
        "cache_bytes": 1e6, "copy_bytes_per_s": 2e10, "cache_bytes_per_s": 5e10, "call_s": 5e-6,
        "products": (
            ProductGrid(format="fp32", rows=rows, weights=weights, seconds=cells),
            ProductGrid(format="bf16", rows=rows, weights=weights, seconds=half),
        ),
        "elementwise": tuple(
            curve(kind, 1e-9, 3e-6)
            for kind in ("norm", "rope", "embedding", "silu_gate", "silu", "add")
        ),
        "depthwise": curve("depthwise", 2e-9),
        "prefill_attention": curve("prefill", 1e-11, 1e-5),
        "decode_attention": curve("decode", 1e-10, 1e-5),
        "scan_step": curve("scan", 1e-9, 1e-5),
    }  # fmt: skip
    return CpuCalibration(**values | changes)


class KnownKernels:
    """Kernels of a machine whose every time can be worked out: `call_s` a product and two
    operations per multiplication at `rate`, 10 GB/s, and so on.
    """

    name, formats = "numpy", ("fp32",)
    call_s, rate, bytes_per_s = 5e-6, 1e10, 1e10

    def __init__(self, pool_bytes: int) -> None:
        self.now = 0.0
        self.half = pool_bytes // 2

    def clock(self) -> float:
        return self.now

    def quiet(self) -> Any:
        return nullcontext()

    def takes(self, seconds: float) -> Call:
        def call(i: int) -> None:
            self.now += seconds

        return call

    def copy(self, size_bytes: int | None) -> tuple[Call, int]:
        moved = 2 * (size_bytes or self.half)
        return self.takes(moved / self.bytes_per_s), moved

    def product(self, m: int, k: int, n: int, form: str, cold: bool = True) -> Call:
        return self.takes(self.call_s + 2 * m * k * n / self.rate)

    def elementwise(self, kind: str, rows: int) -> Call:
        return self.takes({"norm": 3e-9, "add": 1e-9}.get(kind, 2e-9) * rows * 1024)

    def depthwise(self, positions: int) -> Call:
        return self.takes(1e-10 * positions * 1024 * 4)  # channels, taps

    def prefill_attention(self, tokens: int) -> Call:
        pairs = tokens * (tokens + 1) / 2
        return self.takes(pairs * 8 * (2 * 64 + 2 * 64) / self.rate)  # heads, q k and then v

    def decode_attention(self, context: int) -> Call:
        return self.takes(context * 2 * (64 + 64) * 4 / self.bytes_per_s)  # KV heads, K and V, fp32

    def scan_step(self, elements: int) -> Call:
        return self.takes(1e-9 * elements)
