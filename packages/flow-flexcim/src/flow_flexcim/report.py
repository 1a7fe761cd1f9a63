"""What flow shows: metrics, a table with a row per block, and a figure over the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crosslayer.contracts.report import Column, Figure, Metric, Panel, Provenance, Series, Table
from crosslayer.contracts.sparsity import NMSparsity

if TYPE_CHECKING:
    from flow_flexcim.recovery import Recovery


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
    """What a plan did. rows: in order of the blocks. target: the sparsity asked for, None
    where a file has the plan.

    live: whether weights were looked at and packed; without them every number is arithmetic on the
    spec. source: the weights and the text of what was measured.
    """

    rows: tuple[BlockRow, ...]
    sparsity: float
    target: float | None
    bytes_before: int
    bytes_after: int
    model: str
    live: bool
    source: str
    note: str
    recovery: Recovery | None = None


def metrics(outcome: Outcome) -> tuple[Metric, ...]:
    """Achieved sparsity, bytes of the block linears, and, of a live model, what was dropped.

    Only what looked at weights, text or the packed buffers is measured.
    """

    def metric(
        name: str, value: float, unit: str, better: str | None, note: str, measured: bool, by: str
    ) -> Metric:
        return Metric.model_validate(
            {
                "name": name,
                "value": value,
                "unit": unit,
                "provenance": "measured" if measured else "modelled",
                "source": outcome.source if measured else f"{by} of {outcome.model}",
                "better": better,
                "note": f"{outcome.note} {note}".strip(),
            }
        )

    asked = "Achieved" + ("." if outcome.target is None else f"; {outcome.target:g} was asked for.")
    bytes_before = ("flow_weight_bytes_before", outcome.bytes_before, "bytes", "lower", _BYTES)
    found = [
        metric("flow_sparsity", outcome.sparsity, "1", None, asked, False, _PATTERNS),
        metric(
            *("flow_weight_bytes", outcome.bytes_after, "bytes", "lower", _BYTES),
            *(outcome.live, _SPEC),
        ),
        metric(*bytes_before, False, _SPEC),
    ]
    for name, share, note, measured in (
        ("flow_dropped_outlier_share", _mean(outcome.rows, "dropped"), _DROPPED, True),
        ("flow_relative_output_error", _mean(outcome.rows, "error"), _ERROR, False),
    ):
        if share is not None:
            note = f"{note} Mean over blocks by weights."
            found.append(metric(name, share, "1", "lower", note, measured, _DIAGONAL))
    if outcome.recovery is not None:
        done = outcome.recovery
        for name, value, unit, note in (
            ("flow_recovery_tokens", done.tokens, "tokens", "Tokens of masked fine-tuning."),
            ("flow_recovery_loss_first", done.loss_first, "nat/token", _FIRST),
            ("flow_recovery_loss_last", done.loss_last, "nat/token", _LAST),
            ("flow_recovery_s", done.seconds, "s", "Time of masked fine-tuning."),
        ):
            told = metric(name, value, unit, "lower", note, True, "")
            found.append(told.replace(wall_clock=True) if unit == "s" else told)
    return tuple(found)


def table(outcome: Outcome) -> Table:
    """`flow_blocks`: pattern, density, outliers, what was dropped and the error of each block."""
    return Table(
        name="flow_blocks",
        title="The pattern of each decoder block and what it drops",
        columns=(
            Column(name="block"),
            Column(name="pattern (kept:of)"),
            Column(name="density", unit="1", provenance="modelled"),
            Column(name="outlier density", unit="1", provenance=_looked(outcome)),
            Column(name="dropped outlier share", unit="1", provenance=_looked(outcome)),
            Column(name="relative output error", unit="1", provenance="modelled"),
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
        note=f"{outcome.note} {_MIXED if outcome.live else ''}".strip(),
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
        provenance="modelled",
        source=f"{_PATTERNS} of {outcome.model}",
        note=f"{outcome.note} {_MIXED if outcome.live else ''}".strip(),
    )


def _looked(outcome: Outcome) -> Provenance:
    return "measured" if outcome.live else "modelled"


_FIRST = "Training loss over the first tenth of the steps."
_LAST = "Training loss over the last tenth of the steps."
_SPEC = "arithmetic on the spec"
_PATTERNS = "arithmetic on the patterns"
_DIAGONAL = "weights and mean squares of the inputs, taken as uncorrelated,"
_MIXED = (
    "Outliers and what is dropped of them are measured; densities are arithmetic; the output error "
    "is an estimate that takes inputs as uncorrelated."
)
_BYTES = "Of the block linears: packed values, indices, biases."
_DROPPED = "Share of the outliers' scores that the patterns drop where the largest scores stay."
_ERROR = (
    "Squared error of a linear's output over its squared size, on the calibration text, as if its "
    "inputs were uncorrelated and no weight were updated; mean over linears."
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
