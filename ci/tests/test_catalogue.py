"""ci/check_catalogue.py finds every disagreement between catalogue, pyprojects, README and tree."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

import check_catalogue
from catalogue import CORE, Package, by_name, read_catalogue, sources_hash, third_party, wheel_name
from check_alone import intruders

FLOW = "packages/flow-flexcim/pyproject.toml"


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_the_repository_agrees_with_itself(root: Path) -> None:
    assert [*check_catalogue.problems(root)] == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (FLOW, 'name = "flow-flexcim"', 'name = "flow"', "the name is 'flow'"),
        (FLOW, 'flow-flexcim = "flow_flexcim.plugin"', "", "entry points in 'crosslayer' are {}"),
        (FLOW, '"flow_flexcim.plugin"', '"flow_flexcim.other"', "not flow-flexcim ="),
        (FLOW, "src/flow_flexcim", "src/flow", "the wheel holds ['src/flow']"),
        (FLOW, "Private :: Do Not Upload", "Programming Language :: Python", "Do Not Upload"),
        (FLOW, 'requires-python = ">=3.11"', 'requires-python = ">=3.9"', "requires-python"),
        (FLOW, "crosslayer[torch]>=0.1,<0.2", "crosslayer[torch]", "a lower and an upper bound"),
        (FLOW, "crosslayer[torch]>=0.1,<0.2", "crosslayer[torch]>=0.1", "an upper bound"),
        (FLOW, "crosslayer[torch]>=0.1,<0.2", "crosslayer[torch]>=0.2,<0.3", "around 0.1.0"),
        (FLOW, "hatchling.build", "setuptools.build_meta", "not hatchling"),
        ("plugins.toml", "torch = true", "torch = false", "torch is required"),
        ("plugins.toml", "extras = []", 'extras = ["plots"]', "the extras are []"),
        ("plugins.toml", "2504.14365", "2504.99999", "table of packages is stale"),
        ("README.md", check_catalogue.BEGIN, "", "markers"),
        ("core/README.md", "# crosslayer", "`pip install crosslayer`", "ask a public index"),
        ("core/README.md", "# crosslayer", "pip install -U flow-flexcim", "ask a public index"),
    ],
)
def test_a_disagreement_is_named(clone: Path, file: str, old: str, new: str, said: str) -> None:
    change(clone / file, old, new)
    found = [*check_catalogue.problems(clone)]
    assert any(said in problem for problem in found), found


@pytest.mark.parametrize(
    "name", ["README.md", "tests", "src/flow_flexcim/py.typed", "benchmarks", "src/flow_flexcim"]
)
def test_a_part_missing_from_a_package_is_named(clone: Path, name: str) -> None:
    path = clone / "packages" / "flow-flexcim" / name
    path.rename(clone / ".gone")
    assert any(f"{name}" in problem for problem in check_catalogue.problems(clone))


def test_the_top_level_holds_exactly_what_is_agreed(clone: Path) -> None:
    (clone / "setup.cfg").touch()
    (clone / ".a-dotfile").touch()
    (clone / "runs").mkdir()
    (clone / "CHANGELOG.md").unlink()
    assert [*check_catalogue.top_level_problems(clone)] == [
        "setup.cfg does not belong at the top level",
        "CHANGELOG.md is missing at the top level",
    ]


def test_the_installed_packages_register_what_the_catalogue_says() -> None:
    components, failures = check_catalogue.registered()
    assert failures == []
    assert [*check_catalogue.registered_problems(read_catalogue(), components)] == []
    assert components["crosslayer"]


def test_what_is_registered_must_be_what_the_catalogue_says() -> None:
    packages = read_catalogue()
    right = {package.name: package.kinds for package in packages}
    assert [*check_catalogue.registered_problems(packages, right)] == []
    wrong = {**right, "flow-flexcim": {"model_transform": ["flow", "stray"]}}
    (problem,) = check_catalogue.registered_problems(packages, wrong)
    assert problem.startswith("flow-flexcim: registers") and "stray" in problem
    (problem,) = check_catalogue.registered_problems(packages, {**right, "flow-flexcim": {}})
    assert "registers {}" in problem


def test_the_table_is_rewritten_from_the_catalogue(clone: Path) -> None:
    change(clone / "plugins.toml", "(FLOW)", "(FLOW, anew)")
    text = (clone / "README.md").read_text(encoding="utf-8")
    fresh = check_catalogue.with_table(text, read_catalogue(clone))
    assert "Per-block N:M pruning (FLOW, anew) and its accelerator" in fresh
    assert fresh.replace(", anew", "") == text


def test_a_package_brings_what_the_core_needs_for_it_and_nothing_of_ours() -> None:
    wanted = third_party(by_name("flow-flexcim"))
    names = {need.partition(">")[0] for need in wanted}
    assert {"torch", "transformers", "pydantic", "numpy"} <= names
    assert "crosslayer" not in " ".join(wanted)
    assert "ml-dtypes" not in names
    assert {"ml-dtypes", "torch"} <= {need.partition(">")[0] for need in third_party(CORE)}


def test_the_hash_of_the_sources_follows_what_goes_into_a_wheel(clone: Path) -> None:
    before = sources_hash(clone)
    (clone / "core" / "tests" / "another_test.py").touch()
    assert sources_hash(clone) == before
    (clone / "core" / "src" / "crosslayer" / "another.py").touch()
    assert sources_hash(clone) != before
    change(clone / "core/pyproject.toml", 'version = "0.1.0"', 'version = "0.1.1"')
    assert wheel_name(CORE, clone) == "crosslayer-0.1.1-py3-none-any.whl"


def test_a_sibling_that_can_be_imported_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one_package").mkdir()
    (tmp_path / "one_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    one = Package(name="one", path="", module="one_package")
    other = Package(name="other", path="", module="other_package")
    here = {point.module.partition(".")[0] for point in entry_points(group="crosslayer")}
    assert intruders(["one_package", *here], [one, other]) == []
    assert intruders([*here], [one, other]) == ["one_package is importable here"]
    assert "other_package is not importable here" in intruders(
        ["one_package", "other_package", *here], [one, other]
    )
