"""`crosslayer doctor`: what it finds in environments made for it, and how it exits."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from example_plugins import crosslayer, install, write_dist_info

from crosslayer.catalogue import packages
from crosslayer.contracts.model import ModelSpec
from crosslayer.doctor import Cache, Needs, asset_needs, cache_state, examine, shortages
from crosslayer.doctor_packages import dependencies, optional, requirements
from crosslayer.fetch import catalogue
from crosslayer.models.presets import preset_config
from crosslayer.registry import Origin, Registered, Registry

OURS = packages()[0]
HEAD = ["Metadata-Version: 2.1", f"Name: {OURS.name}", "Version: 3.1"]


def doctor(site: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    cache = {"CROSSLAYER_CACHE_DIR": str(site / "cache")}
    return crosslayer("doctor", *arguments, site=site, **(cache | environment))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that works as site-packages in this process, and a cache of the test's own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CROSSLAYER_PLUGINS", "")
    monkeypatch.delenv("CROSSLAYER_OFFLINE", raising=False)
    return tmp_path


def test_a_whole_installation_is_usable_and_exits_0(tmp_path: Path) -> None:
    ended = doctor(install(tmp_path, "example-good"), CROSSLAYER_PLUGINS="example-good")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == "usable: nothing is broken"
    assert "example-good 1.2.3: 2 components" in ended.stdout
    assert "smollm2-135m: 92.87 MB to download" in ended.stdout


def test_json_says_the_same_and_a_failed_plugin_exits_3_with_its_stage(tmp_path: Path) -> None:
    site = install(tmp_path, "example-import-fails")
    # CROSSLAYER_STRICT would raise the failure; doctor shows it all the same.
    chosen = {"CROSSLAYER_PLUGINS": "example-import-fails", "CROSSLAYER_STRICT": "1"}
    ended = doctor(site, "--json", **chosen)
    data = json.loads(ended.stdout)
    assert (ended.returncode, data["usable"]) == (3, False)
    assert [one["stage"] for one in data["failures"]] == ["import"]
    assert len(data["broken"]) == 1
    assert "'example-import-fails'" in data["broken"][0]
    assert data["environment"]["variables"]["CROSSLAYER_STRICT"] == "1"


def test_a_stranger_under_one_of_our_names_is_broken_and_said_whose_it_is(tmp_path: Path) -> None:
    about = ["Summary: Flow charts", "Author: A. Stranger"]
    write_dist_info(tmp_path, [*HEAD, *about], [""])
    ended = doctor(tmp_path, CROSSLAYER_PLUGINS="")
    assert ended.returncode == 3
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("  WRONG   ")]
    assert f"  {line.removeprefix('  WRONG   ')}" in ended.stdout.partition("BROKEN: 1")[2]
    assert f"{OURS.name} 3.1 in {tmp_path} is not crosslayer's" in line
    assert "Flow charts by A. Stranger" in line
    assert f"install {OURS.path} of crosslayer's repository" in line
    assert f"pip install {OURS.name}" not in ended.stdout


def test_our_entry_point_on_other_files_is_a_stranger_too(here: Path) -> None:
    write_dist_info(here, HEAD, ["[crosslayer]", f"{OURS.name} = {OURS.module}.plugin"])
    record = here / f"{OURS.name.replace('-', '_')}-3.1.dist-info" / "RECORD"
    record.write_text(f"{OURS.module}/plugin.py,,\n")
    assert examine().wrong_distributions == ()
    record.write_text("flowcharts/__init__.py,,\n")
    (wrong,) = examine().wrong_distributions
    assert wrong.reason == f"it brings no file of {OURS.module}"
    (record.parent / "direct_url.json").write_text('{"dir_info": {"editable": true}}')
    assert examine().wrong_distributions == ()  # installed to be edited: its files are elsewhere


def test_a_requirement_of_the_wrong_version_is_broken(here: Path) -> None:
    assert [one.problem for one in dependencies() if one.problem] == []
    write_dist_info(here, ["Metadata-Version: 2.1", "Name: pluggy", "Version: 0.1"], [""])
    (problem,) = [one.problem for one in dependencies() if one.problem]
    assert problem.startswith("crosslayer needs pluggy>=1.5,<2, installed is 0.1")
    assert examine().broken == (problem,)


def test_what_a_missing_module_would_enable_comes_from_the_extras_and_the_components() -> None:
    from crosslayer.component import Component

    needs = ("a_module_nobody_has", OURS.module, "bad name")
    parts = {"needs": needs, "factory": "nowhere:Nothing", "install": "conda install nobody"}
    component = Component("needy", "needs things", "", **parts)  # type: ignore[arg-type]
    origin = Origin("toy", "toy-parts", "1.2.3", "toy.py")
    found = {
        one.module: one for one in optional(Registry([Registered("evaluator", component, origin)]))
    }
    missing = found["a_module_nobody_has"]
    assert (missing.installed, missing.components) == (None, ("needy",))
    assert missing.install == "conda install nobody"  # a module's name is no distribution's
    assert found["bad name"].installed is None
    assert found[OURS.module].install == ""  # never by name
    assert found["torch"].extra == "torch"
    wanted = {line.name for extra, line in requirements() if extra}
    assert wanted <= {one.distribution for one in found.values()}


def test_a_models_needs_are_counted_from_its_spec_and_its_pinned_file() -> None:
    (model,) = [one for one in asset_needs() if one.name == "smollm2-135m"]
    spec = ModelSpec.from_hf_config(preset_config("smollm2-135m"))
    asset = catalogue()["smollm2-135m"]
    assert model.memory_bytes == 4 * 134_515_008  # fp32; parameters of the published config.json
    assert model.download_bytes == asset.wheel_bytes
    assert model.disk_bytes == asset.member_bytes + spec.weight_bytes


MODEL: dict[str, Any] = {"download_bytes": 10, "disk_bytes": 20, "peak_bytes": 30}


@pytest.mark.parametrize(
    ("present", "free", "memory", "offline", "said"),
    [
        (False, 30, 40, False, []),
        (False, 29, 40, False, ["in the cache"]),
        (True, 29, 40, True, []),
        (True, 29, 39, False, ["of memory"]),
        (False, 30, None, True, ["CROSSLAYER_OFFLINE forbids"]),
    ],
)
def test_what_is_short_is_said_and_only_that(
    present: bool, free: int, memory: int | None, offline: bool, said: list[str]
) -> None:
    needs = Needs("toy", present, memory_bytes=40, **MODEL)
    notes = list(shortages([needs], Cache("cache", True, True, free), memory, offline))
    assert len(notes) == len(said)
    assert all(part in note for part, note in zip(said, notes, strict=True))


def test_a_cache_that_is_a_file_cannot_be_written_and_is_not_made(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = cache_state()
    assert (state.writable, state.exists, (here / "cache").exists()) == (True, False, False)
    (here / "cache").write_text("a file")
    (broken,) = examine().broken
    assert "cache cannot be written" in broken
    assert "CROSSLAYER_CACHE_DIR" in broken
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(here / "other"))
    assert examine().broken == ()
