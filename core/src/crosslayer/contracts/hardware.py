"""What an accelerator model says about its hardware; every figure names its source."""

from __future__ import annotations

from pydantic import Field

from crosslayer.contracts.base import Value


class Rate(Value):
    """Peak arithmetic rate for one operand format. `sparsity`: the pattern that reaches it, None
    for dense.
    """

    format: str
    flops_per_s: float = Field(gt=0)
    sparsity: str | None = None
    source: str


class Memory(Value):
    """A memory: capacity in bytes, bandwidth in bytes per second."""

    name: str
    bytes: float = Field(gt=0)
    bytes_per_s: float = Field(gt=0)
    source: str


class Port(Value):
    """A link to other devices: bandwidth in bytes per second one way, latency in seconds."""

    name: str
    bytes_per_s: float = Field(gt=0)
    latency_s: float = Field(ge=0)
    source: str


class HardwareSpec(Value):
    """Peak rates by format, memories, ports, clock, area and power; None where the model has no
    figure.
    """

    name: str
    rates: tuple[Rate, ...] = ()
    memories: tuple[Memory, ...] = ()
    ports: tuple[Port, ...] = ()
    launch_overhead_s: float = Field(0.0, ge=0)
    launch_source: str = ""
    clock_hz: float | None = None
    area_mm2: float | None = None
    power_w: float | None = None
    power_source: str = ""
    notes: tuple[str, ...] = ()
