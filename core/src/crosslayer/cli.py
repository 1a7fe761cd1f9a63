"""The command line. A command imports what it needs when it is called: --help stays quick.

Every error ends in `main`, which maps it to an exit code: 0; 2 the user's input; 3 a plugin or a
dependency; 4 a component failed while running; 70 a defect of crosslayer, with its traceback; 130
interrupted.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from crosslayer.cli_group import LazyGroup, LightCommand, registry_of
from crosslayer.cli_sweep import sweep
from crosslayer.cli_traces import trace
from crosslayer.errors import CrosslayerError

BROKEN_PIPE = 141  # what a shell shows for a process that SIGPIPE ended
INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A pipeline file (TOML).")]

app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        from crosslayer.discovery import core_version

        print(f"crosslayer {core_version()}")
        raise typer.Exit


def _debug(ctx: typer.Context, wanted: bool) -> None:
    ctx.obj["debug"] = ctx.obj["debug"] or wanted


def _no_plugins(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        ctx.obj["only"] = ()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", callback=_debug, is_eager=True, help="Show the traceback of an error."
        ),
    ] = False,
    no_plugins: Annotated[
        bool,
        typer.Option(
            "--no-plugins",
            callback=_no_plugins,
            is_eager=True,
            help="Load no plugin, only the core.",
        ),
    ] = False,
) -> None:
    """Stack published techniques of the ML systems stack; see what they cost and buy."""


@app.command(cls=LightCommand)
def plugins(
    ctx: typer.Context,
    available: Annotated[
        bool, typer.Option("--available", help="List the packages of this project instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the installed plugins and what they register."""
    from crosslayer import cli_listing

    if available:
        cli_listing.show_available(as_json)
    else:
        cli_listing.show_plugins(registry_of(ctx), as_json)


@app.command(cls=LightCommand)
def describe(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A component, such as roofline.")],
    as_json: Json = False,
) -> None:
    """Describe a component and each of its parameters."""
    from crosslayer import cli_listing

    cli_listing.show_component(registry_of(ctx), name, as_json)


@app.command()
def check(ctx: typer.Context, file: File, as_json: Json = False) -> None:
    """Check a pipeline file and run nothing.

    Prints one line FILE:LINE: MESSAGE for each problem. Exits 2 if the file is at fault, else 3 for
    a plugin or a dependency, 4 for a component that fails.
    """
    from crosslayer import cli_running

    raise typer.Exit(cli_running.check(file, registry_of(ctx), as_json))


@app.command()
def run(
    ctx: typer.Context,
    file: File,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores to use. Default: those that are allowed.")
    ] = None,
    runs_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the run's own directory is made.")
    ] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Run a pipeline file and write its report."""
    from crosslayer import cli_running

    raise typer.Exit(cli_running.run(file, registry_of(ctx), threads, runs_dir, as_json))


app.command()(sweep)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="A run's directory, or its name under --runs-dir."),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="What to compare with. Default: the first run."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the comparison as one HTML page.")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where runs of a name are.")] = Path(
        "runs"
    ),
    as_json: Json = False,
) -> None:
    """Compare runs: metrics, inputs, and whether gains add up.

    Four runs that differ in two things, each alone and both, also get a table of interactions.
    """
    from crosslayer import cli_compare

    cli_compare.compare(runs, baseline, html, runs_dir, as_json)


@app.command()
def fetch(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A model or text, such as smollm2-135m.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="List what can be fetched and what is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Download a model or a text into the cache, once."""
    from crosslayer import cli_running

    cli_running.fetch(name, list_, as_json)


@app.command()
def check_plugin(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A plugin's entry point or a component.")
    ],
    as_json: Json = False,
) -> None:
    """Run the conformance checks on a plugin."""
    from crosslayer import cli_running

    raise typer.Exit(cli_running.check_plugin(name, registry_of(ctx), as_json))


@app.command()
def doctor(ctx: typer.Context, as_json: Json = False) -> None:
    """Examine this installation; exits 3 if something is broken."""
    from crosslayer import cli_doctor

    raise typer.Exit(cli_doctor.doctor(ctx.obj["only"], as_json))


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the package and its component: my-technique.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="model-transform, serving-policy, simulator or accelerator-model.",
        ),
    ],
    path: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder that gets the package's folder.")
    ] = Path(),
    as_json: Json = False,
) -> None:
    """Write a new plugin package with a working toy."""
    from crosslayer import cli_new

    cli_new.new(name, kind, path, as_json)


app.add_typer(trace, name="trace")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; `arguments` default to the process's own."""
    session: dict[str, Any] = {"debug": False, "only": None, "registry": None, "plugin": None}
    # pydantic looks through every installed distribution for plugins of its own at its first use,
    # a tenth of what `describe` takes
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without "µ" is no reason to fail
    code = _exit_code(sys.argv[1:] if arguments is None else list(arguments), session)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone. Python flushes again at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    sys.exit(code)


def _exit_code(arguments: list[str], session: dict[str, Any]) -> int:
    try:
        typer.main.get_command(app)(args=arguments, prog_name="crosslayer", obj=session)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except CrosslayerError as error:
        if session["debug"] or error.exit_code == CrosslayerError.exit_code:
            traceback.print_exc()
        print(f"crosslayer: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if session["plugin"]:  # a command of a plugin, not ours
            if session["debug"]:
                traceback.print_exc()
            reason = f"{type(error).__name__}: {error} (--debug shows where)"
            print(f"crosslayer: {session['plugin']} failed: {reason}", file=sys.stderr)
            return 4
        traceback.print_exc()
        print("crosslayer: this is a defect of crosslayer; please report it", file=sys.stderr)
        return CrosslayerError.exit_code
    return 0
