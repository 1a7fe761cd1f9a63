"""The lock file of a run: the pipeline with every default filled in, versions, and the git
revision.

It is a pipeline file itself: run again, it gives the same numbers. It names no absolute path; what
it reads is named from the run directory, where it stands, and `lock.files` says what was in it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crosslayer.pipeline.parts import Part
from crosslayer.pipeline.schema import Pipeline
from crosslayer.pipeline.toml_text import toml_text
from crosslayer.stepcache import sha256_file
from crosslayer.stepkey import content_digest

FORMAT = 1
HEADER = "# Written by a run: every default filled in. Run it again for the same numbers.\n\n"

# What a person reads first comes first.
ORDER = (
    *("pipeline", "model", "transform", "accelerator", "instance", "network"),
    *("backend", "pool", "policy"),
    *("workload", "simulate", "evaluate"),
)

Parts = Mapping[str, Sequence[Part]]


def lock_text(
    pipeline: Pipeline,
    parts: Parts,
    versions: Mapping[str, str],
    directory: Path,
    tuned: Mapping[str, Any] | None = None,
) -> str:
    """The lock file that stands in `directory`.

    parts: each table's components in its order ("model", "transform", "accelerator", "backend",
    "policy", "simulate", "evaluate"). versions: of every distribution that took part. tuned: the
    hardware that accelerators chose, by instance; a run of the lock lets them choose again, and
    says so if they choose otherwise.
    """
    document = pipeline.document()
    files: dict[str, str] = {}

    def named(path: Path) -> str:
        name = Path(os.path.relpath(path.absolute(), directory.absolute())).as_posix()
        files[name] = file_digest(path)
        return name

    for table in ("model", "transform", "accelerator", "backend", "simulate"):
        value = document.get(table, [])
        rows = [value] if isinstance(value, dict) else value
        for row, part in zip(rows, parts.get(table, ()), strict=True):
            if part.use != row["use"]:  # a folder: what other tables call it stays its name
                row |= {"name": row.get("name", row["use"]), "use": part.use}
            row |= _settings(part, named)
    if "policy" in document:
        document["policy"] |= _settings(parts["policy"][0], named)
    document["evaluate"] = {part.use: _settings(part, named) for part in parts.get("evaluate", ())}
    document["instance"] = [one.model_dump(exclude_none=True) for one in pipeline.placed()]
    if pipeline.network is not None and pipeline.network.topology is not None:
        document["network"]["topology"] = named(pipeline.folder / pipeline.network.topology)
    reads = [(document["workload"], key) for key in ("trace", "lengths")]
    reads += [(step, "trace") for step in document.get("simulate", ())]
    for table, key in reads:
        if key in table and not table[key].startswith("@"):
            table[key] = named(pipeline.folder / table[key])
    lock: dict[str, Any] = {
        "format": FORMAT,
        "git_revision": git_revision(pipeline),
        "versions": dict(versions),
    }
    if files:
        lock["files"] = dict(sorted(files.items()))
    if tuned:
        lock["hardware"] = dict(tuned)
    whole = {name: document[name] for name in ORDER if document.get(name)}
    return HEADER + toml_text(whole | {"lock": lock})


def _settings(part: Part, named: Callable[[Path], str]) -> dict[str, Any]:
    """Every parameter that has a value; a parameter that is None has no way to be written, and is
    the default.
    """
    settings = {name: value for name, value in part.settings().items() if value is not None}
    return settings | {name: named(path) for name, path in part.reads}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder a hash of its names and files. "" if it is gone."""
    if path.is_file():
        return sha256_file(path)
    return content_digest(path) if path.is_dir() else ""


def git_revision(pipeline: Pipeline) -> str | None:
    """The commit of the repository that the pipeline file is in, with "-dirty" where tracked files
    differ from it.
    """
    if pipeline.file is None:
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(pipeline.folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        revision = git("rev-parse", "--verify", "HEAD")
        return revision + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
