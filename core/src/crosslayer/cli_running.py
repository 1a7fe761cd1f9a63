"""What `check`, `run`, `fetch` and `check-plugin` do and print; each returns its exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from crosslayer.cli_listing import print_json
from crosslayer.errors import DependencyError, InputError
from crosslayer.registry import KINDS

if TYPE_CHECKING:
    from crosslayer.registry import Registry


def check(file: Path, registry: Registry, as_json: bool) -> int:
    """Every problem of a pipeline file, one line each."""
    from crosslayer.pipeline import PipelineErrors, check_file

    pipeline, problems = check_file(file, registry)
    if as_json:
        print_json(
            {
                "file": str(file),
                "valid": pipeline is not None,
                "problems": [asdict(problem) for problem in problems],
            }
        )
    elif pipeline is not None:
        print(f"{file}: nothing wrong with {pipeline.name!r}")
    else:
        for problem in problems:
            print(problem)
    return 0 if pipeline is not None else PipelineErrors(problems).exit_code


def fetch(name: str | None, list_: bool, as_json: bool) -> int:
    """Download one asset, or list them all."""
    from crosslayer import fetch as assets
    from crosslayer.progress import progress_for

    if list_:
        _list_assets(as_json)
        return 0
    if name is None:
        raise InputError("fetch: name what to fetch, or list it with `crosslayer fetch --list`")
    path = assets.fetch(name, progress_for())
    if as_json:
        print_json({"name": name, "path": str(path)})
    else:
        print(path)
    return 0


def _list_assets(as_json: bool) -> None:
    from crosslayer.fetch import assets

    if as_json:
        print_json([asdict(asset) | {"path": str(asset.path)} for asset in assets()])
        return
    for asset in assets():
        size = f"{asset.bytes / 1e6:.1f} MB (download {asset.download_bytes / 1e6:.1f} MB)"
        print(f"{asset.name}: {asset.summary}")
        print(f"  size     {size}")
        print(f"  licence  {asset.licence}")
        print(f"  sha256   {asset.sha256}")
        print(f"  path     {asset.path} ({'there' if asset.present else 'not fetched yet'})")


def check_plugin(name: str, registry: Registry, as_json: bool) -> int:
    """The conformance checks of a component, or of all that a plugin registers; 4 if one fails."""
    from crosslayer.testing import check_plugin as check_component

    results = [
        result
        for use in _components(name, registry)
        for result in check_component(use, registry=registry)
    ]
    failed = [result for result in results if not result.passed]
    if as_json:
        print_json([asdict(result) | {"passed": result.passed} for result in results])
    else:
        for result in results:
            print(f"{'ok' if result.passed else 'FAILED':<7} {result.component}: {result.check}")
            if not result.passed:
                print(f"        {result.message}")
        print(f"{len(results) - len(failed)} of {len(results)} checks passed")
    return 4 if failed else 0


def _components(name: str, registry: Registry) -> list[str]:
    """The components that a plugin of this name registers, or the one component of this name."""
    for failure in registry.failures:
        if name in (failure.entry_point, failure.distribution):
            raise DependencyError(str(failure))
    found = {
        component: None
        for kind in KINDS
        for component, one in registry.components(kind).items()
        if name in (one.origin.entry_point, one.origin.distribution)
    }
    return [*found] or [name]


def run(file: Path, registry: Registry, threads: int | None, runs_dir: Path, as_json: bool) -> int:
    """Run a pipeline file; print its metrics and where the report is."""
    from crosslayer.pipeline import PipelineErrors
    from crosslayer.progress import progress_for
    from crosslayer.render.values import format_value
    from crosslayer.runner import run as run_pipeline

    try:
        done = run_pipeline(
            file, registry=registry, threads=threads, runs_dir=runs_dir, progress=progress_for()
        )
    except PipelineErrors as error:
        print(error, file=sys.stderr)  # as `check` prints them: FILE:LINE: MESSAGE
        return error.exit_code
    html = done.directory / "report.html"
    if as_json:
        metrics = [metric.model_dump(mode="json") for metric in done.report.metrics]
        print_json({"directory": str(done.directory), "report": str(html), "metrics": metrics})
        return 0
    rows = [
        (
            metric.name,
            format_value(metric.value, metric.unit),
            " to ".join(format_value(end, metric.unit) for end in metric.interval or ()),
            metric.provenance,
            metric.source,
        )
        for metric in done.report.metrics
    ]
    for line in columns(("metric", "value", "interval", "provenance", "source"), rows):
        print(line)
    print(f"report: {html}")
    return 0


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table, columns as wide as their cells; one of empty cells is left out."""
    used = [place for place in range(len(head)) if any(row[place] for row in rows)]
    widths = [max(len(row[place]) for row in (head, *rows)) for place in used]
    for row in (head, *rows) if used else ():
        cells = (row[place].ljust(width) for place, width in zip(used, widths, strict=True))
        yield "  ".join(cells).rstrip()
