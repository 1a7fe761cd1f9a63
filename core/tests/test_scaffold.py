"""`crosslayer new`: names that are refused, packages of every kind that conform as they are."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
from example_plugins import crosslayer, install

from crosslayer.catalogue import packages
from crosslayer.discovery import core_version, discover
from crosslayer.errors import InputError
from crosslayer.pipeline import check_file
from crosslayer.scaffold import TOYS, create, names_for, render
from crosslayer.scaffold.generate import core_bounds
from crosslayer.testing import BoundCheck, checks_for

OURS = packages()[0]
LONGEST = "a" * 26


def toy_name(kind: str) -> str:
    return f"new-{kind}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One package of each kind, generated, and installed as pip leaves them."""
    home = tmp_path_factory.mktemp("scaffold")
    for kind in TOYS:
        create(toy_name(kind), kind, home)
    return install(home / "site", *map(toy_name, TOYS), home=home)


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delenv("CROSSLAYER_PLUGINS", raising=False)
    return site


def checks_of(kind: str) -> dict[str, BoundCheck]:
    return {bound.check.name: bound for bound in checks_for(toy_name(kind))}


@pytest.mark.parametrize("kind", TOYS)
def test_a_generated_package_conforms(kind: str, installed: Path) -> None:
    checks = checks_of(kind)
    assert len(checks) >= 7
    # What starts processes is the same for all of them: once, for one kind.
    slow = {"listing_imports_nothing_heavy", "a_worker_rebuilds_it"}
    for name, check in checks.items():
        if kind == "accelerator-model" or name not in slow:
            check()


@pytest.mark.parametrize("kind", TOYS)
def test_its_example_pipeline_is_valid(kind: str, installed: Path) -> None:
    file = installed.parent / toy_name(kind) / "pipeline.toml"
    pipeline, problems = check_file(file, discover())
    assert (problems, pipeline is not None) == ((), True)
    assert f'use = "{toy_name(kind)}"' in file.read_text()


@pytest.mark.parametrize("kind", TOYS)
def test_the_metadata_is_what_a_package_of_this_project_has(kind: str, site: Path) -> None:
    folder = site.parent / toy_name(kind)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["classifiers"] == ["Private :: Do Not Upload"]
    module = toy_name(kind).replace("-", "_")
    assert project["entry-points"]["crosslayer"] == {toy_name(kind): f"{module}.plugin"}
    wanted = re.compile(r"crosslayer(\[torch\])?" + re.escape(core_bounds(core_version())))
    assert wanted.fullmatch(project["dependencies"][0])
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"README.md", "pipeline.toml", f"src/{module}/py.typed"} <= files
    assert len([name for name in files if name.startswith("tests/test_")]) == 2
    # An install by name would ask an index, where the name may be a stranger's.
    readme = (folder / "README.md").read_text()
    assert re.findall(r"pip install .*", readme) == ["pip install --no-deps --editable ."]


@pytest.mark.parametrize("kind", TOYS)
def test_the_same_name_gives_the_same_bytes_and_no_line_outgrows_100_columns(kind: str) -> None:
    for name in ("q", LONGEST):
        files = render(names_for(name), TOYS[kind])
        assert files == render(names_for(name), TOYS[kind])
        code = [line for path in files if path.endswith(".py") for line in files[path].split("\n")]
        assert max(map(len, code)) <= 100
        assert not [line for text in files.values() for line in text.split("\n") if "$" in line]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (OURS.name, "a package of this project"),
        (OURS.module, "a package of this project"),
        (next(iter(OURS.kinds.values()))[0], f"of the package {OURS.name}"),
        ("Crosslayer", "crosslayer itself"),
        ("sweep", "a command of crosslayer"),
        ("roofline", "the core's own accelerator model"),
        ("class", "a keyword of Python"),
        ("json", "Python's own library"),
        ("NumPy", "installed already, as the distribution numpy"),
        ("example_plugins", "importable already"),
        ("2bit", "begins with a digit"),
        (LONGEST + "b", "27 characters"),
        ("../evil", "no name for a package"),
        ("-x", "no name for a package"),
        ("naïve", "no name for a package"),
        ("", "no name for a package"),
    ],
)
def test_a_name_that_is_taken_or_malformed_is_refused_and_nothing_is_written(
    given: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as raised:
        create(given, "simulator", tmp_path)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_normalised() -> None:
    names = names_for("My__Fine.Tool")
    assert (names.name, names.module, names.prefix) == (
        "my-fine-tool",
        "my_fine_tool",
        "MyFineTool",
    )


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "my-tool").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        create("my_tool", "simulator", tmp_path)
    (tmp_path / "my-link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="exists already"):
        create("my-link", "simulator", tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        create("other", "simulator", tmp_path / "nowhere")
    assert (tmp_path / "my-tool").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_write_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = Path.write_text, []

    def full(path: Path, *arguments: str, **options: str) -> int:
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left"):
        create("my-tool", "simulator", tmp_path)
    assert len(written) == 4
    assert list(tmp_path.iterdir()) == []


def test_the_bounds_follow_the_version_of_the_core() -> None:
    assert core_bounds("0.1.0") == ">=0.1,<0.2"
    assert core_bounds("0.12.3.dev4") == ">=0.12,<0.13"
    assert core_bounds("2.4.1") == ">=2.4,<3"


def test_the_command_says_what_to_do_next_and_a_wrong_kind_exits_2(tmp_path: Path) -> None:
    ended = crosslayer("new", "My_Tool", "--kind", "simulator", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "  cd my-tool\n  python -m pip install --no-deps --editable .\n" in ended.stdout
    wrong = crosslayer("new", "other", "--kind", "simulater", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "no kind 'simulater' of package; did you mean 'simulator'?" in wrong.stderr
    ended = crosslayer("new", "b", "--kind", "serving-policy", "--json", cwd=tmp_path)
    assert "src/b/policy.py" in json.loads(ended.stdout)["files"]
    assert sorted(os.listdir(tmp_path)) == ["b", "my-tool"]
