"""Discovery: each plugin alone, each failure recorded, nothing loaded that is not wanted."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_plugins import install, write_dist_info
from packaging.specifiers import SpecifierSet

from crosslayer.catalogue import installed_version, packages, wrong_distributions
from crosslayer.discovery import _plainly_admits, discover
from crosslayer.errors import DependencyError
from crosslayer.hookspecs import HOOK_OF_KIND
from crosslayer.registry import KINDS, Failure, Registry


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CROSSLAYER_PLUGINS", raising=False)
    monkeypatch.delenv("CROSSLAYER_STRICT", raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "example" in name:
            del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in front of sys.path, for example plugins."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def names(registry: Registry) -> dict[str, list[str]]:
    """All that is registered, commands included."""
    found = {kind: sorted(registry.components(kind)) for kind in KINDS}
    return found | {"command": sorted(registry.commands)}


def failure_of(site: Path, name: str) -> Failure:
    """The one failure of an example plugin that is installed beside a good one."""
    alone = names(discover())
    install(site, "example-good")
    good = names(discover())
    assert good != alone
    install(site, name)
    registry = discover()
    assert names(registry) == good, "a broken plugin changed what others registered"
    (failure,) = registry.failures
    assert (failure.entry_point, failure.distribution, failure.version) == (name, name, "1.2.3")
    return failure


def test_a_good_plugin_is_registered_with_its_origin(site: Path) -> None:
    install(site, "example-good")
    registry = discover()
    assert registry.failures == ()
    found = registry.get("model_transform", "example-scale")
    assert (found.distribution, found.version) == ("example-good", "1.2.3")
    assert found.file == str(site / "example_good" / "plugin.py")
    assert registry.commands["example"].origin == found.origin


def test_discovery_imports_no_component_and_no_parameters(site: Path) -> None:
    install(site, "example-good")
    discover()
    loaded = {name for name in sys.modules if name.startswith("example_good")}
    assert loaded == {"example_good", "example_good.plugin"}


@pytest.mark.parametrize(
    ("plugin", "stage", "reason"),
    [
        (
            "example-import-fails",
            "import",
            "RuntimeError: a library of mine is broken second line",
        ),
        ("example-exits", "import", "SystemExit: this plugin needs a licence"),
        (
            "example-misspelt",
            "hooks",
            "there is no hook 'crosslayer_model_transform'; did you mean "
            "'crosslayer_model_transforms'?",
        ),
        ("example-unmarked", "hooks", "crosslayer_models is not marked with @hookimpl"),
        ("example-arguments", "register", "registry"),
        (
            "aaa-example-duplicate",
            "components",
            "accelerator model 'roofline' is registered by crosslayer already",
        ),
        ("example-old-core", "version", "it needs crosslayer <0.0.2,>=0.0.1, this is "),
        (
            "example-hook-raises",
            "call",
            "crosslayer_serving_policies raised ZeroDivisionError: no policy today",
        ),
        (
            "example-wrong-type",
            "components",
            "crosslayer_simulators returned a list with a str, not Component",
        ),
        (
            "example-returns-none",
            "components",
            "crosslayer_simulators returned None, not a list of Component",
        ),
        ("example-bad-descriptor", "call", "'My Model': a name is kebab-case"),
        ("example-reserved-command", "components", "the command 'run' is crosslayer's own"),
        ("example-wrapper", "components", "crosslayer_model_transforms returned a generator"),
    ],
)
def test_a_broken_plugin_is_recorded_and_changes_nothing_else(
    site: Path, plugin: str, stage: str, reason: str
) -> None:
    failure = failure_of(site, plugin)
    assert failure.stage == stage
    assert reason in failure.reason
    assert "\n" not in str(failure)


def test_all_broken_plugins_at_once_leave_the_good_one_as_it_is(site: Path) -> None:
    install(site, "example-good")
    good = names(discover())
    broken = [path.name for path in sorted(Path(__file__).with_name("plugins").iterdir())]
    broken = [name for name in broken if name not in ("example-good", "example-missing-dependency")]
    install(site, *broken)
    registry = discover()
    assert names(registry) == good
    assert [failure.entry_point for failure in registry.failures] == broken


def test_of_two_plugins_with_one_component_name_the_first_by_name_wins(site: Path) -> None:
    code = (
        "from crosslayer.component import Component, hookimpl\n"
        "@hookimpl\n"
        "def crosslayer_models():\n"
        "    return [Component('example-model', 'One of two', '', 'nowhere:Model')]\n"
    )
    for name in ("example-b", "example-a"):
        (site / f"{name.replace('-', '_')}.py").write_text(code)
        head = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1"]
        write_dist_info(site, head, ["[crosslayer]", f"{name} = {name.replace('-', '_')}"])
    registry = discover()
    assert registry.get("model", "example-model").distribution == "example-a"
    assert [failure.entry_point for failure in registry.failures] == ["example-b"]


def test_a_stranger_that_sorts_first_cannot_take_the_name_of_a_package_of_the_catalogue(
    site: Path,
) -> None:
    ours = packages()[0]
    kind, (name, *_) = next(iter(ours.kinds.items()))
    code = (
        "from crosslayer.component import Component, hookimpl\n"
        "@hookimpl\n"
        f"def {HOOK_OF_KIND[kind]}():\n"
        f"    return [Component({name!r}, 'Mine', '', 'nowhere:X')]\n"
    )
    for distribution, module in (("aaa-example", "aaa_example"), (ours.name, "example_ours")):
        (site / f"{module}.py").write_text(code)
        head = ["Metadata-Version: 2.1", f"Name: {distribution}", "Version: 1"]
        write_dist_info(site, head, ["[crosslayer]", f"{distribution} = {module}"])
    registry = discover()
    assert registry.get(kind, name).distribution == ours.name
    assert [failure.entry_point for failure in registry.failures] == ["aaa-example"]


def test_an_entry_point_name_that_is_taken_is_a_failure(site: Path) -> None:
    install(site, "example-good")
    head = ["Metadata-Version: 2.1", "Name: example-twin", "Version: 7"]
    write_dist_info(site, head, ["[crosslayer]", "example-good = example_good.plugin"])
    (failure,) = discover().failures
    assert (failure.distribution, failure.stage) == ("example-twin", "register")
    assert "example-good has an entry point of this name too" in failure.reason


def test_a_requirement_with_extras_or_of_another_system_is_read_as_pip_reads_it(site: Path) -> None:
    install(site, "example-good")
    metadata = site / "example_good-1.2.3.dist-info" / "METADATA"
    lines = metadata.read_text().splitlines()[:3]
    lines += ["Requires-Dist: CrossLayer[torch]>=0.1", "Requires-Dist: crosslayer-tools<0.0.1"]
    lines += ['Requires-Dist: crosslayer<0.0.1; extra == "old"']
    metadata.write_text("\n".join(lines) + "\n")
    assert discover().failures == ()
    metadata.write_text("\n".join([*lines, "Requires-Dist: crosslayer>=9"]) + "\n")
    (failure,) = discover().failures
    assert "needs crosslayer >=9" in failure.reason


def test_plain_bounds_are_decided_as_packaging_decides_them() -> None:
    versions = ("0.1", "0.1.0", "0.1.5", "0.2.0", "1.0", "0.10", "10.2")
    bounds = ("", "<0.2,>=0.1", ">=0.1.0, <0.2.0", ">=0.1.5", "<1", ">=0.9,<0.11", ">=10.2.0")
    for version in versions:
        for bound in bounds:
            for line in (f"crosslayer{bound}", f"Cross_Layer[torch] {bound}"):
                wanted = SpecifierSet(bound).contains(version, prereleases=True)
                assert _plainly_admits(line, version) == wanted, (line, version)
    for other in ("crosslayer~=0.1", "crosslayer!=0.1", "crosslayer<9; python_version>'3'"):
        assert not _plainly_admits(other, "0.1")
    assert not _plainly_admits("crosslayer>=0.1", "0.2.dev0")


def test_only_the_named_plugins_are_imported(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "example-good", "example-import-fails")
    monkeypatch.setenv("CROSSLAYER_PLUGINS", " example-good ,")
    registry = discover()
    assert registry.failures == ()
    assert "example-scale" in registry.components("model_transform")
    assert discover(only=["example-import-fails"]).failures[0].stage == "import"


def test_no_plugins_means_the_core_alone(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "example-good", "example-import-fails")
    for registry in (discover(only=()), _with_plugins("", monkeypatch)):
        assert registry.failures == ()
        origins = {
            found.distribution for kind in KINDS for found in registry.components(kind).values()
        }
        assert origins == {"crosslayer"}
    assert not any(name.startswith("example_") for name in sys.modules if name != "example_plugins")


def _with_plugins(names: str, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("CROSSLAYER_PLUGINS", names)
    return discover()


def test_a_wanted_plugin_that_is_not_installed_is_named_with_the_nearest(site: Path) -> None:
    install(site, "example-good")
    (failure,) = discover(only=["example-god"]).failures
    assert failure.stage == "selection"
    assert "did you mean 'example-good'?" in failure.reason


def test_strict_discovery_raises_the_first_failure(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "example-import-fails")
    assert len(discover(strict=False).failures) == 1
    monkeypatch.setenv("CROSSLAYER_STRICT", "1")
    with pytest.raises(
        DependencyError, match=r"'example-import-fails'.*failed at import"
    ) as raised:
        discover()
    assert isinstance(raised.value.__cause__.__cause__, RuntimeError)  # type: ignore[union-attr]


def plugin_of(site: Path, code: str) -> None:
    """Install `example-code`, whose module is this code."""
    (site / "example_code.py").write_text(code)
    head = ["Metadata-Version: 2.1", "Name: example-code", "Version: 1"]
    write_dist_info(site, head, ["[crosslayer]", "example-code = example_code"])


def test_a_plugin_that_raises_an_interruption_is_a_failure_and_a_signal_interrupts(
    site: Path,
) -> None:
    plugin_of(site, "raise KeyboardInterrupt")
    before = signal.getsignal(signal.SIGINT)
    (failure,) = discover().failures
    assert (failure.stage, failure.reason) == ("import", "KeyboardInterrupt")
    (site / "example_code.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)")
    importlib.invalidate_caches()
    with pytest.raises(KeyboardInterrupt):
        discover()
    assert signal.getsignal(signal.SIGINT) is before


BROKEN_METADATA = {
    "entry points that are not UTF-8": ("entry_points.txt", b"[crosslayer]\nx = caf\xe9\n"),
    "an entry point without a value": ("entry_points.txt", b"[crosslayer]\nx\n"),
    "an entry point that names no module": ("entry_points.txt", b"[crosslayer]\nx = a b c\n"),
    "METADATA that is not UTF-8": ("METADATA", b"Name: example-code\nVersion: caf\xe9\n"),
    "no METADATA": ("METADATA", b""),
}


@pytest.mark.parametrize("what", BROKEN_METADATA)
def test_a_distribution_whose_metadata_is_broken_changes_nothing_else(
    site: Path, what: str
) -> None:
    install(site, "example-good")
    good = names(discover())
    plugin_of(site, "")
    file, content = BROKEN_METADATA[what]
    (site / "example_code-1.dist-info" / file).write_bytes(content)
    importlib.invalidate_caches()
    registry = discover()
    assert names(registry) == good
    if content:
        (failure,) = registry.failures
        assert failure.stage in ("metadata", "version")
        assert "example" in str(failure) or "'x'" in str(failure)
    assert discover(only=["example-good"]).failures == ()
    assert wrong_distributions() == ()


def test_a_package_of_ours_with_broken_metadata_stops_no_listing(site: Path) -> None:
    ours = packages()[0]
    write_dist_info(site, ["Metadata-Version: 2.1", f"Name: {ours.name}", "Version: 3.1"], [""])
    (folder,) = site.glob("*.dist-info")
    (folder / "entry_points.txt").write_bytes(b"\xff")
    importlib.invalidate_caches()
    assert wrong_distributions() == ()
    assert installed_version(ours) is None
    assert [failure.entry_point for failure in discover().failures] == [ours.name]


def test_what_a_plugin_prints_while_it_loads_stays_off_stdout(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "example-import-fails")
    discover()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "half loaded" in printed.err


def test_a_stranger_under_one_of_our_names_is_told_from_ours(site: Path) -> None:
    ours = packages()[0]
    head = ["Metadata-Version: 2.1", f"Name: {ours.name}", "Version: 3.1"]
    write_dist_info(site, [*head, "Summary: Flow charts", "Home-page: https://example.org"], [""])
    (wrong,) = wrong_distributions()
    assert (wrong.name, wrong.version, wrong.location) == (ours.name, "3.1", str(site))
    assert "Flow charts https://example.org" in str(wrong)
    assert installed_version(ours) is None


def test_a_package_of_ours_with_its_entry_point_is_no_stranger(site: Path) -> None:
    ours = packages()[0]
    head = ["Metadata-Version: 2.1", f"Name: {ours.name}", "Version: 3.1"]
    write_dist_info(site, head, ["[crosslayer]", f"{ours.name} = nowhere.plugin"])
    assert wrong_distributions() == ()
    assert installed_version(ours) == "3.1"
