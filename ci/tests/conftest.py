"""Tests of the repository itself; they import the scripts of ci/."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "ci"))

NOT_COPIED = shutil.ignore_patterns(".git", ".nox", ".venv", "runs", "__pycache__", ".*_cache")


@pytest.fixture
def root() -> Path:
    """The repository that the tests stand in."""
    return ROOT


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the repository in a folder with spaces in its name, to be changed at will."""
    return Path(shutil.copytree(ROOT, tmp_path / "a fresh clone", ignore=NOT_COPIED))
