"""What a finished run gives back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslayer.contracts.report import Metric, Report, Table
from crosslayer.contracts.shown import Shown
from crosslayer.errors import InputError, nearest

if TYPE_CHECKING:
    import matplotlib.figure

    from crosslayer.pipeline.schema import Pipeline


class Metrics(Mapping[str, Metric]):
    """Metrics by name: `metrics["perplexity"]` is the Metric, `metrics.value("perplexity")` its
    number.
    """

    def __init__(self, metrics: tuple[Metric, ...]) -> None:
        self._metrics = {metric.name: metric for metric in metrics}

    def __getitem__(self, name: str) -> Metric:
        if name not in self._metrics:
            raise KeyError(f"no metric {name!r}; {nearest(name, self._metrics)}")
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    def value(self, name: str) -> float:
        """The number alone."""
        return self[name].value

    def __repr__(self) -> str:
        return f"<Metrics {', '.join(self._metrics)}>"

    def __rich__(self) -> Any:
        from crosslayer.render.terminal import metrics_table

        return metrics_table(tuple(self._metrics.values()))

    def _repr_html_(self) -> str:
        from crosslayer.render.notebook import block, metrics_table

        return block(metrics_table(tuple(self._metrics.values())))


@dataclass(frozen=True)
class Step:
    """A step of a run: seconds it took here, and whether its result came from the cache."""

    name: str
    seconds: float
    cached: bool


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """A finished run. report: everything it has to show, times of this machine included.

    directory: report.html, report.json, run.json, pipeline.lock.toml and what the steps wrote.
    info: what run.json holds. lock: the text of the lock file. In a notebook, its numbers.
    """

    pipeline: Pipeline
    report: Report
    directory: Path
    steps: tuple[Step, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    lock: str = ""

    @property
    def metrics(self) -> Metrics:
        """The report's metrics by name."""
        return Metrics(self.report.metrics)

    def table(self, name: str) -> Table:
        """A table of the report; KeyError lists what there is."""
        return self.report.table(name)

    def figure(self, name: str) -> matplotlib.figure.Figure:
        """A figure of the report, drawn by matplotlib; KeyError lists what there is."""
        from crosslayer.render.figures import draw

        return draw(self.report.figure(name))

    def to_frame(self) -> Any:
        """The metrics as a pandas DataFrame, a row each by name: value, unit, low, high,
        provenance and source. DependencyError without pandas.
        """
        return self.report.to_frame()

    def file(self, name: str) -> Path:
        """A file that a step wrote, by its name in the report. InputError with the nearest name."""
        files = {file.name: file.path for file in self.report.files}
        if name not in files:
            raise InputError(f"the run wrote no file {name!r}; {nearest(name, files)}")
        return self.directory / files[name]

    def __repr__(self) -> str:
        seconds = sum(step.seconds for step in self.steps)
        counts = f"{len(self.report.metrics)} metrics, {len(self.report.tables)} tables"
        return f"<Run {self.pipeline.name!r}: {counts}, {seconds:.1f} s, {self.directory}>"
