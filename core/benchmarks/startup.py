"""CPU seconds that the light commands take, process start included.

    python core/benchmarks/startup.py [--write]

User and system time of a child process, best of five; the plugins are those installed here. The
last rows are what Python, typer and pydantic take by themselves. --write puts the table into the
README beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata

from readme import markdown_table, write_section

from crosslayer.discovery import discover

ROUNDS = 5
BUDGET_S = 0.3
CROSSLAYER = ("-m", "crosslayer")
COMMANDS: dict[str, tuple[str, ...]] = {
    "`crosslayer --help`": (*CROSSLAYER, "--help"),
    "`crosslayer plugins`": (*CROSSLAYER, "plugins"),
    "`crosslayer describe roofline`": (*CROSSLAYER, "describe", "roofline"),
    "`crosslayer describe flow`": (*CROSSLAYER, "describe", "flow"),
    "Python alone": ("-c", "pass"),
    "`import typer`": ("-c", "import typer"),
    "`from pydantic import BaseModel, Field`": ("-c", "from pydantic import BaseModel, Field"),
}


def cpu_seconds(arguments: tuple[str, ...]) -> float:
    """User and system time of one child. Errors: CalledProcessError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Prints the table; with --write also into the README."""
    parser = argparse.ArgumentParser(description="CPU seconds of the light commands.")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # as crosslayer does
    load = os.getloadavg()[0]
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS + 1):  # the first one fills the caches
        for name, command in COMMANDS.items():
            times[name].append(cpu_seconds(command))
    rows = [
        (name, f"{min(took[1:]):.3f}", BUDGET_S if "crosslayer" in name else "")
        for name, took in times.items()
    ]
    plugins = {one.distribution for one in discover().components("model_transform").values()}
    text = f"""
*measured* on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},
typer {metadata.version("typer")}, pydantic {metadata.version("pydantic")}: CPU seconds, best of
{ROUNDS}; transforms from {", ".join(sorted(plugins))}. Load average before: {load:.1f}.

{markdown_table(("command", "CPU s", "budget"), rows)}"""
    print(text)
    if arguments.write:
        write_section("startup", text)


if __name__ == "__main__":
    main()
