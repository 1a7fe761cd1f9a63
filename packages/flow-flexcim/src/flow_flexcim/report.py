"""What flow shows: metrics, a table with a row per block, and a figure over the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crosslayer.contracts.report import Column, Figure, Metric, Panel, Provenance, Series, Table
from crosslayer.contracts.sparsity import NMSparsity


@dataclass(frozen=True)
class BlockRow:
    """A block and its pattern; shares are None where no weights were looked at.

    outlier_density: share of its weights that are outliers. dropped: share of the outliers' scores
    that the pattern drops. error: relative squared output error, mean over its linears.
    """

    block: str
    pattern: NMSparsity
    weights: int
    outlier_density: float | None = None
    dropped: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a plan did. rows: in order of the blocks. source: on what the numbers stand."""

    rows: tuple[BlockRow, ...]
    sparsity: float
    target: float
    bytes_before: int
    bytes_after: int
    provenance: Provenance
    source: str
    note: str


def metrics(outcome: Outcome) -> tuple[Metric, ...]:
    """Achieved sparsity, bytes of the block linears, and, where measured, what was dropped."""

    def metric(name: str, value: float, unit: str, better: str | None, note: str = "") -> Metric:
        return Metric.model_validate(
            {
                "name": name,
                "value": value,
                "unit": unit,
                "provenance": outcome.provenance,
                "source": outcome.source,
                "better": better,
                "note": f"{outcome.note} {note}".strip(),
            }
        )

    asked = f"Achieved; {outcome.target:g} was asked for."
    found = [
        metric("flow_sparsity", outcome.sparsity, "1", None, asked),
        metric("flow_weight_bytes", outcome.bytes_after, "bytes", "lower", _BYTES),
        metric("flow_weight_bytes_before", outcome.bytes_before, "bytes", "lower", _BYTES),
    ]
    for name, share, note in (
        ("flow_dropped_outlier_share", _mean(outcome.rows, "dropped"), _DROPPED),
        ("flow_relative_output_error", _mean(outcome.rows, "error"), _ERROR),
    ):
        if share is not None:
            found.append(metric(name, share, "1", "lower", f"{note} Mean over blocks by weights."))
    return tuple(found)


def table(outcome: Outcome) -> Table:
    """`flow_blocks`: pattern, density, outliers, what was dropped and the error of each block."""
    measured = outcome.provenance
    return Table(
        name="flow_blocks",
        title="The pattern of each decoder block and what it drops",
        columns=(
            Column(name="block"),
            Column(name="pattern (kept:of)"),
            Column(name="density", unit="1", provenance=measured),
            Column(name="outlier density", unit="1", provenance=measured),
            Column(name="dropped outlier share", unit="1", provenance=measured),
            Column(name="relative output error", unit="1", provenance=measured),
        ),
        rows=tuple(
            (
                row.block,
                str(row.pattern),
                row.pattern.density,
                row.outlier_density,
                row.dropped,
                row.error,
            )
            for row in outcome.rows
        ),
        note=outcome.note,
    )


def figure(outcome: Outcome) -> Figure:
    """Kept of M, density, and the two shares dropped, over the blocks."""
    rows = outcome.rows
    panels = [
        Panel(
            series=tuple(_kept(rows, m) for m in sorted({row.pattern.m for row in rows})),
            y_label="kept weights of each M",
            kind="points",
        ),
        Panel(
            series=(_series("density", rows, [row.pattern.density for row in rows]),),
            y_label="density of the block's linears",
            kind="steps",
        ),
    ]
    shares = [
        _series(label, rows, [getattr(row, name) for row in rows])
        for label, name in (("output error", "error"), ("outliers' scores", "dropped"))
        if all(getattr(row, name) is not None for row in rows)
    ]
    if shares:
        panels.append(
            Panel(
                series=tuple(shares),
                y_label="share lost: relative output error, outliers' scores that are dropped",
                kind="points",
            )
        )
    return Figure(
        name="flow_blocks",
        title="What flow keeps of each decoder block, and what it drops",
        x_label="decoder block, 0 is the first",
        panels=tuple(panels),
        provenance=outcome.provenance,
        source=outcome.source,
        note=outcome.note,
    )


_BYTES = "Of the block linears: packed values, indices, biases."
_DROPPED = "Share of the outliers' scores that the patterns drop."
_ERROR = (
    "Squared error of a linear's output over its squared size, on the calibration text, as if its "
    "inputs were uncorrelated; mean over linears."
)


def _kept(rows: Sequence[BlockRow], m: int) -> Series:
    at = [i for i, row in enumerate(rows) if row.pattern.m == m]
    return Series(
        label=f"M = {m}",
        x=tuple(map(float, at)),
        y=tuple(float(rows[i].pattern.n) for i in at),
    )


def _series(label: str, rows: Sequence[BlockRow], values: Sequence[float]) -> Series:
    return Series(label=label, x=tuple(float(i) for i in range(len(rows))), y=tuple(values))


def _mean(rows: Sequence[BlockRow], name: str) -> float | None:
    """Mean of a share over blocks, weighted by their weights; None where a block has none."""
    shares = [getattr(row, name) for row in rows]
    if any(share is None for share in shares):
        return None
    total = sum(row.weights for row in rows)
    return float(sum(row.weights * share for row, share in zip(rows, shares, strict=True)) / total)
