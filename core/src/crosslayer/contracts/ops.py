"""Ops: what an accelerator model prices. An op is a row; an `OpTable` holds the same fields as
columns.

`flops(op)` and `moved_bytes(op)` are plain functions of the fields, so they take an op and get a
number, or take a table and get a column. Numeric fields may be fractional (an expected number of
experts, mean keys a query). FLOPs are dense-equivalent: a pruned Gemm counts the multiplications of
its dense shape, as torch.utils.flop_counter does; `effective_flops` leaves the pruned ones out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np

from crosslayer.contracts.formats import NMSparsity, number_format, stored_bytes

Annotations = tuple[tuple[str, float | str], ...]


@dataclass(frozen=True, slots=True)
class Gemm:
    """[m, k] x [k, n] -> [m, n]; `m` counts the rows over all groups, each group has its own [k,
    n].

    `stationary`: the second operand is a stored "weight", or an "activation" made in this step
    (then it is dense, in `weight_format`). `groups` may be fractional: the distinct experts a batch
    is expected to hit. `outlier_share` of the activation elements travel in `outlier_format`.
    """

    m: float
    k: float
    n: float
    groups: float = 1
    stationary: Literal["weight", "activation"] = "weight"
    weight_format: str = "bf16"
    activation_format: str = "bf16"
    sparsity: str | None = None
    bias: bool = False
    outlier_share: float = 0.0
    outlier_format: str | None = None
    annotations: Annotations = ()
    name: str = ""
    numeric: ClassVar[tuple[str, ...]] = ("m", "k", "n", "groups")


@dataclass(frozen=True, slots=True)
class Attention:
    """Scores and weighted sum of one layer for a batch of sequences in one phase.

    queries: new tokens over all sequences. pairs: query x key pairs that are computed, a head.
    kv_tokens and kv_bytes: what is read of the cache, the new tokens included. The new tokens' K
    and V are written too.
    """

    sequences: float
    queries: float
    pairs: float
    kv_tokens: float
    kv_bytes: float
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    phase: Literal["prefill", "decode"] = "decode"
    causal: bool = True
    activation_format: str = "bf16"
    kv_format: str = "bf16"
    annotations: Annotations = ()
    name: str = ""
    numeric: ClassVar[tuple[str, ...]] = (
        "sequences",
        "queries",
        "pairs",
        "kv_tokens",
        "kv_bytes",
        "heads",
        "kv_heads",
        "head_dim",
        "value_dim",
    )


@dataclass(frozen=True, slots=True)
class SelectiveScan:
    """The recurrence of a state-space block: h = exp(dt A) h + dt B x, y = C h + D x.

    channels x state per sequence is the recurrent state, read and written once a step. `heads` is
    None where each channel has its own dt and A (Mamba), the number of heads where they are shared
    (Mamba-2).
    """

    tokens: float
    sequences: float
    channels: int
    state: int
    groups: int = 1
    heads: int | None = None
    activation_format: str = "bf16"
    state_format: str = "fp32"
    annotations: Annotations = ()
    name: str = ""
    numeric: ClassVar[tuple[str, ...]] = ("tokens", "sequences", "channels", "state", "groups")


@dataclass(frozen=True, slots=True)
class CircularConvolution:
    """`vectors` circular convolutions (binding) of dimension `dim`: y[i] = sum_j a[j] b[(i - j) mod
    dim].
    """

    vectors: float
    dim: int
    activation_format: str = "int8"
    annotations: Annotations = ()
    name: str = ""
    numeric: ClassVar[tuple[str, ...]] = ("vectors", "dim")


@dataclass(frozen=True, slots=True)
class Conv2d:
    """A convolution; `positions` are output positions (batch x height x width), `inputs` input
    positions.

    A 1-D convolution has kernel_h = 1. Depthwise: groups = in_channels.
    """

    positions: float
    inputs: float
    in_channels: int
    out_channels: int
    kernel_h: int
    kernel_w: int
    groups: int = 1
    weight_format: str = "bf16"
    activation_format: str = "bf16"
    bias: bool = False
    annotations: Annotations = ()
    name: str = ""
    numeric: ClassVar[tuple[str, ...]] = (
        "positions",
        "inputs",
        "in_channels",
        "out_channels",
        "kernel_h",
        "kernel_w",
        "groups",
    )


@dataclass(frozen=True, slots=True)
class Elementwise:
    """Norms, activations, gates, additions, embedding look-ups: `elements` outputs, `reads`
    operands each.
    """

    elements: float
    kind: str = "add"
    reads: int = 1
    flops_per_element: int = 1
    weight_elements: int = 0
    weight_format: str = "bf16"
    activation_format: str = "bf16"
    annotations: Annotations = ()
    name: str = ""
    numeric: ClassVar[tuple[str, ...]] = (
        "elements",
        "reads",
        "flops_per_element",
        "weight_elements",
    )


@dataclass(frozen=True, slots=True)
class Collective:
    """Communication of one step: `payload_bytes` is the size of each device's full tensor."""

    payload_bytes: float
    devices: int
    kind: Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"] = "all_reduce"
    annotations: Annotations = ()
    name: str = ""
    numeric: ClassVar[tuple[str, ...]] = ("payload_bytes",)


