"""What `crosslayer new` prints: where the package is, and what to do with it."""

from __future__ import annotations

import shlex
from pathlib import Path

from crosslayer.cli_listing import print_json


def new(name: str, kind: str, parent: Path, as_json: bool) -> None:
    """Write a package of this kind with a working toy. InputError where that cannot be."""
    from crosslayer.scaffold import create

    folder = create(name, kind, parent)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if as_json:
        print_json({"name": folder.name, "kind": kind, "folder": str(folder), "files": files})
        return
    print(f"{folder}: a {kind.replace('-', ' ')} with a working toy, {len(files)} files")
    print("next:")
    for line in (
        f"cd {shlex.quote(str(folder))}",
        "python -m pip install --no-deps --editable .",
        f"crosslayer check-plugin {folder.name}",
        "crosslayer run pipeline.toml",
        "python -m pytest",
    ):
        print(f"  {line}")
