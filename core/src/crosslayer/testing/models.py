"""Checks of models that a package brings, and of evaluators."""

from __future__ import annotations

from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.report import Report
from crosslayer.kinds import Instance, ModelArtifact, Stack
from crosslayer.testing.kit import CheckFailed, Subject, check
from crosslayer.testing.transforms import tiny_model
from crosslayer.testing.writes import strays, watched_writes


@check("model")
def the_spec_survives_json(subject: Subject) -> None:
    """A model's spec is written to the run directory and read back."""
    artifact = subject.build()
    if not isinstance(artifact, ModelArtifact):
        raise CheckFailed(f"its factory returns a {type(artifact).__name__}, not a ModelArtifact")
    if ModelSpec.from_json(artifact.spec.to_json()) != artifact.spec:
        raise CheckFailed("the spec differs after a round trip through JSON")


@check("model")
def the_spec_counts_the_live_parameters(subject: Subject) -> None:
    """Where there is a live module, the spec has exactly its parameters."""
    artifact = subject.build()
    if not isinstance(artifact, ModelArtifact) or artifact.live is None:
        return
    live = sum(value.numel() for value in artifact.live.module.parameters())
    if live != artifact.spec.parameters:
        raise CheckFailed(
            f"the spec counts {artifact.spec.parameters} parameters, the live module has {live}"
        )


def _stack() -> Stack:
    model = tiny_model()
    return Stack(instances=(Instance("tiny", model),), originals={"tiny": model})


def check_report(report: object) -> None:
    """Names are unique, and every metric says its unit, provenance and source (the contract checks
    their form).
    """
    if not isinstance(report, Report):
        raise CheckFailed(f"it returns a {type(report).__name__}, not a Report")
    if not report.metrics:
        raise CheckFailed("its report has no metric")
    for what, names in (
        ("metric", [metric.name for metric in report.metrics]),
        ("table", [table.name for table in report.tables]),
        ("figure", [figure.name for figure in report.figures]),
    ):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise CheckFailed(f"two {what}s are called {sorted(twice)[0]!r}")
    for metric in report.metrics:
        if not metric.unit.strip():
            raise CheckFailed(
                f"metric {metric.name} has no unit; write 'fraction' or 'count' if it has none"
            )


@check("evaluator")
def same_seed_same_evaluation(subject: Subject) -> None:
    """Two evaluations with one seed give the same report, wall-clock numbers apart."""
    first = subject.build().evaluate(_stack(), subject.context("first"))
    check_report(first)
    second = subject.build().evaluate(_stack(), subject.context("second"))
    if steady(first) != steady(second):
        raise CheckFailed(
            "two evaluations differ; draw from context.rng only, and mark times wall_clock"
        )


def steady(report: Report) -> Report:
    """The report without what no second run repeats."""
    return report.replace(
        metrics=tuple(metric for metric in report.metrics if not metric.wall_clock),
        tables=tuple(table for table in report.tables if not table.wall_clock),
    )


@check("evaluator")
def an_evaluation_writes_only_into_its_output_folder(subject: Subject) -> None:
    """Everything a step writes is in the run directory or the cache."""
    context = subject.context("writes")
    stack = _stack()
    for instance in stack.instances:  # opening may write temporary files, which are not the step's
        _ = instance.model.live and (instance.model.live.module, instance.model.live.tokenizer)
    with watched_writes() as seen:
        subject.build().evaluate(stack, context)
    outside = strays(seen, context.output)
    if outside:
        raise CheckFailed(f"it writes {outside[0]}; write below context.output")