Op = Gemm | Attention | SelectiveScan | CircularConvolution | Conv2d | Elementwise | Collective


class OpTable:
    """Many ops of one type: numeric fields are columns (or one number for all rows), the rest is
    common.

    `table.m` is the column, `table.row(i)` the op, `len(table)` the rows. Columns are float64.
    """

    __slots__ = ("_fields", "op_type", "rows")

    def __init__(
        self, op_type: type[Any], columns: Mapping[str, Any], rows: int | None = None
    ) -> None:
        template = op_type(**columns)  # the dataclass fills the defaults and refuses unknown names
        self.op_type = op_type
        self._fields: dict[str, Any] = {}
        lengths = set()
        for spec in fields(op_type):
            value = getattr(template, spec.name)
            if isinstance(value, np.ndarray):
                if spec.name not in op_type.numeric:
                    raise ValueError(f"{op_type.__name__}.{spec.name} cannot be a column")
                value = np.asarray(value, dtype=np.float64)
                lengths.add(len(value))
            self._fields[spec.name] = value
        if len(lengths) > 1:
            raise ValueError(f"columns of {op_type.__name__} differ in length: {sorted(lengths)}")
        self.rows = lengths.pop() if lengths else (1 if rows is None else rows)

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "_fields")[name]
        except KeyError:
            raise AttributeError(f"{self.op_type.__name__} has no field {name!r}") from None

    def __len__(self) -> int:
        return self.rows

    def row(self, index: int) -> Op:
        """The op of one row."""
        values = {
            name: float(value[index]) if isinstance(value, np.ndarray) else value
            for name, value in self._fields.items()
        }
        op: Op = self.op_type(**values)
        return op

    def __iter__(self) -> Iterator[Op]:
        return (self.row(i) for i in range(self.rows))


def op_type(op: Op | OpTable) -> type[Any]:
    """The class of an op, or of the rows of a table."""
    return op.op_type if isinstance(op, OpTable) else type(op)


def changed(op: Any, **changes: Any) -> Any:
    """An op, or a table, with other values in some fields."""
    if not isinstance(op, OpTable):
        return replace(op, **changes)
    columns = {spec.name: getattr(op, spec.name) for spec in fields(op.op_type)}
    return OpTable(op.op_type, columns | changes, rows=len(op))


def flops(op: Any) -> Any:
    """Floating-point operations, dense-equivalent (a multiply and an add are two); a column for a
    table.
    """
    kind = op_type(op)
    if kind is Gemm:
        return 2 * op.m * op.k * op.n
    if kind is Attention:
        return 2 * op.pairs * op.heads * (op.head_dim + op.value_dim)
    if kind is SelectiveScan:
        # a channel and state: dA h, + dt B x, C h and its sum; dt A and exp too unless a head
        # shares them; a channel: dt x, D x and its sum
        return op.tokens * op.channels * ((7 if op.heads is None else 5) * op.state + 3)
    if kind is CircularConvolution:
        return 2 * op.vectors * op.dim * op.dim
    if kind is Conv2d:
        taps = op.kernel_h * op.kernel_w * op.in_channels / op.groups
        return 2 * op.positions * op.out_channels * taps
    if kind is Elementwise:
        return op.elements * op.flops_per_element
    return 0 * op.payload_bytes


def effective_flops(op: Any) -> Any:
    """`flops` without the multiplications by pruned weights."""
    if op_type(op) is Gemm and op.sparsity is not None:
        return flops(op) * NMSparsity.parse(op.sparsity).density
    return flops(op)


