"""`crosslayer new` in earnest: scaffold.py FOLDER-TO-WRITE-IN STATE.

One package of each kind is generated, built and installed by pip from its path, then its tests, its
pipeline, mypy and ruff run, with this repository's configuration. Ruff also sees packages with the
shortest and the longest name, because a name decides where lines break.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from catalogue import ROOT
from crosslayer.scaffold import TOYS, create
from crosslayer.scaffold.names import LONGEST


def main() -> None:
    """Every step in turn; the first that fails ends it with its exit code."""
    home, state = (Path(argument).resolve() for argument in sys.argv[1:3])
    shutil.rmtree(home, ignore_errors=True)
    packages = [_generated(home / "packages", f"toy-{kind}", kind) for kind in TOYS]
    variants = list(_variants(home))
    # No index is asked for anything: the build tool is here, and so is what the packages need.
    pip = ("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    _run("install", [*pip, *map(str, packages)], home / "packages")
    for package in packages:
        tests = ["-P", "-m", "pytest", "-q", "-p", "crosslayer_ci"]
        _run("tests", [*tests, "-o", f"cache_dir={state / 'pytest'}", "tests"], package)
        pipeline = ["-m", "crosslayer", "run", "pipeline.toml", "--runs-dir", str(home / "runs")]
        _run("pipeline", pipeline, package)
        mypy = ["-m", "mypy", "--config-file", str(ROOT / ".mypy.ini")]
        cache = str(state / "mypy-scaffold")
        _run("mypy", [*mypy, "--cache-dir", cache, "src", "tests"], package, MYPYPATH="src")
    for package in (*packages, *variants):
        config = ["--config", str(ROOT / ".ruff.toml"), "--no-cache"]
        rules = ["-m", "ruff", "check", "-q", *config, "--config", 'src = ["src"]', "."]
        _run("ruff check", rules, package)
        _run("ruff format", ["-m", "ruff", "format", "-q", "--check", *config, "."], package)


def _generated(parent: Path, name: str, kind: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    return create(name, kind, parent)


def _variants(home: Path) -> Iterator[Path]:
    for kind in TOYS:
        yield _generated(home / kind, "q", kind)
        yield _generated(home / kind, "long-" + "n" * (LONGEST - 5), kind)


def _run(what: str, arguments: list[str], folder: Path, **environment: str) -> None:
    """One Python module in a folder; says how long it took, exits where it fails."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    took = time.monotonic() - start
    if done.returncode or took > 1:
        last = done.stdout.strip().splitlines()[-1:] or [""]
        print(f"{folder.name}: {what}: {took:.0f} s  {last[0]}", flush=True)
    if done.returncode:
        print(done.stdout)
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
