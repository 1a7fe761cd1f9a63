"""A good accelerator model and one that breaks each check."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from crosslayer.contracts import ops
from crosslayer.contracts.cost import Cost, CostTable
from crosslayer.contracts.hardware import HardwareSpec, Memory
from crosslayer.errors import UnsupportedOp

_HOME = os.environ.setdefault("KIT_ZOO_HOME", str(os.getpid()))


class Toy:
    """One FLOP a nanosecond, one joule a gigaFLOP; Gemms and elementwise work only."""

    source = "made up for the zoo"

    def __init__(self, params: Any) -> None:
        self.params = params

    def supports(self, op: Any) -> bool:
        return ops.op_type(op) in (ops.Gemm, ops.Elementwise)

    def seconds(self, op: Any) -> Any:
        return ops.flops(op) * 1e-9

    def joules(self, op: Any) -> Any:
        return ops.flops(op) * 1e-9

    def estimate(self, op: Any) -> Cost:
        if not self.supports(op):
            raise UnsupportedOp(f"the toy has no {type(op).__name__}")
        return Cost(
            float(self.seconds(op)),
            float(self.joules(op)),
            float(ops.flops(op)),
            float(ops.moved_bytes(op)),
        )

    def estimate_many(self, table: ops.OpTable) -> CostTable:
        rows = np.ones(len(table))
        return CostTable(
            self.seconds(table) * rows,
            self.joules(table) * rows,
            ops.flops(table) * rows,
            ops.moved_bytes(table) * rows,
            np.zeros(len(table), dtype=np.int8),
        )

    def describe(self) -> HardwareSpec:
        return HardwareSpec(
            name="toy", memories=(Memory(name="RAM", bytes=1, bytes_per_s=1, source=self.source),)
        )


class OnlyHere(Toy):
    def __init__(self, params: Any) -> None:
        if os.environ["KIT_ZOO_HOME"] != str(os.getpid()):
            raise RuntimeError("this process lacks what another one prepared")
        super().__init__(params)


class Negative(Toy):
    def joules(self, op: Any) -> Any:
        return 0 * ops.flops(op) - 1.0


class PricesWhatItRefuses(Toy):
    def estimate(self, op: Any) -> Cost:
        return super().estimate(op) if self.supports(op) else Cost(0.0)


class Shrinks(Toy):
    def seconds(self, op: Any) -> Any:
        return 1 / (1 + ops.flops(op))


class ColumnsDiffer(Toy):
    def estimate_many(self, table: ops.OpTable) -> CostTable:
        costs = super().estimate_many(table)
        return CostTable(
            costs.seconds * 1.01, costs.joules, costs.flops, costs.bytes, costs.bound_by
        )


class SlowGraph(Toy):
    def estimate_graph(self, graph: Any) -> Cost:
        return Cost(10 * graph.total(self.seconds))


class Unsourced(Toy):
    source = " "
