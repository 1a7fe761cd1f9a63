"""`hermes-sim`, which is `crosslayer hermes`: a command for each thing that the simulator does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from crosslayer.cli_group import LightGroup

app = typer.Typer(cls=LightGroup, no_args_is_help=True, rich_markup_mode=None)
File = Annotated[Path, typer.Argument(metavar="FILE", help="A pipeline file with a hermes step.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
RunsDir = Annotated[Path, typer.Option(metavar="DIR", help="Where run directories are made.")]


@app.callback()
def about() -> None:
    """Discrete-event simulation of multi-stage LLM serving."""


@app.command()
def run(file: File, runs_dir: RunsDir = Path("runs"), as_json: Json = False) -> None:
    """Run a pipeline file and write its report, as `crosslayer run` does."""
    from crosslayer.cli_running import run as run_file
    from crosslayer.discovery import discover

    raise typer.Exit(run_file(file, discover(), None, runs_dir, as_json))


@app.command()
def explain(
    file: File,
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="Id of a request.")],
    as_json: Json = False,
) -> None:
    """Simulate a pipeline file and print where one request's time went."""
    from hermes_sim import cli_explain

    cli_explain.explain(file, request, as_json)


@app.command()
def validate(
    run: Annotated[
        Path, typer.Option(metavar="DIR", help="A recorded run: meta.json and requests.jsonl.")
    ],
    profile: Annotated[Path, typer.Option(metavar="DIR", help="Kernel profile of the card.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Spec preset or config.json. Default: as recorded."),
    ] = None,
    kv_blocks: Annotated[
        int | None, typer.Option(min=1, help="KV blocks of an engine. Default: as recorded.")
    ] = None,
    link_gb_per_s: Annotated[
        float | None, typer.Option(min=1e-9, help="Between tensor-parallel devices, one way.")
    ] = None,
    link_us: Annotated[float, typer.Option(min=0, help="Latency of that link.")] = 5.0,
    network: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="vidur's all_reduce.csv. Default: in the profile."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw both distributions (.svg).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay a recorded run of a real engine; print recorded, simulated and error."""
    from hermes_sim import cli_validate

    link = None if link_gb_per_s is None else (link_gb_per_s * 1e9, link_us * 1e-6)
    cli_validate.show(run, profile, model, kv_blocks, link, network, figure, as_json)


@app.command()
def fit(
    steps: Annotated[
        Path,
        typer.Argument(
            metavar="STEPS",
            help="CSV: prompts,prompt_tokens,pairs,decodes,context,seconds of each step.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The fit, for `profile = ...`.")],
    held_out: Annotated[float, typer.Option(help="Share of steps that are only predicted.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Chooses them.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit a step model to measured steps; print its error on steps it has not seen."""
    from hermes_sim import cli_fit

    cli_fit.fit(steps, out, held_out, seed, as_json)


@app.command()
def traces(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A trace of any known format.")],
    format: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Default: as it looks.")
    ] = None,
    cache_blocks: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Also replay an LRU cache of so many prefix blocks; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the trace for pipelines (.jsonl).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Describe a trace, its prefix cache hits included; vidur, splitwise, LLMServingSim too."""
    from hermes_sim import cli_traces

    cli_traces.traces(file, format, cache_blocks or [], out, as_json)


@app.command()
def agents(
    file: File,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A trace for pipelines (.jsonl).")],
) -> None:
    """Write the graphs of calls that a pipeline's [simulate.agents] makes, as a trace file."""
    from crosslayer.errors import InputError
    from crosslayer.traces import write_trace
    from hermes_sim.cli_explain import first_step

    _, trace, params, _ = first_step(file)
    if params.agents is None:
        raise InputError(f"{file}: its hermes step has no [simulate.agents]")
    write_trace(trace, out, "crosslayer")
    calls = len(trace.prompt_tokens)
    print(f"{out}: {len(trace)} requests, {calls} calls")


@app.command()
def sweep(
    file: File,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=V,V", help="What to vary, such as max_calls=64,256."),
    ],
    pareto: Annotated[
        str | None, typer.Option(metavar="X,Y", help="The two metrics of the Pareto front.")
    ] = None,
    executor: Annotated[str, typer.Option(metavar="NAME", help="local or ray.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help="Of a Ray cluster. Default: one is started here."),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Points at once.")] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: Json = False,
) -> None:
    """Run a grid of a pipeline file, as `crosslayer sweep` does; keys of hermes need no prefix."""
    from crosslayer.cli import main as core

    arguments = ["sweep", str(file), "--executor", executor, "--runs-dir", str(runs_dir)]
    for one in settings:
        key = one.partition("=")[0]
        arguments += ["--set", one if "." in key else f"simulate.hermes.{one}"]
    for name, value in (("--pareto", pareto), ("--address", address), ("--jobs", jobs)):
        if value is not None:
            arguments += [name, str(value)]
    core([*arguments, "--json"] if as_json else arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script `hermes-sim`."""
    from crosslayer.cli import main as core

    core(["hermes", *(sys.argv[1:] if arguments is None else arguments)])
