"""Install example plugins for a test: their modules and a dist-info folder, as pip leaves them.

Each is a real package with a pyproject.toml; this needs no pip, no build and no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

PLUGINS = Path(__file__).with_name("plugins")


def install(site: Path, *names: str, home: Path = PLUGINS) -> Path:
    """Put packages of `home` into a folder that works as site-packages; returns the folder."""
    for name in names:
        project = tomllib.loads((home / name / "pyproject.toml").read_text("utf-8"))["project"]
        shutil.copytree(home / name / "src", site, dirs_exist_ok=True)
        requires = [f"Requires-Dist: {need}" for need in project["dependencies"]]
        for extra, needs in project.get("optional-dependencies", {}).items():
            requires += [f"Requires-Dist: {need}; extra == '{extra}'" for need in needs]
        points = project["entry-points"]["crosslayer"]
        write_dist_info(
            site,
            ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {project['version']}", *requires],
            ["[crosslayer]", *(f"{point} = {module}" for point, module in points.items())],
        )
    return site


def write_dist_info(site: Path, metadata: list[str], entry_points: list[str]) -> None:
    """The metadata of one distribution; its name and version are lines 1 and 2 of METADATA."""
    name, version = (line.partition(": ")[2] for line in metadata[1:3])
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("\n".join(metadata) + "\n", "utf-8")
    (folder / "entry_points.txt").write_text("\n".join(entry_points) + "\n", "utf-8")


def crosslayer(
    *arguments: str, site: Path | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; `site` goes before what is installed."""
    command = [sys.executable, "-m", "crosslayer", *arguments]
    return in_new_python(command, site=site, cwd=cwd, **environment)


def in_new_python(
    command: list[str], site: Path | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with the settings of this test alone, none of the session's own."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CROSSLAYER_")}
    paths = [] if site is None else [str(site)]
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    clean["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths))
    return subprocess.run(
        command, env=clean | environment, cwd=cwd, capture_output=True, text=True, timeout=120
    )
