"""The parts of a model's blocks: shapes, formats, sparsity, the path of the live module."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from crosslayer.contracts.base import Value
from crosslayer.contracts.formats import NMSparsity, number_format, storage_bytes
from crosslayer.contracts.kv import AttentionClass, KVCurve

Annotations = tuple[tuple[str, float | str], ...]
Rows = Literal["tokens", "logits", "sequences"]


class _Part(Value):
    """name: unique in its block. path: the live module (None: no weights). rows: which rows it
    works on.

    after: the parts whose results it takes; None is the part before it, () the block's input.
    Formats are names of `contracts.formats`; activation_format is how results travel between parts.
    `parameters` is what the module at `path` holds itself, its submodules left out (a MoE's path is
    its whole block; its experts' paths are the stacked tensors of all experts).
    """

    name: str = Field(min_length=1)
    path: str | None = None
    rows: Rows = "tokens"
    after: tuple[str, ...] | None = None
    weight_format: str = "bf16"
    activation_format: str = "bf16"
    annotations: Annotations = ()

    @field_validator(
        "weight_format",
        "activation_format",
        "kv_format",
        "outlier_format",
        "state_format",
        check_fields=False,
    )
    @classmethod
    def _format_is_known(cls, value: str | None) -> str | None:
        return value if value is None else number_format(value).name

    @property
    def parameters(self) -> int:
        """Elements of the live module's parameters; shared ones count where they are first used."""
        return 0

    @property
    def weight_bytes(self) -> int:
        """Bytes the part's parameters ship in."""
        return storage_bytes((self.parameters,), self.weight_format) if self.parameters else 0


class Embedding(_Part):
    """A look-up table [entries, width]."""

    kind: Literal["embedding"] = "embedding"
    entries: int = Field(gt=0)
    width: int = Field(gt=0)

    @property
    def parameters(self) -> int:
        return self.entries * self.width

    @property
    def weight_bytes(self) -> int:
        return storage_bytes((self.entries, self.width), self.weight_format)


class Linear(_Part):
    """y = x W^T + b with W [outputs, inputs]; N:M groups and scales run along the inputs.

    tied: W belongs to another part (a tied LM head) and is read but not stored again. shard: how
    tensor parallelism splits it ("column": outputs, "row": inputs). outlier_share of the input
    elements travel in outlier_format. The bias ships in activation_format.
    """

    kind: Literal["linear"] = "linear"
    inputs: int = Field(gt=0)
    outputs: int = Field(gt=0)
    bias: bool = False
    tied: bool = False
    shard: Literal["column", "row"] | None = None
    sparsity: str | None = None
    outlier_share: float = Field(default=0.0, ge=0, le=1)
    outlier_format: str | None = None

    @model_validator(mode="after")
    def _pattern_divides_the_inputs(self) -> Linear:
        if self.sparsity is not None:
            pattern = NMSparsity.parse(self.sparsity)
            if self.inputs % pattern.m:
                raise ValueError(
                    f"{self.name}: {self.inputs} inputs do not divide into groups of "
                    f"{pattern.m} ({self.sparsity})"
                )
        if self.outlier_share and self.outlier_format is None:
            raise ValueError(f"{self.name}: an outlier share needs its outlier_format")
        return self

    @property
    def parameters(self) -> int:
        return (0 if self.tied else self.inputs * self.outputs) + (self.outputs if self.bias else 0)

    @property
    def weight_bytes(self) -> int:
        bias = storage_bytes((self.outputs,), self.activation_format) if self.bias else 0
        if self.tied:
            return bias
        pattern = NMSparsity.parse(self.sparsity) if self.sparsity is not None else None
        return storage_bytes((self.outputs, self.inputs), self.weight_format, pattern) + bias


class Norm(_Part):
    """A norm over `width` features (`copies`: how many, e.g. one a head); weight, maybe bias."""

    kind: Literal["norm"] = "norm"
    width: int = Field(gt=0)
    copies: int = Field(default=1, gt=0)
    weight: bool = True
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.width * (self.weight + self.bias)


class Elementwise(_Part):
    """Activations, gates, residual additions: `width` results a row, from `reads` operands each."""

    kind: Literal["elementwise"] = "elementwise"
    function: str = "add"
    width: int = Field(gt=0)
    reads: int = Field(default=1, gt=0)
    flops_per_element: int = Field(default=1, ge=0)


class Attention(_Part):
    """Scores, softmax and weighted sum; window: keys a query sees, itself included (None: all).

    kv_curve: what a cache policy keeps (None: everything, in kv_format).
    """

    kind: Literal["attention"] = "attention"
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    value_dim: int | None = Field(default=None, gt=0)
    window: int | None = Field(default=None, gt=0)
    causal: bool = True
    kv_format: str = "bf16"
    kv_curve: KVCurve | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> Attention:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.name}: {self.heads} heads do not divide over {self.kv_heads} KV heads"
            )
        return self

    @property
    def values(self) -> int:
        """Features of a value vector a head."""
        return self.value_dim or self.head_dim

    @property
    def kv_bytes_per_token(self) -> float:
        """K and V of one token in one layer, in kv_format."""
        elements = self.kv_heads * (self.head_dim + self.values)
        return elements * number_format(self.kv_format).storage_bits / 8

    @property
    def attention_class(self) -> AttentionClass:
        """What a layer's load depends on: layers of one class share it."""
        return AttentionClass(
            window=self.window,
            causal=self.causal,
            kv_curve=self.kv_curve,
            kv_bytes_per_token=self.kv_bytes_per_token,
        )


