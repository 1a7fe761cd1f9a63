"""`.ci/run` on a bare machine: it installs what is missing, or says so and stops.

The script runs in a small repository of its own, whose tasks are one line each, with a PATH that
holds a few programs and an `apt-get` that does what the test says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "run"
PROGRAMS = ("bash", "env", "dirname", "awk", "mktemp", "rm", "tee", "grep", "cat", "ln", "test")
NOX = """#!/bin/bash
case "$*" in
  *--json*) echo '[{"name": "lint"}, {"name": "tests"}, {"name": "demo"}, {"name": "docs"}]' ;;
  *) echo "nox $*" >> tasks ;;
esac
"""
# Keeps what it was asked; then does `doing`, in which $places is a folder of the PATH.
APT = """#!/bin/bash
echo "$*" >> "$places/../asked"
{doing}
"""
NEEDED = ("chromium", "iverilog", "yosys")
LINKS = "; ".join(f'ln -s /bin/true "$places/{name}"' for name in NEEDED)
INSTALLS = f'if [ "$1" = install ]; then {LINKS}; fi'
# python3 without ensurepip and pip until something is installed; its shared library if $library
PYTHON = """#!/bin/bash
case "$*" in
  *CDLL*) test -n "$library" ;;
  *ensurepip*|*"import pip"*) test -e "$places/chromium" ;;
  *) exec {python} "$@" ;;
esac
"""


class Machine:
    """A repository and a PATH in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.places = folder / "repository", folder / "bin"
        (self.repository / ".ci").mkdir(parents=True)
        (self.repository / "ci").mkdir()
        self.places.mkdir()
        shutil.copy(SCRIPT, self.repository / ".ci" / "run")
        text = (
            "```\n./ci/nox -s demo\n```\n\n```toml\n[other]\n```\n\n```\n./ci/nox -s tests\n```\n"
        )
        (self.repository / "README.md").write_text(text)
        self.write(self.repository / "ci" / "nox", NOX)
        for name in PROGRAMS:
            found = shutil.which(name)
            assert found is not None
            (self.places / name).symlink_to(found)
        self.write(self.places / "python3", PYTHON.format(python=shutil.which("python3")))
        self.user(0)

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def user(self, number: int) -> None:
        self.write(self.places / "id", f"#!/bin/bash\necho {number}\n")

    def apt(self, doing: str) -> None:
        self.write(self.places / "apt-get", APT.format(doing=doing))

    def run(self, library: str = "there") -> subprocess.CompletedProcess[str]:
        places = str(self.places)
        return subprocess.run(
            [str(self.places / "bash"), str(self.repository / ".ci" / "run")],
            env={"PATH": places, "places": places, "HOME": os.devnull, "library": library},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def lines(self, name: str) -> list[str]:
        """What a log holds: "asked" of apt-get, "repository/tasks" of the tasks."""
        path = self.places.parent / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def tasks(self) -> list[str]:
        return self.lines("repository/tasks")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_missing_is_installed_and_then_everything_runs(machine: Machine) -> None:
    machine.apt(INSTALLS)
    done = machine.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "installing chromium iverilog yosys python3-venv" in done.stdout
    update, install = machine.lines("asked")
    assert update.startswith("update")
    assert install.startswith("install") and install.endswith(
        "chromium iverilog yosys python3-venv"
    )
    assert machine.tasks == ["nox -s tests", "nox -s demo", "nox -s lint docs"]


def test_a_machine_that_has_everything_is_left_alone(machine: Machine) -> None:
    machine.apt("exit 1")
    for name in NEEDED:
        (machine.places / name).symlink_to("/bin/true")
    assert machine.run().returncode == 0
    assert machine.lines("asked") == []


@pytest.mark.parametrize("doing", ["exit 0", "exit 100"])
def test_pythons_shared_library_is_asked_for_and_nothing_stops_without_it(
    machine: Machine, doing: str
) -> None:
    machine.apt(doing)
    for name in NEEDED:
        (machine.places / name).symlink_to("/bin/true")
    done = machine.run(library="")
    assert done.returncode == 0, done.stdout + done.stderr
    (asked,) = machine.lines("asked")
    assert asked.endswith("libpython{}.{}".format(*sys.version_info))
    assert ("cocotb's tests are skipped" in done.stdout) == (doing == "exit 100")
    assert machine.tasks == ["nox -s tests", "nox -s demo", "nox -s lint docs"]


def test_an_installation_that_fails_once_is_tried_again_in_the_open(machine: Machine) -> None:
    machine.apt(
        f'test -e "$places/../again" || {{ : > "$places/../again"; exit 100; }}; {INSTALLS}'
    )
    done = machine.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(machine.lines("asked")) == 3


def test_an_installation_that_fails_says_why_and_runs_nothing(machine: Machine) -> None:
    machine.apt("echo no such mirror >&2; exit 100")
    done = machine.run()
    assert done.returncode == 2
    assert "no such mirror" in done.stderr
    assert machine.tasks == []


def test_an_installation_that_installs_nothing_is_noticed(machine: Machine) -> None:
    machine.apt("exit 0")
    done = machine.run()
    assert done.returncode == 2
    assert (
        ".ci/run: chromium iverilog yosys python3-venv still missing after apt-get" in done.stderr
    )
    assert machine.tasks == []


def test_without_root_it_says_what_to_install(machine: Machine) -> None:
    machine.user(1000)
    machine.apt(INSTALLS)
    done = machine.run()
    assert done.returncode == 2
    assert "install chromium iverilog yosys python3-venv first" in done.stderr
    assert machine.lines("asked") == machine.tasks == []
