"""An accelerator with fallbacks: a refused op is offered in plain parts, then to the next one."""

from __future__ import annotations

from typing import Any

from crosslayer.contracts.cost import Cost, CostTable
from crosslayer.contracts.hardware import HardwareSpec
from crosslayer.contracts.ops import Op, OpTable
from crosslayer.contracts.plain_parts import in_plain_parts
from crosslayer.errors import UnsupportedOp
from crosslayer.stepcost import price, price_many


class WithFallback:
    """An AcceleratorModel that asks each of `accelerators` in turn. Costs of a fallback carry its
    name in detail.

    `describe` is the first one's. A first one with `estimate_graph` keeps it only without
    fallbacks: a graph whose ops run on two devices has no overlap that either of them could know.
    """

    def __init__(self, accelerators: tuple[Any, ...]) -> None:
        self.accelerators = accelerators

    def describe(self) -> HardwareSpec:
        """The first accelerator's hardware."""
        spec: HardwareSpec = self.accelerators[0].describe()
        return spec

    def chosen(self, op: Op) -> Any | None:
        """The accelerator that prices this op: itself or in plain parts; None if nobody does."""
        for accelerator in self.accelerators:
            if takes(accelerator, op):
                return accelerator
        return None

    def supports(self, op: Op) -> bool:
        """True if any of them prices the op."""
        return self.chosen(op) is not None

    def estimate(self, op: Op) -> Cost:
        """Cost on the first that takes the op. Errors: UnsupportedOp with each one's reason."""
        accelerator = self.chosen(op)
        if accelerator is None:
            raise UnsupportedOp(refusal(self.accelerators, op))
        cost = price(accelerator, op)
        if accelerator is self.accelerators[0]:
            return cost
        name = accelerator.describe().name
        detail = (*cost.detail, (f"fallback {name}_s", cost.seconds))
        return Cost(cost.seconds, cost.joules, cost.flops, cost.bytes, cost.bound_by, detail)

    def estimate_many(self, table: OpTable) -> CostTable:
        """The same as columns; which accelerator takes a table is decided on its first row."""
        first = table.row(0)
        accelerator = self.chosen(first)
        if accelerator is None:
            raise UnsupportedOp(refusal(self.accelerators, first))
        return price_many(accelerator, table)


def with_fallback(accelerators: tuple[Any, ...]) -> Any:
    """The accelerator itself if it stands alone, else it with its fallbacks."""
    return accelerators[0] if len(accelerators) == 1 else WithFallback(accelerators)


def first_of(accelerator: Any) -> Any:
    """The accelerator itself, or the one before its fallbacks."""
    several = isinstance(accelerator, WithFallback)
    return accelerator.accelerators[0] if several else accelerator


def with_first(accelerator: Any, first: Any) -> Any:
    """The same fallbacks, if it has some, behind another first accelerator."""
    if not isinstance(accelerator, WithFallback):
        return first
    return WithFallback((first, *accelerator.accelerators[1:]))


def takes(accelerator: Any, op: Op) -> bool:
    """True if the accelerator prices the op, itself or in plain parts."""
    if accelerator.supports(op):
        return True
    parts = in_plain_parts(op)
    return bool(parts) and all(accelerator.supports(part) for part in parts)


def refusal(accelerators: tuple[Any, ...], op: Op) -> str:
    """One sentence: what is not priced, and why by each accelerator that was asked."""
    reasons = []
    for accelerator in accelerators:
        try:
            accelerator.estimate(op)
        except UnsupportedOp as error:
            reasons.append(f"{accelerator.describe().name}: {error}")
    what = f"{type(op).__name__} {op.name!r}"
    return f"no accelerator prices {what} ({'; '.join(reasons)}); add a fallback"