class SelectiveScan(_Part):
    """The state-space recurrence with its own parameters (A, D, the dt bias).

    heads: None for Mamba (A [channels, state], D [channels]); Mamba-2 shares A, D, dt bias per
    head.
    """

    kind: Literal["selective_scan"] = "selective_scan"
    channels: int = Field(gt=0)
    state: int = Field(gt=0)
    groups: int = Field(default=1, gt=0)
    heads: int | None = Field(default=None, gt=0)
    state_format: str = "fp32"
    own_parameters: int = Field(default=0, ge=0)

    @property
    def parameters(self) -> int:
        return self.own_parameters

    @property
    def state_bytes(self) -> float:
        """Recurrent state of one sequence."""
        return self.channels * self.state * number_format(self.state_format).storage_bits / 8


class Conv(_Part):
    """A convolution; positions and input_positions are spatial positions a row (1 for causal conv
    over tokens).

    cached: positions a sequence keeps between steps (a causal convolution's kernel - 1 last
    inputs).
    """

    kind: Literal["conv"] = "conv"
    in_channels: int = Field(gt=0)
    out_channels: int = Field(gt=0)
    kernel_h: int = Field(default=1, gt=0)
    kernel_w: int = Field(default=1, gt=0)
    groups: int = Field(default=1, gt=0)
    bias: bool = False
    positions: int = Field(default=1, gt=0)
    input_positions: int = Field(default=1, gt=0)
    cached: int = Field(default=0, ge=0)

    @property
    def parameters(self) -> int:
        taps = self.kernel_h * self.kernel_w * self.in_channels // self.groups
        return self.out_channels * (taps + self.bias)

    @property
    def state_bytes(self) -> float:
        """Cached inputs of one sequence."""
        return (
            self.cached * self.in_channels * number_format(self.activation_format).storage_bits / 8
        )


class MoE(_Part):
    """`active` of `experts` copies of `expert` run for each token; shared parts run for all; router
    first.
    """

    kind: Literal["moe"] = "moe"
    experts: int = Field(gt=0)
    active: int = Field(gt=0)
    router: Linear
    expert: tuple[Annotated[Linear | Elementwise, Field(discriminator="kind")], ...] = Field(
        min_length=1
    )
    shared: tuple[Annotated[Linear | Elementwise, Field(discriminator="kind")], ...] = ()

    @model_validator(mode="after")
    def _active_experts_exist(self) -> MoE:
        if self.active > self.experts:
            raise ValueError(f"{self.name}: {self.active} active of {self.experts} experts")
        return self

    @property
    def parameters(self) -> int:
        one = sum(part.parameters for part in self.expert)
        return (
            self.router.parameters
            + self.experts * one
            + sum(part.parameters for part in self.shared)
        )

    @property
    def weight_bytes(self) -> int:
        one = sum(part.weight_bytes for part in self.expert)
        return (
            self.router.weight_bytes
            + self.experts * one
            + sum(part.weight_bytes for part in self.shared)
        )


Part = Annotated[
    Embedding | Linear | Norm | Elementwise | Attention | SelectiveScan | Conv | MoE,
    Field(discriminator="kind"),
]
