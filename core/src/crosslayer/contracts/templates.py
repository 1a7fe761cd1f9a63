"""Which ops a pass over a model has: templates without a step's numbers, one set for equal blocks.

Tensor parallelism follows Megatron-LM (arXiv 1909.08053, section 3): column-parallel then
row-parallel with one all-reduce after each row-parallel product. The templates are those of one
device, all pipeline stages in turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from crosslayer.contracts import ops
from crosslayer.contracts.formats import number_format
from crosslayer.contracts.model import (
    Attention,
    Block,
    Conv,
    Elementwise,
    Embedding,
    Linear,
    ModelSpec,
    MoE,
    Norm,
    SelectiveScan,
)
from crosslayer.contracts.steps import PHASES
from crosslayer.errors import InputError

NORM_FLOPS = 4  # square, sum, scale, weight


@dataclass(frozen=True, slots=True)
class Parallel:
    """How one model is split over devices: tensor ways, pipeline stages."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def devices(self) -> int:
        """Devices that one copy of the model takes."""
        return self.tensor * self.pipeline


ONE_DEVICE = Parallel()


@dataclass(frozen=True, slots=True)
class Template:
    """An op without the step's numbers.

    driver: what its size follows: "tokens", "logits", "sequences", "scan" (tokens and sequences) or
    "attention". constants: fields that no step changes. scale: (field, factor) pairs; the field is
    the driver times the factor. experts: (all, active) where a batch reads the expected distinct
    experts.
    """

    op: type[Any]
    driver: str
    constants: tuple[tuple[str, Any], ...]
    scale: tuple[tuple[str, float], ...] = ()
    experts: tuple[int, int] | None = None
    load: tuple[int, int] | None = None
    kv_share: float = 1.0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A template with the positions (in its block) of the nodes it comes after."""

    template: Template
    after: tuple[int, ...]


def unique_templates(
    spec: ModelSpec, parallel: Parallel = ONE_DEVICE
) -> tuple[tuple[Template, int], ...]:
    """Every different template with how often a pass runs it: what step costing goes through."""
    counts: dict[Template, int] = {}
    for block, count in templates(spec, parallel):
        for node in block:
            key = _nameless(node.template)
            counts[key] = counts.get(key, 0) + count
    return tuple(counts.items())


def _nameless(template: Template) -> Template:
    return replace(template, name="")


@lru_cache(maxsize=256)
def templates(spec: ModelSpec, parallel: Parallel) -> tuple[tuple[tuple[Node, ...], int], ...]:
    """The different blocks in order of first use, each with how often it occurs."""
    counts: dict[tuple[Node, ...], int] = {}
    for block in spec.blocks:
        nodes = tuple(_Builder(spec, parallel).block(block))
        if nodes:
            counts[nodes] = counts.get(nodes, 0) + 1
    if parallel.pipeline > 1:
        payload = spec.hidden * number_format(_stream_format(spec)).storage_bits / 8
        send = Template(
            ops.Collective,
            "tokens",
            (("devices", 2), ("kind", "send")),
            (("payload_bytes", payload),),
        )
        counts[(Node(send, ()),)] = parallel.pipeline - 1
    return tuple(counts.items())


def _stream_format(spec: ModelSpec) -> str:
    return spec.blocks[0].parts[-1].activation_format


class _Builder:
    """Turns one block into nodes; holds where each part ended up."""

    def __init__(self, spec: ModelSpec, parallel: Parallel) -> None:
        self.spec = spec
        self.ways = parallel.tensor
        self.nodes: list[Node] = []
        self.end_of: dict[str, tuple[int, ...]] = {}
        self.sharded: set[str] = (
            set()
        )  # parts whose results are split over the tensor-parallel devices

    def block(self, block: Block) -> list[Node]:
        last: tuple[str, ...] = ()
        for part in block.parts:
            sources = last if part.after is None else part.after
            after = tuple(sorted({i for name in sources for i in self.end_of[name]}))
            split = any(name in self.sharded for name in sources)
            self.end_of[part.name] = self.part(part, after, split, block.annotations)
            last = (part.name,)
        return self.nodes

    def add(self, template: Template, after: tuple[int, ...]) -> tuple[int, ...]:
        self.nodes.append(Node(template, after))
        return (len(self.nodes) - 1,)

    def divided(self, part: Any, what: str, count: int) -> int:
        if count % self.ways:
            raise InputError(
                f"{part.name}: {count} {what} do not divide over tensor_parallel = {self.ways}"
            )
        return count // self.ways

    def part(self, part: Any, after: tuple[int, ...], split: bool, notes: Any) -> tuple[int, ...]:
        annotations = ("annotations", part.annotations + notes)
        formats = (("activation_format", part.activation_format), annotations)
        share = self.ways if split and self.ways > 1 else 1
        if split:
            self.sharded.add(part.name)
        if isinstance(part, Linear):
            return self.linear(part, after, notes)
        if isinstance(part, MoE):
            return self.moe(part, after, notes)
        if isinstance(part, Attention):
            return self.attention(part, after, formats)
        constants: tuple[tuple[str, Any], ...]
        if isinstance(part, SelectiveScan):
            heads = (
                part.heads
                if part.heads is None
                else self.divided(part, "heads", part.heads)
                if share > 1
                else part.heads
            )
            constants = (
                ("channels", part.channels // share),
                ("state", part.state),
                ("groups", part.groups),
                ("heads", heads),
                ("state_format", part.state_format),
                *formats,
            )
            return self.add(Template(ops.SelectiveScan, "scan", constants, name=part.name), after)
        if isinstance(part, Conv):
            constants = (
                ("in_channels", part.in_channels // share),
                ("out_channels", part.out_channels // share),
                ("kernel_h", part.kernel_h),
                ("kernel_w", part.kernel_w),
                ("groups", max(1, part.groups // share)),
                ("bias", part.bias),
                ("weight_format", part.weight_format),
                *formats,
            )
            scale = (("positions", part.positions), ("inputs", part.input_positions))
            return self.add(
                Template(ops.Conv2d, part.rows, constants, scale, name=part.name), after
            )
        width, kind, reads, work = _elementwise(part)
        constants = (
            ("kind", kind),
            ("reads", reads),
            ("flops_per_element", work),
            ("weight_elements", part.parameters if isinstance(part, Norm) else 0),
            ("weight_format", part.weight_format),
            *formats,
        )
        template = Template(
            ops.Elementwise, part.rows, constants, (("elements", width // share),), name=part.name
        )
        return self.add(template, after)

    def linear(
        self,
        part: Linear,
        after: tuple[int, ...],
        notes: Any,
        experts: tuple[int, int] | None = None,
        rows: str | None = None,
    ) -> tuple[int, ...]:
        k, n = part.inputs, part.outputs
        if self.ways > 1 and part.shard == "column":
            # a vocabulary is padded to a multiple of the devices (Megatron-LM), other widths not
            head = part.rows == "logits"
            n = -(-n // self.ways) if head else self.divided(part, "outputs", n)
            self.sharded.add(part.name)
        elif self.ways > 1 and part.shard == "row":
            k = self.divided(part, "inputs", k)
            self.sharded.discard(part.name)
        constants = (
            ("k", k),
            ("n", n),
            ("weight_format", part.weight_format),
            ("activation_format", part.activation_format),
            ("sparsity", part.sparsity),
            ("bias", part.bias),
            ("outlier_share", part.outlier_share),
            ("outlier_format", part.outlier_format),
            ("annotations", part.annotations + notes),
        )
        driver = rows or part.rows
        scale = (("m", experts[1] if experts else 1),)
        end = self.add(Template(ops.Gemm, driver, constants, scale, experts, name=part.name), after)
        gathers = part.shard == "column" and driver == "logits"
        if self.ways > 1 and (part.shard == "row" or gathers):
            # experts are mixed on each device before the sum over devices: one row a token
            payload = part.outputs * number_format(part.activation_format).storage_bits / 8
            kind = "all_gather" if gathers else "all_reduce"
            collective = (("devices", self.ways), ("kind", kind))
            self.sharded.discard(part.name)
            end = self.add(
                Template(
                    ops.Collective,
                    driver,
                    collective,
                    (("payload_bytes", payload),),
                    name=f"{part.name}.{kind}",
                ),
                end,
            )
        return end

    def moe(self, part: MoE, after: tuple[int, ...], notes: Any) -> tuple[int, ...]:
        notes = part.annotations + notes
        routed = self.linear(part.router, after, notes, rows=part.rows)
        ends = []
        for inner, start, experts in (
            (part.expert, routed, (part.experts, part.active)),
            (part.shared, after, None),
        ):
            ends_of: dict[str, tuple[int, ...]] = {}
            end = start
            for piece in inner:
                sources = start if piece.after == () else end
                if piece.after:
                    sources = tuple(sorted({i for name in piece.after for i in ends_of[name]}))
                if isinstance(piece, Linear):
                    end = self.linear(piece, sources, notes, experts, part.rows)
                else:
                    width, kind, reads, work = _elementwise(piece)
                    width *= experts[1] if experts else 1
                    constants = (
                        ("kind", kind),
                        ("reads", reads),
                        ("flops_per_element", work),
                        ("activation_format", piece.activation_format),
                        ("annotations", piece.annotations + notes),
                    )
                    scale = (("elements", width / self.ways),)
                    end = self.add(
                        Template(ops.Elementwise, part.rows, constants, scale, name=piece.name),
                        sources,
                    )
                ends_of[piece.name] = end
            if inner:
                ends += list(end)
        return tuple(sorted(ends))

    def attention(
        self, part: Attention, after: tuple[int, ...], formats: tuple[Any, ...]
    ) -> tuple[int, ...]:
        heads = self.divided(part, "attention heads", part.heads)
        kv_heads = max(1, part.kv_heads // self.ways)
        if self.ways > 1:
            self.sharded.add(part.name)
        constants = (
            ("heads", heads),
            ("kv_heads", kv_heads),
            ("head_dim", part.head_dim),
            ("value_dim", part.values),
            ("causal", part.causal),
            ("kv_format", part.kv_format),
            *formats,
        )
        c = self.spec.attention_classes.index(part.attention_class)
        ends: tuple[int, ...] = ()
        for p, phase in enumerate(PHASES):
            template = Template(
                ops.Attention,
                "attention",
                (*constants, ("phase", phase)),
                load=(c, p),
                kv_share=kv_heads / part.kv_heads,
                name=f"{part.name}.{phase}",
            )
            ends += self.add(template, after)
        return ends


def _elementwise(part: Any) -> tuple[int, str, int, int]:
    """(results a row, kind, operands, FLOPs a result) of the parts that touch each element once."""
    if isinstance(part, Embedding):
        return part.width, "embedding", 1, 0
    if isinstance(part, Norm):
        return part.width * part.copies, "norm", 1, NORM_FLOPS
    if isinstance(part, Elementwise):
        return part.width, part.function, part.reads, part.flops_per_element
    raise TypeError(f"no lowering for {type(part).__name__} {part.name}")