def weight_bytes(op: Any) -> Any:
    """Stored operand bytes that the op reads once, as `formats.pack` would write them: scales, zero
    points and N:M indices included. An operand that is an activation is never packed.
    """
    kind = op_type(op)
    if kind is Gemm:
        if op.stationary == "activation":
            return op.groups * op.k * op.n * number_format(op.weight_format).storage_bits / 8
        pattern = None if op.sparsity is None else NMSparsity.parse(op.sparsity)
        bias = stored_bytes(1, op.n, op.activation_format) if op.bias else 0
        return op.groups * (stored_bytes(op.n, op.k, op.weight_format, pattern) + bias)
    if kind is Conv2d:
        taps = op.kernel_h * op.kernel_w * op.in_channels / op.groups
        return stored_bytes(1, op.out_channels * (taps + op.bias), op.weight_format)
    if kind is Elementwise:
        has = op.weight_elements > 0
        return has * stored_bytes(1, op.weight_elements, op.weight_format)
    return 0


def activation_bytes(op: Any) -> Any:
    """Bytes of operands and results that are not stored weights (KV cache and recurrent state
    included).
    """
    kind = op_type(op)
    if kind is Collective:
        return op.payload_bytes
    bits = number_format(op.activation_format).storage_bits
    if kind is Gemm:
        read = op.m * op.k * bits
        if op.outlier_share:
            wide = number_format(op.outlier_format).storage_bits
            read = op.m * op.k * (bits * (1 - op.outlier_share) + wide * op.outlier_share)
        return (read + op.m * op.n * bits) / 8
    if kind is Attention:
        queries = op.queries * op.heads * (op.head_dim + op.value_dim) * bits / 8
        written = number_format(op.kv_format).storage_bits / 8
        kv = op.queries * op.kv_heads * (op.head_dim + op.value_dim) * written
        return queries + kv + op.kv_bytes
    if kind is SelectiveScan:
        steps = op.channels if op.heads is None else op.heads
        rows = op.tokens * (2 * op.channels + steps + 2 * op.groups * op.state) * bits / 8
        state = number_format(op.state_format).storage_bits / 8
        return rows + 2 * op.sequences * op.channels * op.state * state
    if kind is CircularConvolution:
        return 3 * op.vectors * op.dim * bits / 8
    if kind is Conv2d:
        return (op.inputs * op.in_channels + op.positions * op.out_channels) * bits / 8
    return op.elements * (op.reads + 1) * bits / 8


def moved_bytes(op: Any) -> Any:
    """Bytes that cross the memory interface once each: weights, operands and results."""
    return weight_bytes(op) + activation_bytes(op)


@dataclass(frozen=True, slots=True)
class OpGraph:
    """Ops with how often each repeats (one after the other) and edges (from, to) by position.

    Nodes are in topological order: every edge goes forward. Seconds of a node count `repeats`
    times.
    """

    nodes: tuple[Op, ...]
    repeats: tuple[int, ...]
    edges: tuple[tuple[int, int], ...] = field(default=())

    def __post_init__(self) -> None:
        if len(self.nodes) != len(self.repeats):
            raise ValueError(f"{len(self.nodes)} nodes but {len(self.repeats)} repeats")
        for start, end in self.edges:
            if not 0 <= start < end < len(self.nodes):
                raise ValueError(
                    f"edge {start}->{end} does not go forward among {len(self.nodes)} nodes"
                )

    def total(self, quantity: Any) -> float:
        """Sum of `quantity(op)` times repeats, e.g. `graph.total(flops)`."""
        return float(sum(r * quantity(op) for op, r in zip(self.nodes, self.repeats, strict=True)))

    def critical_path(self, seconds: list[float]) -> float:
        """Longest path through the edges, `seconds[i]` a single repeat of node i."""
        finish = [0.0] * len(self.nodes)
        start = [0.0] * len(self.nodes)
        incoming: list[list[int]] = [[] for _ in self.nodes]
        for a, b in self.edges:
            incoming[b].append(a)
        for i in range(len(self.nodes)):
            start[i] = max((finish[a] for a in incoming[i]), default=0.0)
            finish[i] = start[i] + self.repeats[i] * seconds[i]
        return max(finish, default=0.0)
