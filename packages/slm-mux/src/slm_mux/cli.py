"""`slm-mux` and `crosslayer slm-mux`: ask and serve live models; records in `cli_records`.

Exit codes: 0; 2 the user's input; 3 something is not installed; 4 a member failed; 130 interrupted.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosslayer.errors import CrosslayerError, InputError
from slm_mux.cli_records import bench, import_, replay, scale, search

if TYPE_CHECKING:
    from slm_mux.engine import Answered
    from slm_mux.pool_file import PoolFile

PoolOption = Annotated[
    Path | None,
    typer.Option(
        "--pool", metavar="FILE", help="Pool file (TOML). Default: SmolLM2, three prompts."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
KOption = Annotated[int | None, typer.Option("-k", min=1, help="Samples of each member.")]
Seed = Annotated[int, typer.Option(help="Of every draw.")]

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None,
                  pretty_exceptions_enable=False)  # fmt: skip
app.command("import")(import_)
app.command()(replay)
app.command()(search)
app.command()(scale)
app.command()(bench)


@app.callback()
def about() -> None:
    """Several small models answer, the most self-consistent is returned (arXiv 2510.05077)."""


@app.command()
def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What is asked.")],
    pool: PoolOption = None,
    k: KOption = None,
    extractor: Annotated[str | None, typer.Option(help="How answers are found.")] = None,
    early_stop: Annotated[str | None, typer.Option(help="lossless, unanimous or never.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Ask all members and print the chosen text, on stderr who said it and why."""
    from crosslayer.contracts.calls import Message
    from slm_mux.callers import Callers
    from slm_mux.engine import Engine

    given = {"k": k, "extractor": extractor, "early_stop": early_stop, "seed": seed}
    found = _pool(pool)
    settings = found.settings.changed(**{n: v for n, v in given.items() if v is not None})

    async def run() -> Answered:
        async with Callers(found.backends) as callers:
            return await Engine(callers, settings).answer((Message(role="user", content=question),))

    answered = asyncio.run(run())
    if as_json:
        from slm_mux.wire import decision, usage

        told = decision(answered, True) | {"text": answered.text, "usage": usage(answered)}
        print(json.dumps(told, ensure_ascii=False, indent=2))
        return
    choice = answered.choice
    print(answered.text)
    for vote in choice.votes:
        counts = ", ".join(f"{key} x {number}" for key, number in vote.counts) or "no answer"
        mark = "->" if vote.model == choice.model else "  "
        print(f"{mark} {vote.model}: {counts} of {vote.k}", file=sys.stderr)
    tokens = answered.prompt_tokens + answered.output_tokens
    print(
        f"answer {answered.answer}; {answered.calls} calls ({answered.saved} saved), {tokens}"
        f" tokens, {answered.seconds:.1f} s",
        file=sys.stderr,
    )
    for line in (*answered.failures, *answered.warnings):
        print(line, file=sys.stderr)


@app.command()
def serve(
    pool: PoolOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port.")] = 8080,
    most_waiting: Annotated[
        int, typer.Option(min=1, help="Answers made at one time; more get status 429.")
    ] = 64,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Variable with the key that clients must send."),
    ] = None,
) -> None:
    """Serve an OpenAI-compatible endpoint at http://HOST:PORT/v1; port 0 is any that is free."""
    from slm_mux.callers import Callers
    from slm_mux.server import Service, server_of

    key = os.environ.get(api_key_env, "") if api_key_env else None
    if key == "":
        raise InputError(f"the environment variable {api_key_env} is not set; it must hold the key")
    found = _pool(pool)
    service = Service(
        found.backends, found.settings, found.pools, most_waiting=most_waiting, key=key
    )

    server = server_of(service)

    async def opened_once() -> None:
        async with Callers(found.backends):
            pass

    asyncio.run(opened_once())  # a missing key or model is told before anything listens
    with _listening(host, port) as at:
        members, name = ", ".join(found.backends), f"[{host}]" if ":" in host else host
        print(f"slm-mux: {members} at http://{name}:{at.getsockname()[1]}/v1", file=sys.stderr)
        server.run(sockets=[at])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"cannot listen at {host}, port {port}: {error.strerror}; choose another --host or"
            " --port"
        ) from error
    # Connections inherit it. asyncio sets it for sockets of its own only, and without it the body
    # of an answer waits 40 ms for the client to acknowledge its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


@app.command()
def collect(
    questions: Annotated[
        Path, typer.Argument(metavar="QUESTIONS", help="JSON lines of id, prompt and answer.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Records; goes on with what is there.")
    ],
    pool: PoolOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Of each member and question.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions, from the first.")] = None,
    seed: Seed = 0,
) -> None:
    """Record samples of every member, to replay and to search on."""
    from crosslayer.backends.protocol import Sampling
    from crosslayer.progress import progress_for
    from crosslayer.questions import read_questions
    from slm_mux.collect import collect as collecting

    found = _pool(pool)
    settings = found.settings
    sampling = Sampling(
        temperature=settings.temperature, max_tokens=settings.max_tokens, stop=settings.stop
    )
    new = collecting(
        found.backends, read_questions(questions, limit), out, samples, sampling, seed=seed,
        progress=progress_for(),
    )  # fmt: skip
    print(f"{out}: {new} new rows")


def _pool(file: Path | None) -> PoolFile:
    import tomllib

    from slm_mux.pool_file import pool_of, read_pool

    if file is not None:
        return read_pool(file)
    text = resources.files("slm_mux").joinpath("smollm2.toml").read_text("utf-8")
    return pool_of(tomllib.loads(text), "smollm2.toml", Path())


def main(arguments: list[str] | None = None) -> None:
    """The console script."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        typer.main.get_command(app)(args=given, prog_name="slm-mux")
    except CrosslayerError as error:
        print(f"slm-mux: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
