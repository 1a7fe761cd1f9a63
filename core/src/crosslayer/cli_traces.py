"""`crosslayer trace`: what a trace is like, and the same trace in another format."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosslayer.cli_group import LightGroup

if TYPE_CHECKING:
    from crosslayer.traces.statistics import LengthStatistics, TraceStatistics

FORMAT_HELP = (
    "azure-llm, burstgpt, mooncake or crosslayer. Default: what the first line looks like."
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="A trace; .gz is unpacked.")]
Format = Annotated[str | None, typer.Option("--format", metavar="NAME", help=FORMAT_HELP)]
Sort = Annotated[bool, typer.Option("--sort", help="Put rows in order of arrival.")]

trace = typer.Typer(cls=LightGroup, no_args_is_help=True, rich_markup_mode=None)


@trace.callback()
def about() -> None:
    """Describe or convert a trace of requests."""


@trace.command()
def info(
    file: File,
    format: Format = None,
    sort: Sort = False,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", metavar="FILE", help="Also draw arrivals and lengths (.svg)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print rate, burstiness, lengths, shared prefixes and sessions of a trace."""
    from crosslayer.cli_listing import print_json
    from crosslayer.traces import describe, format_name, read_trace

    requests = read_trace(file, format, sort=sort)
    found = describe(requests)
    name = format or format_name(file)
    if figure is not None:
        from crosslayer.traces.drawing import write_svg
        from crosslayer.traces.statistics import figures

        write_svg(figures(requests, file.name), figure)
    if as_json:
        print_json({"file": str(file), "format": name} | asdict(found))
        return
    print(f"{file} ({name})")
    for label, text in _lines(found):
        print(f"  {label:<14}{text}")
    if figure is not None:
        print(f"  {'figure':<14}{figure}")


@trace.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A trace; .gz is unpacked.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="What to write; .gz is packed.")],
    format: Format = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Format of OUT. Default: .csv azure-llm, else crosslayer."
        ),
    ] = None,
    sort: Sort = False,
) -> None:
    """Write a trace in another format; says what that format cannot hold."""
    from crosslayer.traces import left_out, read_trace, write_trace
    from crosslayer.traces.writer import default_format

    requests = read_trace(source, format, sort=sort)
    name = to or default_format(target)
    write_trace(requests, target, name)
    print(f"{target}: {len(requests):,} requests ({name})")
    lost = left_out(requests, name)
    if lost:
        print(f"left out, {name} has no place for it: {', '.join(lost)}", file=sys.stderr)


def _lines(found: TraceStatistics) -> list[tuple[str, str]]:
    def number(value: float | None, digits: int, unit: str = "") -> str:
        return "not known" if value is None else f"{value:,.{digits}f}{unit}"

    calls = f" with {found.calls:,} model calls" if found.calls != found.requests else ""
    unknown = f" ({found.unknown_outputs:,} not known)" if found.unknown_outputs else ""
    lines = [
        ("requests", f"{found.requests:,}{calls}"),
        ("span", number(found.span_s, 1, " s")),
        ("rate", number(found.rate_per_s, 4, " /s")),
        ("cv of gaps", number(found.gap_cv, 3)),
        ("burstiness", f"{number(found.burstiness, 3)} (-1 regular, 0 Poisson, 1 bursts)"),
        ("prompt tokens", _lengths(found.prompt_tokens)),
        ("output tokens", _lengths(found.output_tokens) + unknown),
    ]
    if found.sessions is not None:
        each = number(found.requests_per_session, 2)
        lines.append(("sessions", f"{found.sessions:,} of {each} requests each"))
    if found.prefix_reuse is not None:
        blocks = f"{found.prefix_blocks:,} blocks of {found.prefix_block_tokens} tokens"
        lines.append(("prefix reuse", f"{found.prefix_reuse:.1%} of {blocks} were there before"))
    return lines


def _lengths(one: LengthStatistics | None) -> str:
    if one is None:
        return "not known"
    return (
        f"mean {one.mean:,.1f}  cv {one.cv:.2f}  min {one.minimum:,}  p50 {one.p50:,}"
        f"  p90 {one.p90:,}  p99 {one.p99:,}  max {one.maximum:,}"
    )
