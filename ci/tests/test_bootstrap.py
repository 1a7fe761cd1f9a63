"""ci/nox, run for real: fresh caches, paths with spaces, two at once, read-only, no pip."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import zipfile
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from catalogue import CORE, constraint_lines, read_catalogue, wheel_name

SYSTEM_PYTHON = Path(sys.base_prefix) / "bin" / "python3"
KEPT = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "PIP_CONFIG_FILE")

HIDE = "import sys\nfor name in {names!r}:\n    sys.modules[name] = None\n"
AGE = "import sys\nsys.version_info = (3, 9, 2, 'final', 0)\n"


def environment(**more: str) -> dict[str, str]:
    """A new user's environment: the system's path, how to reach the index, what the test adds."""
    keep = {
        name: value for name, value in os.environ.items() if name in KEPT or "PROXY" in name.upper()
    }
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **keep, **more}


def start(clone: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    command = [str(SYSTEM_PYTHON), str(clone / "ci" / "nox"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment(**variables), text=True, cwd="/", **pipes)


def run(clone: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    process = start(clone, *arguments, **variables)
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def startup(folder: Path, text: str) -> str:
    """A PYTHONPATH whose sitecustomize changes the Python that reads it, before ci/nox starts."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return str(folder)


def environments(cache: Path) -> list[Path]:
    return [path for path in (cache / "ci").iterdir() if path.is_dir() and path.name[:4] == "nox-"]


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests share which are not about making one."""
    return tmp_path_factory.mktemp("a warm cache")


@pytest.fixture
def wrapper() -> ModuleType:
    """ci/nox as a module."""
    loader = SourceFileLoader("wrapper", str(Path(__file__).resolve().parents[1] / "nox"))
    module = ModuleType(loader.name)
    module.__file__ = loader.path
    loader.exec_module(module)
    return module


def test_an_empty_home_and_a_path_with_spaces_are_enough_to_list_the_sessions(
    clone: Path, tmp_path: Path
) -> None:
    home = tmp_path / "an empty home"
    home.mkdir()
    status, output, errors = run(clone, "-l", HOME=str(home))
    assert status == 0, errors
    for name in ("lint", "tests(core)", "tests(flow-flexcim)", "together", "demo"):
        assert f"* {name}" in output
    assert "- dev" in output and "- bench" in output
    assert len(environments(home / ".cache" / "crosslayer")) == 1


def test_without_ensurepip_the_systems_pip_sets_nox_up(clone: Path, tmp_path: Path) -> None:
    without = startup(tmp_path / "no ensurepip", HIDE.format(names=["ensurepip"]))
    cache = tmp_path / "a cache"
    status, output, errors = run(clone, "-l", PYTHONPATH=without, CROSSLAYER_CACHE_DIR=str(cache))
    assert status == 0, errors
    assert "tests(core)" in output
    (made,) = environments(cache)
    assert not list(made.glob("lib/python*/site-packages/pip"))
    assert list(made.glob("lib/python*/site-packages/nox"))


def test_with_neither_venv_nor_pip_one_sentence_names_both_packages(
    clone: Path, tmp_path: Path
) -> None:
    without = startup(tmp_path / "neither", HIDE.format(names=["ensurepip", "pip"]))
    variables = {"PYTHONPATH": without, "CROSSLAYER_CACHE_DIR": str(tmp_path / "cache")}
    status, output, errors = run(clone, "-l", **variables)
    assert status == 2 and output == ""
    assert len(errors.splitlines()) == 1
    assert "python3-venv" in errors and "python3-pip" in errors


def test_an_old_python_gets_one_sentence(clone: Path, tmp_path: Path) -> None:
    status, output, errors = run(clone, "-l", PYTHONPATH=startup(tmp_path / "old", AGE))
    assert (status, output) == (2, "")
    assert len(errors.splitlines()) == 1 and "3.9" in errors and "3.11" in errors


def test_two_first_runs_at_once_set_up_once(clone: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    both = [start(clone, "-l", CROSSLAYER_CACHE_DIR=cache) for _ in range(2)]
    ended = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert all("tests(core)" in output for output, _ in ended)
    assert sum(errors.count("setting up nox") for _, errors in ended) == 1


def test_an_interrupted_set_up_is_made_anew(clone: Path, warm_cache: Path) -> None:
    assert run(clone, "-l", CROSSLAYER_CACHE_DIR=str(warm_cache))[0] == 0
    (made,) = environments(warm_cache)
    (made / "complete").unlink()
    (made / "bin" / "python").unlink()
    status, output, errors = run(clone, "-l", CROSSLAYER_CACHE_DIR=str(warm_cache))
    assert status == 0 and "tests(core)" in output, errors
    assert "setting up nox" in errors


def test_a_read_only_clone_works_from_a_cache_folder_and_stays_as_it_was(
    clone: Path, warm_cache: Path
) -> None:
    before = sorted(path for path in clone.rglob("*"))
    for path in (clone, *before):
        path.chmod(path.stat().st_mode & ~0o222)
    command = [str(SYSTEM_PYTHON), str(clone / "ci" / "nox"), "-s", "wheels"]
    if os.geteuid() == 0:  # root without its capabilities is bound by the permissions again
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    try:
        done = subprocess.run(
            command,
            env=environment(CROSSLAYER_CACHE_DIR=str(warm_cache)),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert sorted(path for path in clone.rglob("*")) == before
    finally:
        for path in (clone, *before):
            path.chmod(path.stat().st_mode | 0o200)
    assert done.returncode == 0, done.stderr
    assert list(warm_cache.glob(f"ci/clone-*/wheels/*/{wheel_name(CORE, clone)}"))


def test_runs_of_one_clone_at_once_get_folders_of_their_own(
    wrapper: ModuleType, tmp_path: Path
) -> None:
    held = [wrapper.run_slot(tmp_path) for _ in range(3)]
    assert [folder.name for folder, _ in held] == ["run-0", "run-1", "run-2"]
    held[1][1].close()
    folder, _lock = wrapper.run_slot(tmp_path)
    assert folder.name == "run-1"


def test_a_lock_is_held_until_nox_ends(clone: Path, warm_cache: Path) -> None:
    (clone / "noxfile.py").write_text(
        "import nox\n@nox.session(venv_backend='none')\ndef wait(session):\n"
        "    print('started', flush=True)\n    input()\n",
        encoding="utf-8",
    )
    command = [str(SYSTEM_PYTHON), str(clone / "ci" / "nox"), "-s", "wait"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    variables = environment(CROSSLAYER_CACHE_DIR=str(warm_cache))
    with subprocess.Popen(command, env=variables, text=True, **pipes) as process:
        assert any("started" in line for line in process.stdout or ())
        lock = (clone / ".nox" / "run-0.lock").open("a")
        with lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.communicate("\n", timeout=60)
    with (clone / ".nox" / "run-0.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_cache_that_cannot_be_written_is_named(clone: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.touch()
    status, _, errors = run(clone, "-l", CROSSLAYER_CACHE_DIR=str(blocked))
    assert status == 2 and str(blocked) in errors and len(errors.splitlines()) == 1


def test_without_a_home_the_cache_lies_in_the_clone(wrapper: ModuleType, tmp_path: Path) -> None:
    wrapper.ROOT = tmp_path
    assert wrapper.cache_folder({"HOME": ""}) == tmp_path / ".nox" / "cache"
    assert wrapper.cache_folder({}) == tmp_path / ".nox" / "cache"
    there = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    assert wrapper.cache_folder(there) == tmp_path / "xdg" / "crosslayer"
    assert wrapper.cache_folder(there | {"XDG_CACHE_HOME": "not/absolute"}) == (
        tmp_path / ".cache" / "crosslayer"
    )


@pytest.mark.parametrize("name", [CORE.name, *(package.name for package in read_catalogue())])
def test_a_strangers_package_of_our_name_is_never_taken_from_an_index(
    clone: Path, warm_cache: Path, tmp_path: Path, name: str
) -> None:
    package = next(one for one in (CORE, *read_catalogue(clone)) if one.name == name)
    strange = tmp_path / "an index"
    strange.mkdir()
    module = name.replace("-", "_")
    with zipfile.ZipFile(strange / f"{module}-99.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", "")
        where = f"{module}-99.0.dist-info"
        wheel.writestr(f"{where}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")
        wheel.writestr(
            f"{where}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{where}/RECORD", "")

    def download(constraints: Path | None) -> tuple[int, list[str]]:
        taken = tmp_path / f"taken-{constraints is not None}"
        ask = [
            "download",
            "-q",
            "--no-deps",
            "--no-index",
            "--find-links",
            str(strange),
            "-d",
            str(taken),
        ]
        variables = environment(**({"PIP_CONSTRAINT": constraints.as_uri()} if constraints else {}))
        done = subprocess.run([str(SYSTEM_PYTHON), "-m", "pip", *ask, name], env=variables)
        return done.returncode, [path.name for path in taken.glob("*")]

    wheels = tmp_path / "our wheels"
    wheels.mkdir()
    constraints = tmp_path / "the constraints.txt"
    constraints.write_text("\n".join(constraint_lines(wheels, clone)), encoding="utf-8")
    assert download(None) == (0, [f"{module}-99.0-py3-none-any.whl"])
    status, taken = download(constraints)
    assert status != 0 and taken == []

    status, _, errors = run(clone, "-s", "wheels", CROSSLAYER_CACHE_DIR=str(warm_cache))
    assert status == 0, errors
    (built,) = (clone / ".nox" / "wheels").glob("*/constraints.txt")
    assert download(built) == (0, [wheel_name(package, clone)])
