"""The oracle that lowering is tested against: every sequence alone, every query counted one by one.

It shares no arithmetic with `lowering` and `steps`: no columns, no merging of equal blocks, no
closed formula for key counts. It is slow, and only for a single device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crosslayer.contracts import ops
from crosslayer.contracts.lowering import FRACTIONS_OF_AN_EXPERT
from crosslayer.contracts.model import (
    Attention,
    Conv,
    Elementwise,
    Embedding,
    Linear,
    ModelSpec,
    MoE,
    Norm,
    SelectiveScan,
)
from crosslayer.contracts.ops import OpGraph
from crosslayer.contracts.steps import Logits, SequenceState
from crosslayer.contracts.templates import NORM_FLOPS


def lower_exact(
    spec: ModelSpec, sequences: Sequence[SequenceState], logits: Logits = "last"
) -> tuple[OpGraph, ...]:
    """One graph a sequence, its nodes in the order of the blocks' parts; the same node reads the
    same weights. A sequence that feeds nothing has none.
    """
    sequences = [state for state in sequences if state[0]]
    graphs = []
    batch_tokens = {"tokens": sum(new for new, _, _ in sequences)}
    batch_tokens["sequences"] = len(sequences)
    batch_tokens["logits"] = sum(_logits_rows(new, logits) for new, _, _ in sequences)
    for new, cached, generated in sequences:
        rows = {"tokens": new, "sequences": 1, "logits": _logits_rows(new, logits)}
        nodes: list[Any] = []
        for block in spec.blocks:
            for part in block.parts:
                nodes += _part(part, rows, batch_tokens, (new, cached, generated))
        graphs.append(OpGraph(tuple(nodes), (1,) * len(nodes)))
    return tuple(graphs)


def exact_totals(graphs: Sequence[OpGraph]) -> tuple[float, float]:
    """(FLOPs, bytes) of the batch: each stored weight is read once a pass, everything else once a
    sequence.
    """
    flops = sum(graph.total(ops.flops) for graph in graphs)
    moved = sum(graph.total(ops.activation_bytes) for graph in graphs)
    for nodes in zip(*(graph.nodes for graph in graphs), strict=True):
        moved += max(ops.weight_bytes(node) if _works(node) else 0.0 for node in nodes)
    return flops, moved


def _works(op: Any) -> bool:
    return bool(ops.activation_bytes(op) > 0)


def _logits_rows(new: int, logits: Logits) -> int:
    return {"last": 1, "all": new, "none": 0}[logits]


def _part(
    part: Any, rows: dict[str, int], batch: dict[str, int], state: SequenceState
) -> list[Any]:
    count = rows[part.rows]
    common = {"activation_format": part.activation_format, "name": part.name}
    if isinstance(part, Linear):
        return [_gemm(part, count, 1)]
    if isinstance(part, MoE):
        # an expert is missed by all tokens with probability (1 - active / experts) ^ tokens
        missed = 1.0 - part.active / part.experts
        hit = part.experts * (1.0 - missed ** batch[part.rows])
        hit = round(hit * FRACTIONS_OF_AN_EXPERT) / FRACTIONS_OF_AN_EXPERT
        made = [_gemm(part.router, count, 1)]
        for pieces, copies, groups in ((part.expert, part.active, hit), (part.shared, 1, 1)):
            for piece in pieces:
                if isinstance(piece, Linear):
                    made.append(_gemm(piece, count * copies, groups))
                else:
                    made.append(
                        _touch(
                            piece, piece.width, count * copies, piece.reads, piece.flops_per_element
                        )
                    )
        return made
    if isinstance(part, Attention):
        pairs, read, read_bytes = _count_keys(part, state)
        new, cached, generated = state
        decodes = generated > 0 or (new == 1 and cached > 0)
        return [
            ops.Attention(
                sequences=1,
                queries=new,
                pairs=pairs,
                kv_tokens=read,
                kv_bytes=read_bytes,
                heads=part.heads,
                kv_heads=part.kv_heads,
                head_dim=part.head_dim,
                value_dim=part.values,
                causal=part.causal,
                phase="decode" if decodes else "prefill",
                kv_format=part.kv_format,
                **common,
            )
        ]
    if isinstance(part, SelectiveScan):
        return [
            ops.SelectiveScan(
                tokens=rows["tokens"],
                sequences=1,
                channels=part.channels,
                state=part.state,
                groups=part.groups,
                heads=part.heads,
                state_format=part.state_format,
                **common,
            )
        ]
    if isinstance(part, Conv):
        return [
            ops.Conv2d(
                positions=count * part.positions,
                inputs=count * part.input_positions,
                in_channels=part.in_channels,
                out_channels=part.out_channels,
                kernel_h=part.kernel_h,
                kernel_w=part.kernel_w,
                groups=part.groups,
                bias=part.bias,
                weight_format=part.weight_format,
                **common,
            )
        ]
    if isinstance(part, Embedding):
        return [_touch(part, part.width, count, 1, 0)]
    if isinstance(part, Norm):
        return [_touch(part, part.width * part.copies, count, 1, NORM_FLOPS, part.parameters)]
    assert isinstance(part, Elementwise)
    return [_touch(part, part.width, count, part.reads, part.flops_per_element)]


def _gemm(part: Linear, rows: int, groups: float) -> Any:
    return ops.Gemm(
        m=rows,
        k=part.inputs,
        n=part.outputs,
        groups=groups,
        weight_format=part.weight_format,
        activation_format=part.activation_format,
        sparsity=part.sparsity,
        bias=part.bias,
        outlier_share=part.outlier_share,
        outlier_format=part.outlier_format,
        name=part.name,
    )


def _touch(part: Any, width: int, rows: int, reads: int, work: int, weights: int = 0) -> Any:
    return ops.Elementwise(
        elements=rows * width,
        reads=reads,
        flops_per_element=work,
        weight_elements=weights,
        weight_format=part.weight_format,
        activation_format=part.activation_format,
        name=part.name,
    )


def _count_keys(part: Attention, state: SequenceState) -> tuple[int, int, float]:
    """(query x key pairs, tokens read, bytes read): walks the queries and the keys each of them
    sees.
    """
    new, cached, generated = state
    per_token = part.kv_bytes_per_token
    if part.kv_curve is not None:
        tokens, stored = part.kv_curve.live(cached, generated)
        live, live_bytes = int(tokens), float(stored)
    else:
        live, live_bytes = cached + generated, (cached + generated) * per_token
    seen: set[int] = set()
    pairs = 0
    for query in range(live, live + new):
        first = 0 if part.window is None or not part.causal else max(0, query + 1 - part.window)
        last = query if part.causal else live + new - 1
        pairs += last - first + 1
        seen.update(
            (first, last)
        )  # the keys between them are seen too: ranges overlap from query to query
    if not seen:
        return 0, 0, 0.0
    read = max(seen) - min(seen) + 1
    if part.kv_curve is not None or part.window is None:
        return pairs, read, live_bytes + new * per_token
    return pairs, read, read * per_token
