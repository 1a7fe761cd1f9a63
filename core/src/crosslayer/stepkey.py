"""What a step's result depends on, as a hash: change any of it and the step runs again.

A component counts with its name, the version of its distribution, the bytes of its own package and
of the core's foundation, and its parameters; a file that a parameter names counts with its content,
not its path.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from crosslayer.kinds import ModelArtifact
from crosslayer.machine import installed_version
from crosslayer.pipeline.parts import Part

LIBRARIES = ("numpy", "torch", "transformers")  # what live results depend on beside our own code
# Of the core, what any component's results depend on: contracts, kinds, live models, real texts.
FOUNDATION = ("contracts", "kinds.py", "live.py", "texts.py", "wikitext.py", "assets.toml")
READ_WHOLE_BYTES = 32 << 20  # larger files count with size and time of change


def step_key(kind: str, **inputs: Any) -> str:
    """A hash of plain data: names, numbers, strings, lists and dicts of them."""
    text = json.dumps([kind, inputs], sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def part_inputs(part: Part) -> dict[str, Any]:
    """A component with everything of it that its results depend on."""
    component = part.found.component
    settings = part.settings()
    for name, path in part.reads:
        settings[name] = content_digest(path)
    return {
        "kind": part.kind,
        "name": component.name,
        "distribution": part.found.distribution,
        "version": part.found.version,
        "source": source_digest(component.factory.partition(":")[0].partition(".")[0]),
        "contracts": contracts_digest(),
        "needs": {module: installed_version(module) for module in component.needs},
        "settings": settings,
    }


def model_key(part: Part, artifact: ModelArtifact) -> str:
    """A model as it enters the pipeline: its spec, and the identity of its weights if it has one.

    A live model without `identity` counts with its component.
    """
    identity = "" if artifact.live is None else str(getattr(artifact.live, "identity", ""))
    known = artifact.live is None or identity != ""
    inputs = {} if known else part_inputs(part)
    return step_key(
        "model",
        spec=artifact.spec.to_json(),
        live=artifact.live is not None,
        identity=identity,
        part=inputs,
    )


def library_versions() -> dict[str, str]:
    """Versions of the numerical libraries that are installed."""
    found = {name: installed_version(name) for name in LIBRARIES}
    return {name: version for name, version in found.items() if version}


@lru_cache(maxsize=64)
def source_digest(package: str) -> str:
    """A hash of every source and data file of an importable top-level package or module; imports
    nothing.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        return ""
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    return _digest_files(folders or [Path(spec.origin or "")])


@lru_cache(maxsize=1)
def contracts_digest() -> str:
    """A hash of what every component stands on: see `FOUNDATION`."""
    return _digest_files([Path(__file__).parent / name for name in FOUNDATION])


def content_digest(path: Path) -> str:
    """A hash of a file's bytes, or of a folder's names and files; very large files count with size
    and time.
    """
    digest = hashlib.sha256()
    for name, file in _files(path):
        stat = file.stat()
        if stat.st_size > READ_WHOLE_BYTES:
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        else:
            digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _digest_files(roots: list[Path]) -> str:
    digest = hashlib.sha256()
    for root in roots:
        for name, file in _files(root):
            digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Files below a folder by name, or the file itself; Python's own caches left out."""
    if root.is_file():
        yield "", root
        return
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(root).as_posix(), path
