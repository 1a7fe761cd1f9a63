"""Two small accelerators for tests: a weight-stationary systolic array, without and with resident
weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosslayer.contracts import ops
from crosslayer.contracts.cost import BOUNDS, Cost, CostTable
from crosslayer.contracts.hardware import HardwareSpec, Memory
from crosslayer.errors import UnsupportedOp

CLOCK_HZ = 1e9


class Array:
    """H x W multiply-accumulate cells; Gemm cycles as in SCALE-Sim's weight-stationary mode, (2H +
    W + M - 2) a tile.

    Refuses Attention and Conv2d, so that they arrive in plain parts. Elementwise work and scans run
    on a vector unit of W lanes. `resident`: weights are on chip already, so they cost neither
    loading nor traffic.
    """

    def __init__(
        self, rows: int = 16, columns: int = 16, resident: bool = False, bytes_per_s: float = 64e9
    ) -> None:
        self.rows, self.columns, self.resident, self.bytes_per_s = (
            rows,
            columns,
            resident,
            bytes_per_s,
        )

    def describe(self) -> HardwareSpec:
        memory = Memory(
            name="DRAM", bytes=1e9, bytes_per_s=self.bytes_per_s, source="made up for tests"
        )
        return HardwareSpec(name="test array", memories=(memory,), clock_hz=CLOCK_HZ)

    def supports(self, op: Any) -> bool:
        return isinstance(op, (ops.Gemm, ops.Elementwise, ops.SelectiveScan)) or (
            isinstance(op, ops.Conv2d) and op.groups > 1
        )

    def estimate(self, op: Any) -> Cost:
        if not self.supports(op):
            raise UnsupportedOp(f"the test array has no {type(op).__name__}")
        seconds, bound = self._seconds(op)
        return Cost(
            float(seconds),
            0.0,
            float(ops.flops(op)),
            float(ops.moved_bytes(op)),
            BOUNDS[int(bound)],
        )

    def estimate_many(self, table: ops.OpTable) -> CostTable:
        seconds, bound = self._seconds(table)
        shape = (len(table),)
        full = [
            np.broadcast_to(np.asarray(x, dtype=np.float64), shape)
            for x in (seconds, ops.flops(table), ops.moved_bytes(table))
        ]
        return CostTable(
            full[0],
            np.zeros(shape),
            full[1],
            full[2],
            np.broadcast_to(bound, shape).astype(np.int8),
        )

    def _seconds(self, op: Any) -> tuple[Any, Any]:
        moved = ops.activation_bytes(op)
        if ops.op_type(op) is ops.Gemm:
            groups = np.maximum(op.groups, 1e-12)
            tiles = np.ceil(op.k / self.rows) * np.ceil(op.n / self.columns)
            load = 0 if self.resident and op.stationary == "weight" else self.rows
            cycles = np.where(
                op.m > 0,
                op.groups * tiles * (load + self.rows + self.columns + op.m / groups - 2),
                0,
            )
        else:
            cycles = ops.flops(op) / self.columns
        if not self.resident:
            moved = moved + ops.weight_bytes(op)
        compute, memory = cycles / CLOCK_HZ, moved / self.bytes_per_s
        return np.maximum(compute, memory), np.where(compute >= memory, 0, 1)
