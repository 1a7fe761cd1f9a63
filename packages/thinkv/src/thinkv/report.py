"""What thinkv shows: bytes against the full cache, bits, floor, and the timeline of thoughts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.report import Column, Figure, Metric, Panel, Provenance, Series, Table
from thinkv.thoughts import Thought


@dataclass(frozen=True)
class Outcome:
    """What a cache held after `tokens` tokens, or is expected to.

    kinds: bytes by kind. bits: mean bits of an element that is alive, without and with scales.
    trajectory: (tokens, bytes). segments: (start, sparsity, type, alive).
    """

    tokens: int
    provenance: Provenance
    source: str
    note: str
    stored: float
    full: float
    alive: float
    floor: int
    unreachable: bool
    kinds: Mapping[str, int]
    bits: tuple[float, float] | None
    trajectory: Sequence[tuple[int, float]]
    segments: Sequence[tuple[int, float | None, Thought, int]]


def metrics(outcome: Outcome) -> tuple[Metric, ...]:
    """Bytes, their share of the full cache's, tokens alive, floor, mean bits where measured."""

    def metric(
        name: str, value: float, unit: str, better: str | None, note: str = "", source: str = ""
    ) -> Metric:
        return Metric.model_validate(
            {
                "name": name,
                "value": float(value),
                "unit": unit,
                "provenance": "modelled" if source else outcome.provenance,
                "source": source or outcome.source,
                "better": better,
                "note": f"{note} {outcome.note}".strip(),
            }
        )

    after = f"After {outcome.tokens} tokens of one sequence, all layers."
    floor = "No eviction can leave fewer: the last rung of each whole segment, and the live one."
    if outcome.unreachable:
        floor += " The budget is below it and was not reached."
    found = [
        metric("thinkv_kv_bytes", outcome.stored, "bytes", "lower", f"{after} {_COUNTED}"),
        metric("thinkv_kv_bytes_full", outcome.full, "bytes", "lower", after, _SHAPES),
        metric("thinkv_kv_share", outcome.stored / outcome.full, "1", "lower", after),
        metric("thinkv_alive_tokens", outcome.alive, "tokens", None, "In each layer."),
        metric("thinkv_floor_tokens", outcome.floor, "tokens", None, floor, _LADDER),
    ]
    if outcome.bits is not None:
        found += [
            metric("thinkv_code_bits", outcome.bits[0], "bits", "lower", "Codes alone."),
            metric("thinkv_stored_bits", outcome.bits[1], "bits", "lower", "Codes and scales."),
        ]
    return tuple(found)


def tables(outcome: Outcome) -> tuple[Table, ...]:
    """Bytes by kind and the segments with their types, where there are any."""
    found = []
    if outcome.kinds:
        total = sum(outcome.kinds.values())
        found.append(
            Table(
                name="thinkv_bytes",
                title="What the cache's bytes are",
                columns=(
                    Column(name="kind"),
                    Column(name="bytes", unit="bytes", provenance=outcome.provenance),
                    Column(name="share", unit="1", provenance=outcome.provenance),
                ),
                rows=tuple((kind, size, size / total) for kind, size in outcome.kinds.items()),
                note=outcome.note,
            )
        )
    if outcome.segments:
        found.append(
            Table(
                name="thinkv_segments",
                title="The segments, their types and what is left of them",
                columns=(
                    Column(name="first token"),
                    Column(name="type"),
                    Column(name="sparsity", unit="1", provenance=outcome.provenance),
                    Column(name="alive", unit="tokens", provenance=outcome.provenance),
                ),
                rows=tuple(
                    (start, thought.name.lower(), sparsity, alive)
                    for start, sparsity, thought, alive in outcome.segments
                ),
                note="Sparsity of the row that labelled the segment. " + outcome.note,
            )
        )
    return tuple(found)


def figure(outcome: Outcome, before: ModelSpec, after: ModelSpec) -> Figure:
    """Bytes of the cache over the tokens of a sequence: full, the spec's curve, and measured."""
    x = [tokens for tokens, _ in outcome.trajectory]
    series = [
        Series(
            label="full cache, by the spec",
            x=tuple(map(float, x)),
            y=tuple(before.kv_bytes(0, tokens) for tokens in x),
        ),
        Series(
            label="thinkv, the spec's curve",
            x=tuple(map(float, x)),
            y=tuple(after.kv_bytes(0, tokens) for tokens in x),
        ),
    ]
    if outcome.provenance == "measured":
        series.append(
            Series(
                label="thinkv, allocated here",
                x=tuple(map(float, x)),
                y=tuple(float(stored) for _, stored in outcome.trajectory),
            )
        )
    return Figure(
        name="thinkv_bytes",
        title="Bytes of the KV cache of one sequence",
        x_label="tokens of the sequence",
        panels=(Panel(series=tuple(series), y_label="bytes, all layers"),),
        provenance=outcome.provenance,
        source=outcome.source,
        note=outcome.note,
    )


_SHAPES = "shapes and formats of the model before the transform"
_LADDER = "the ladder of thinkv's rules"
_COUNTED = "Codes, scales, tables, buffer and evicted slots included."
