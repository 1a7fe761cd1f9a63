"""The example pipelines run, all packages installed, and write their reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINES = sorted((Path(__file__).resolve().parents[2] / "pipelines").glob("*.toml"))


def crosslayer(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("crosslayer")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_there_are_examples() -> None:
    assert len(PIPELINES) >= 2


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda path: path.stem)
def test_an_example_runs_and_reports_where_its_numbers_come_from(
    pipeline: Path, tmp_path: Path
) -> None:
    # One thread each: two of these tests run at a time, and threads that wait for cores spin.
    done = crosslayer("run", str(pipeline), "--threads", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (report,) = tmp_path.glob("runs/*/report.json")
    assert report.with_suffix(".html").stat().st_size > 0
    text = report.read_text(encoding="utf-8")
    assert json.loads(text)
    assert "provenance" in text
