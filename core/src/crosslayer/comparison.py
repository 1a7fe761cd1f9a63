"""Runs side by side: metrics with difference and interval, what changed, and interactions.

cl.compare("runs/dense", "runs/pruned")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosslayer.compare_inputs import (
    Changed,
    changed,
    inputs_of,
    order_of_transforms,
    squares,
    surroundings_of,
)
from crosslayer.compare_interaction import (
    InteractionTable,
    incomparable,
    interaction_table,
    ratio_like,
)
from crosslayer.compare_samples import Interval, Term, interval, samples_of
from crosslayer.contracts.report import Metric
from crosslayer.contracts.shown import Shown, data_frame
from crosslayer.errors import InputError
from crosslayer.load_run import load
from crosslayer.results import Run


@dataclass(frozen=True)
class Entry:
    """A metric of one run beside the baseline's.

    metric: None where the run has none of that name. difference, ratio: of this run's value, less
    or over the baseline's; None for the baseline itself and for what is no comparison. verdict:
    better, worse, ... in words. remark: what a reader must know before comparing.
    """

    run: str
    metric: Metric | None
    difference: float | None = None
    difference_interval: Interval | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None
    verdict: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Row:
    """A metric over all runs, the baseline first."""

    name: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What runs show beside each other; the first is the baseline.

    inputs: keys of the lock files whose values differ. surroundings: versions, threads and machine
    facts that differ. interactions: a table for each two-by-two design among the runs that has the
    baseline in it.
    """

    runs: tuple[str, ...]
    directories: tuple[Path, ...]
    metrics: tuple[Row, ...]
    inputs: tuple[Changed, ...]
    surroundings: tuple[Changed, ...]
    interactions: tuple[InteractionTable, ...]

    @property
    def baseline(self) -> str:
        """The name of the run that the others are compared with."""
        return self.runs[0]

    def metric(self, name: str) -> Row:
        """The row of that name; KeyError lists what there is."""
        for row in self.metrics:
            if row.name == name:
                return row
        raise KeyError(f"no metric {name!r}; there are: {', '.join(r.name for r in self.metrics)}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data for JSON."""
        data = asdict(self)
        data["directories"] = [str(path) for path in self.directories]
        for row, plain in zip(self.metrics, data["metrics"], strict=True):
            for entry, fields in zip(row.entries, plain["entries"], strict=True):
                fields["metric"] = entry.metric and entry.metric.model_dump(mode="json")
        return data

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row for each metric and run. DependencyError without pandas."""
        columns = [
            *("metric", "run", "value", "unit", "difference", "low", "high", "interval"),
            *("ratio", "provenance", "source", "verdict", "remark"),
        ]
        rows = []
        for row in self.metrics:
            for entry in row.entries:
                one, ends = entry.metric, entry.difference_interval
                rows.append(
                    (row.name, entry.run, one and one.value, one and one.unit, entry.difference,
                     ends and ends.low, ends and ends.high, ends and ends.how, entry.ratio,
                     one and one.provenance, one and one.source, entry.verdict, entry.remark)
                )  # fmt: skip
        return data_frame(columns, rows)

    def figure(self) -> Any:
        """The relative differences as a matplotlib figure; None where nothing changes."""
        from crosslayer.render.comparison_figure import draw_comparison

        return draw_comparison(self)

    def to_html(self) -> str:
        """One page: no request leaves it, no script runs, all text is escaped."""
        from crosslayer.render.comparison import page

        return page(self)

    def __repr__(self) -> str:
        return (
            f"<Comparison of {', '.join(self.runs)}: {len(self.metrics)} metrics,"
            f" {len(self.inputs)} inputs differ, {len(self.interactions)} two-by-two>"
        )


def compare(
    *runs: Run | str | Path,
    baseline: Run | str | Path | None = None,
    runs_dir: str | Path = "runs",
) -> Comparison:
    """Compare runs (or their directories, or names under `runs_dir`) with the first, or with
    `baseline`, which may be one of them.

    Errors: InputError for fewer than two runs, one given twice, and whatever `load` refuses.
    """
    loaded = [_run(one, runs_dir) for one in runs]
    if baseline is not None:
        base = _run(baseline, runs_dir)
        loaded = [base, *(run for run in loaded if not _same_run(run, base))]
    for place, run in enumerate(loaded):
        if any(_same_run(run, other) for other in loaded[:place]):
            raise InputError(f"{run.directory}: this run is given twice; name each run once")
    if len(loaded) < 2:
        raise InputError("a comparison needs two runs or more; name them one after the other")
    names = _names(loaded)
    inputs = [inputs_of(run) for run in loaded]
    tables = [
        interaction_table(
            *(square.a, square.b),
            [loaded[place] for place in square.runs],
            [names[place] for place in square.runs],
        )
        for square in squares(inputs)
    ]
    metrics = dict.fromkeys(name for run in loaded for name in run.metrics)
    return Comparison(
        runs=names,
        directories=tuple(run.directory for run in loaded),
        metrics=tuple(_row(name, loaded, names) for name in metrics),
        inputs=changed(inputs) + order_of_transforms(loaded),
        surroundings=changed([surroundings_of(run) for run in loaded]),
        interactions=tuple(tables),
    )


def _run(one: Run | str | Path, runs_dir: str | Path) -> Run:
    return one if isinstance(one, Run) else load(one, runs_dir=runs_dir)


def _same_run(one: Run, other: Run) -> bool:
    """The same object, or the same directory with the same content: a run in memory may have been
    replaced on disk since.
    """
    if one is other:
        return True
    same_place = one.directory.absolute() == other.directory.absolute()
    return same_place and one.info == other.info and one.lock == other.lock


def _names(runs: Sequence[Run]) -> tuple[str, ...]:
    """The directories' names; their paths where two are called alike; numbered where even these
    are.
    """
    names = [run.directory.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.directory) for run in runs]
    if len(set(names)) < len(names):
        names = [f"{name} ({place})" for place, name in enumerate(names, start=1)]
    return tuple(names)


def _row(name: str, runs: Sequence[Run], names: Sequence[str]) -> Row:
    base = runs[0].metrics.get(name)
    entries = [_first(names[0], base)]
    for run, called in zip(runs[1:], names[1:], strict=True):
        metric = run.metrics.get(name)
        if metric is None:
            entries.append(Entry(called, None, remark="missing"))
        elif base is None:
            entries.append(Entry(called, metric, remark="missing in the baseline"))
        else:
            entries.append(_entry(called, runs[0], base, run, metric))
    return Row(name, tuple(entries))


def _first(name: str, metric: Metric | None) -> Entry:
    return Entry(name, metric, remark="missing" if metric is None else "")


def _entry(name: str, base_run: Run, base: Metric, run: Run, metric: Metric) -> Entry:
    refused = incomparable((base, metric))
    if refused:
        return Entry(name, metric, remark=refused)
    terms = (
        Term(1, metric, samples_of(run, metric)),
        Term(-1, base, samples_of(base_run, base)),
    )
    between = interval(terms, "difference")
    log = interval(terms, "log")
    return Entry(
        run=name,
        metric=metric,
        difference=metric.value - base.value,
        difference_interval=between,
        ratio=_ratio(metric.value, base.value),
        ratio_interval=log and log.exp(),
        # Of a time or a perplexity, the ratio's interval is the one that decides: for perplexities
        # on the same windows it is exact, and that of the difference is not.
        verdict=_verdict(base, metric, between, log if _factors(base, metric) else None),
        remark="" if metric.source == base.source else "another source",
    )


def _ratio(value: float, base: float) -> float | None:
    """The quotient; None where there is none among the floats."""
    found = value / base if base else math.inf
    return found if math.isfinite(found) else None


def _factors(base: Metric, metric: Metric) -> bool:
    return ratio_like(metric, (base.value, metric.value))


def _verdict(base: Metric, metric: Metric, between: Interval | None, log: Interval | None) -> str:
    if math.isclose(metric.value, base.value, rel_tol=1e-9):
        return "unchanged"
    between = log or between
    if between is not None and 0.0 in between:
        return "no difference beyond the interval"
    if metric.better is None:
        return ""
    word = "better" if (metric.value < base.value) == (metric.better == "lower") else "worse"
    if between is None and metric.provenance in ("measured", "recorded"):
        return f"{word} (no interval)"
    return word
