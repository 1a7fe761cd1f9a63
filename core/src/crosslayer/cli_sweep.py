"""`crosslayer sweep`: its options, and what it prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crosslayer.cli_group import registry_of
from crosslayer.errors import InputError

if TYPE_CHECKING:
    from crosslayer.sweeps.results import SweepResult

SHOWN_ROWS = 40


def sweep(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A pipeline file (TOML).")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=V1,V2",
            help="Values for a key, such as transform.flow.sparsity=0.3,0.5. Several: a grid.",
        ),
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--zip", help="Take the values of all keys side by side, not a grid.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Points one by one: a .csv, or a .toml of [[point]]."),
    ] = None,
    pareto: Annotated[
        str | None, typer.Option(metavar="X,Y", help="The two metrics of the Pareto front.")
    ] = None,
    executor: Annotated[
        str, typer.Option(metavar="NAME", help="local: processes; ray: a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help="Of a Ray cluster. Default: one is started here."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Points at once. Default: what cores and memory allow."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores of each point.")] = 1,
    runs_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the sweep's own directory is made.")
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Run a pipeline file at many points, or go on with a sweep.

    Every point is checked first. One that fails is recorded, the others go on, and the exit code is
    4.
    """
    from crosslayer.cli_listing import print_json
    from crosslayer.pipeline import PipelineErrors
    from crosslayer.progress import progress_for
    from crosslayer.sweeps.engine import sweep as run_sweep

    try:
        result = run_sweep(
            file, _grid(settings or []), side_by_side=side_by_side, table=table, pareto=pareto,
            executor=executor, address=address, jobs=jobs, threads=threads, runs_dir=runs_dir,
            registry=registry_of(ctx), progress=progress_for(),
        )  # fmt: skip
    except PipelineErrors as error:
        print(error, file=sys.stderr)  # as `check` prints them
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        print("sweep: interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise
    if as_json:
        print_json(_as_data(result))
    else:
        _print(result)
    raise typer.Exit(result.exit_code)


def _grid(settings: list[str]) -> dict[Any, Any]:
    from crosslayer.sweeps.settings import key_name, read_setting

    grid: dict[Any, Any] = {}
    for text in settings:
        key, values = read_setting(text)
        if key in grid:
            raise InputError(f"--set names {key_name(key)} twice; separate its values by commas")
        grid[key] = values
    return grid


def _as_data(result: SweepResult) -> dict[str, Any]:
    return {
        "directory": str(result.directory),
        "report": str(result.directory / "report.html"),
        "ran": result.ran,
        "objectives": [{"name": one.name, "better": one.better} for one in result.objectives or ()],
        "front": list(result.front),
        "points": [
            {
                "id": point.id,
                "parameters": dict(point.parameters),
                "status": point.status,
                "error": point.error,
                "seconds": point.seconds,
                "steps": len(point.steps),
                "cached_steps": point.cached_steps,
                "where": point.where,
                "metrics": [metric.model_dump(mode="json") for metric in point.metrics],
            }
            for point in result.points
        ],
    }


def _print(result: SweepResult) -> None:
    """The objectives of every point, the best ones marked; then the failures."""
    from crosslayer.cli_running import columns
    from crosslayer.render.values import format_value
    from crosslayer.sweeps.points import value_text
    from crosslayer.sweeps.report import parameter_names, short_names

    keys = parameter_names(result.points)
    short = short_names(keys)
    rows = []
    for point in result.points[:SHOWN_ROWS]:
        values = [
            value_text(point.parameters[key]) if key in point.parameters else "" for key in keys
        ]
        for objective in result.objectives or ():
            metric = point.metric(objective.name)
            values.append(format_value(metric.value, metric.unit) if metric else "")
        mark = "front" if point.id in result.front else point.status.replace("ok", "")
        rows.append((*values, mark))
    head = [*(short[key] for key in keys), *(one.name for one in result.objectives or ()), ""]
    for line in columns(head, rows):
        print(line)
    if len(result.points) > SHOWN_ROWS:
        print(f"... {len(result.points) - SHOWN_ROWS} more in table.csv")
    for note in result.report.notes[:1]:
        print(note)
    for point in result.failed:
        print(f"failed: {point.id}: {point.error.splitlines()[0]}")
    print(f"report: {result.directory / 'report.html'}")
