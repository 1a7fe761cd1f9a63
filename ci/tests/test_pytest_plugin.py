"""The pytest plugin of the sessions: no skip in CI, and a run that showed nothing fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PASSING = "def test_one():\n    pass\n"
SKIPPING = "import pytest\ndef test_two():\n    pytest.skip('no browser')\n"
SKIPPING_FILE = "import pytest\npytest.importorskip('no_such_module')\ndef test_three(): pass\n"
MARKED = "import pytest\n@pytest.mark.skipif(True, reason='no network')\ndef test_four(): pass\n"
EXPECTED = "import pytest\n@pytest.mark.xfail\ndef test_five():\n    assert False\n"


def outcome(folder: Path, text: str, ci: str) -> tuple[int, str]:
    (folder / "test_it.py").write_text(text, encoding="utf-8")
    plugin = Path(__file__).resolve().parents[1] / "pytest_plugin"
    command = ["-m", "pytest", "-p", "crosslayer_ci", "-p", "no:cacheprovider", "-c", "/dev/null"]
    variables = {**os.environ, "CI": ci, "PYTHONPATH": str(plugin)}
    done = subprocess.run(
        [sys.executable, *command, str(folder)],
        env=variables,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("skip", [SKIPPING, SKIPPING_FILE, MARKED])
def test_a_skip_fails_in_ci(tmp_path: Path, skip: str) -> None:
    status, output = outcome(tmp_path, PASSING + skip, ci="true")
    assert status != 0
    assert "CI allows no skips" in output
    assert "skipped" not in output.splitlines()[-1]


@pytest.mark.parametrize("skip", [SKIPPING, MARKED])
def test_a_skip_is_a_skip_elsewhere(tmp_path: Path, skip: str) -> None:
    status, output = outcome(tmp_path, PASSING + skip, ci="")
    assert status == 0
    assert "1 passed, 1 skipped" in output


@pytest.mark.parametrize("text", [SKIPPING, SKIPPING_FILE, "", EXPECTED])
def test_a_run_in_which_nothing_passed_fails(tmp_path: Path, text: str) -> None:
    assert outcome(tmp_path, text, ci="")[0] == pytest.ExitCode.NO_TESTS_COLLECTED


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    assert outcome(tmp_path, PASSING + EXPECTED, ci="true")[0] == 0
