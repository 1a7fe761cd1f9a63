"""The examples in docs/ are real: pipelines pass the check; the plugin conforms and runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL
)


def blocks(document: str) -> list[tuple[str | None, str, str]]:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return [(found["file"], found["language"], found["text"]) for found in BLOCK.finditer(text)]


def crosslayer(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])
    }
    return subprocess.run(
        [sys.executable, "-m", "crosslayer", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


PIPELINES = [text for _, language, text in blocks("pipelines.md") if language == "toml"]


@pytest.mark.parametrize("number", range(len(PIPELINES)))
def test_each_pipeline_of_the_guide_passes_the_check(number: int, tmp_path: Path) -> None:
    for name, _, text in blocks("pipelines.md"):
        if name is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pipeline.toml").write_text(PIPELINES[number], encoding="utf-8")
    done = crosslayer("check", "pipeline.toml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the plugin guide in a folder, installed there as pip would."""
    folder = tmp_path_factory.mktemp("plugin")
    for name, _, text in blocks("plugins.md"):
        if name is not None:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    (folder / "halfwidth" / "__init__.py").touch()
    info = folder / "halfwidth-0.1.0.dist-info"
    info.mkdir()
    metadata = ("Metadata-Version: 2.1", "Name: halfwidth", "Version: 0.1.0")
    needs = "Requires-Dist: crosslayer<0.2,>=0.1"
    (info / "METADATA").write_text("\n".join([*metadata, needs, ""]), encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[crosslayer]\nhalfwidth = halfwidth.plugin\n", encoding="utf-8"
    )
    return folder


def test_the_guides_plugin_is_listed_and_described(plugin: Path) -> None:
    assert "halfwidth" in crosslayer("plugins", folder=plugin).stdout
    assert "Memory bandwidth." in crosslayer("describe", "halfwidth", folder=plugin).stdout


def test_the_guides_plugin_conforms(plugin: Path) -> None:
    done = crosslayer("check-plugin", "halfwidth", folder=plugin)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_guides_own_test_passes(plugin: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(plugin), *filter(None, sys.path)])
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_halfwidth.py"],
        cwd=plugin,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 passed" in done.stdout


def test_the_guides_pipeline_runs(plugin: Path) -> None:
    done = crosslayer("run", "pipeline.toml", folder=plugin)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (plugin / "runs" / "pipeline" / "report.html").is_file()
