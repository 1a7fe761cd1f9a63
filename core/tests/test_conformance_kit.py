"""The conformance kit flags each broken component of the zoo by one check, and no good one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosslayer.discovery import discover
from crosslayer.registry import KINDS, Registry
from crosslayer.testing import check_plugin, checks_for
from crosslayer.testing.kit import CHECKS, run_check

LISTING = "listing_imports_nothing_heavy"
ZOO = Path(__file__).with_name("zoo")
sys.path.insert(0, str(ZOO))

from kit_zoo.plugin import BROKEN, GOOD  # noqa: E402


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The zoo, installed as a distribution with two entry points."""
    site = tmp_path_factory.mktemp("site")
    info = site / "kit_zoo-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kit-zoo\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(
        "[crosslayer]\nkit-zoo = kit_zoo.plugin\nkit-zoo-heavy = kit_zoo.heavy\n", encoding="utf-8"
    )
    sys.path.insert(0, str(site))
    yield discover()
    sys.path.remove(str(site))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_component_is_flagged_by_its_check_and_no_other(
    registry: Registry, name: str
) -> None:
    # What listing imports is a question to the plugin, which all of these share: the good ones ask.
    bound = checks_for(name, registry=registry)
    results = [run_check(one) for one in bound if one.check.name != LISTING]
    assert [result.check for result in results if not result.passed] == [BROKEN[name][1]], [
        result.message for result in results if not result.passed
    ]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_component_passes_every_check(registry: Registry, name: str) -> None:
    results = check_plugin(name, registry=registry)
    assert [result.message for result in results if not result.passed] == []
    assert len(results) >= 7


def test_a_plugin_that_imports_numpy_when_listed_is_flagged(registry: Registry) -> None:
    results = check_plugin("heavy", registry=registry)
    flagged = {result.check: result.message for result in results if not result.passed}
    assert list(flagged) == ["listing_imports_nothing_heavy"]
    assert "numpy" in flagged["listing_imports_nothing_heavy"]


def test_every_check_has_a_component_that_breaks_it() -> None:
    checks_for("roofline")  # registers the checks
    broken = [check for _, check in BROKEN.values()] + ["listing_imports_nothing_heavy"]
    assert sorted(broken) == sorted(check.name for check in CHECKS)


def test_every_kind_is_checked() -> None:
    checks_for("roofline")
    for kind in KINDS:
        assert sum(kind in check.kinds for check in CHECKS) >= 7


@pytest.mark.parametrize("check", checks_for("roofline:h100-80g"), ids=str)
def test_the_built_in_roofline_conforms(check: object) -> None:
    check()  # type: ignore[operator]


@pytest.mark.parametrize("check", checks_for("llama-3.1-8b"), ids=str)
def test_a_spec_preset_conforms(check: object) -> None:
    check()  # type: ignore[operator]
