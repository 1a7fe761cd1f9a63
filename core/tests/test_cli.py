"""The command line as a person and as a program see it: output, exit codes, imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from example_plugins import crosslayer, in_new_python, install, write_dist_info

from crosslayer.catalogue import packages
from crosslayer.component import RESERVED_COMMANDS

HEAVY = {"torch", "numpy", "transformers", "matplotlib", "pandas", "jinja2", "rich"}
MODULES = """
import sys
from crosslayer.cli import main
try:
    main(sys.argv[1:])
finally:
    print("MODULES", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of example plugins: one good."""
    return install(tmp_path / "site", "example-good")


def modules_after(site: Path, *arguments: str) -> set[str]:
    """Top-level modules that a command has imported when it ends."""
    ended = in_new_python([sys.executable, "-c", MODULES, *arguments], site=site)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stderr.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plugins"], ["plugins", "--json"], ["--version"]]
)
def test_listing_imports_no_heavy_module_and_builds_no_parameter_model(
    site: Path, arguments: list[str]
) -> None:
    modules = modules_after(site, *arguments)
    assert not modules & (HEAVY | {"pydantic"})
    assert "packaging" not in modules  # the good plugin's bounds are plain
    assert "typer" in modules


def test_describing_a_component_imports_its_parameters_and_nothing_heavy(site: Path) -> None:
    for name in ("example-scale", "roofline", "smollm2-135m", "perplexity", "llama-3.1-8b"):
        assert not modules_after(site, "describe", name) & HEAVY


def test_help_lists_every_command_with_its_whole_summary(site: Path) -> None:
    text = crosslayer("--help", site=site).stdout
    for command in ("plugins", "describe", "check", "run", "fetch", "check-plugin"):
        assert f"\n  {command} " in text
    assert "..." not in text.partition("Commands:")[2]
    assert "Say hello or fail" in text


def test_the_cores_commands_are_reserved() -> None:
    text = crosslayer("--no-plugins", "--help").stdout.partition("Commands:")[2]
    ours = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert ours and ours <= RESERVED_COMMANDS


def test_no_arguments_show_the_help_and_exit_2() -> None:
    ended = crosslayer()
    assert ended.returncode == 2
    assert "Usage: crosslayer" in ended.stdout + ended.stderr


def test_the_version_is_the_packages() -> None:
    ended = crosslayer("--version")
    assert ended.returncode == 0
    name, version = ended.stdout.split()
    assert name == "crosslayer" and version[0].isdigit()


def test_plugins_shows_what_each_registers_and_from_where(site: Path) -> None:
    ended = crosslayer("plugins", site=site)
    assert ended.returncode == 0
    assert f"example-good 1.2.3  {site / 'example_good' / 'plugin.py'}" in ended.stdout
    assert "  model transform   example-scale, example-plain\n" in ended.stdout
    assert "  command           example\n" in ended.stdout
    assert "  accelerator model roofline, cpu-local\n" in ended.stdout
    assert ended.stderr == ""


def test_a_broken_plugin_beside_the_good_ones_adds_its_own_line_and_no_more(site: Path) -> None:
    before = crosslayer("plugins", site=site)
    install(site, "aaa-example-duplicate")
    after = crosslayer("plugins", site=site)
    assert after.returncode == 0
    new = after.stdout.removeprefix(before.stdout)
    assert new == (
        "FAILED  plugin 'aaa-example-duplicate' (aaa-example-duplicate 1.2.3) failed at "
        "components: accelerator model 'roofline' is registered by crosslayer already\n"
    )


def test_a_broken_plugin_is_quiet_where_it_is_not_needed(site: Path) -> None:
    install(site, "aaa-example-duplicate", "example-exits", "example-old-core")
    ended = crosslayer("describe", "example-plain", site=site)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_plugins_as_json_has_the_same_and_nothing_else_on_stdout(site: Path) -> None:
    install(site, "example-import-fails")
    data = json.loads(crosslayer("plugins", "--json", site=site).stdout)
    good = next(plugin for plugin in data["plugins"] if plugin["distribution"] == "example-good")
    assert [one["name"] for one in good["components"]] == ["example-scale", "example-plain"]
    assert [one["name"] for one in good["commands"]] == ["example"]
    (failure,) = data["failures"]
    assert (failure["entry_point"], failure["stage"]) == ("example-import-fails", "import")
    assert data["wrong_distributions"] == []


def test_a_strangers_distribution_under_one_of_our_names_is_shown(site: Path) -> None:
    head = ["Metadata-Version: 2.1", f"Name: {packages()[0].name}", "Version: 3.1"]
    write_dist_info(site, head, [""])
    text = crosslayer("plugins", site=site).stdout
    assert f"WARNING  {packages()[0].name} 3.1 in {site} is not crosslayer's" in text
    data = json.loads(crosslayer("plugins", "--json", site=site).stdout)
    assert [one["name"] for one in data["wrong_distributions"]] == [packages()[0].name]


def test_the_catalogue_says_what_is_installed(site: Path) -> None:
    package = packages()[0]
    head = ["Metadata-Version: 2.1", f"Name: {package.name}", "Version: 3.1"]
    write_dist_info(site, head, ["[crosslayer]", f"{package.name} = nowhere"])
    text = crosslayer("plugins", "--available", site=site).stdout
    assert f"{package.name}  {package.paper}  (installed, 3.1)" in text
    data = json.loads(crosslayer("plugins", "--available", "--json", site=site).stdout)
    assert [one["name"] for one in data] == [one.name for one in packages()]
    assert data[0]["installed"] == "3.1"


def test_plugins_are_chosen_by_option_and_by_environment(site: Path) -> None:
    install(site, "example-import-fails")
    assert "example" not in crosslayer("--no-plugins", "plugins", site=site).stdout
    chosen = crosslayer("plugins", site=site, CROSSLAYER_PLUGINS="example-good").stdout
    assert "example-scale" in chosen and "FAILED" not in chosen
    assert "example " not in crosslayer("--no-plugins", "--help", site=site).stdout


def test_strict_discovery_fails_with_the_sentence_and_exit_3(site: Path) -> None:
    install(site, "example-import-fails")
    ended = crosslayer("plugins", site=site, CROSSLAYER_STRICT="1")
    assert ended.returncode == 3
    assert "crosslayer: plugin 'example-import-fails'" in ended.stderr
    assert "Traceback" not in ended.stderr
    debug = crosslayer("--debug", "plugins", site=site, CROSSLAYER_STRICT="1")
    assert debug.returncode == 3
    assert "RuntimeError: a library of mine is broken" in debug.stderr


def test_describe_shows_every_parameter_and_where_the_component_is_from(site: Path) -> None:
    ended = crosslayer("describe", "example-scale", site=site, COLUMNS="100")
    assert ended.returncode == 0
    assert (
        ended.stdout
        == f"""example-scale: model transform
  Scales a model by a factor
  paper    arXiv:0000.00000
  from     example-good 1.2.3
  file     {site / "example_good" / "plugin.py"}
  presets  example-scale:half, example-scale:double
  parameters
    factor (number; > 0, <= 8; default 1.0)
        What every weight is multiplied by.
    rounds (whole number; >= 1; default 1)
        How often.
    rounding ("even" or "up"; default "even")
        How ties are rounded.
    layers (list of table; default [])
        One table a layer.
    layers.keep (number; > 0, <= 1; default 1.0)
        Share of the layer that is kept.
    target (whole number or text; default 0)
        A layer's number or its name.
    preset (text; default none)
        A named choice of the above.
"""
    )


def test_describe_as_json_has_the_same(site: Path) -> None:
    (data,) = json.loads(crosslayer("describe", "example-scale", "--json", site=site).stdout)
    assert data["kind"] == "model_transform"
    assert data["distribution"] == "example-good"
    assert data["parameters"][0] == {
        "name": "factor",
        "type": "number",
        "required": False,
        "default": 1.0,
        "bounds": "> 0, <= 8",
        "description": "What every weight is multiplied by.",
    }


def test_describe_of_an_unknown_name_names_the_nearest_and_exits_2(site: Path) -> None:
    ended = crosslayer("describe", "rooflin", site=site)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "crosslayer: no component 'rooflin'; did you mean 'roofline'?\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["describe"],
        ["plugins", "--nothing"],
        ["run", "x.toml", "--threads", "0"],
        ["run", "x.toml", "--threads", "999999"],
        ["run", "x.toml", "--threads", "many"],
        ["fetch"],
        ["fetch", "smolm2-135m"],
        ["check", "there-is-no-such-file.toml"],
        ["run", "there-is-no-such-file.toml"],
        ["check-plugin", "nothing"],
    ],
)
def test_a_wrong_call_exits_2_with_a_sentence_and_no_traceback(
    arguments: list[str], tmp_path: Path
) -> None:
    ended = crosslayer(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_command_of_a_plugin_is_called_with_its_arguments(site: Path) -> None:
    ended = crosslayer("example", "hello", "you", site=site)
    assert (ended.returncode, ended.stdout) == (0, "hello you\n")
    assert "hello" in crosslayer("example", "--help", site=site).stdout
    assert crosslayer("example", "nothing", site=site).returncode == 2


def test_errors_of_a_plugins_command_have_the_exit_codes_of_ours(site: Path) -> None:
    refused = crosslayer("example", "refuse", site=site)
    assert (refused.returncode, refused.stderr) == (
        2,
        "crosslayer: example: this input cannot be used\n",
    )
    crashed = crosslayer("example", "crash", site=site)
    assert crashed.returncode == 4
    assert "command 'example' of example-good failed: ZeroDivisionError" in crashed.stderr
    assert "Traceback" not in crashed.stderr
    assert "Traceback" in crosslayer("--debug", "example", "crash", site=site).stderr


def test_an_unknown_command_names_the_nearest_and_the_plugins_that_failed(site: Path) -> None:
    install(site, "example-exits")
    ended = crosslayer("exampel", site=site)
    assert ended.returncode == 2
    assert "no command 'exampel'; did you mean 'example'?" in ended.stderr
    assert "failed to load: example-exits" in ended.stderr


def test_a_defect_of_ours_exits_70_with_a_traceback() -> None:
    code = (
        "import crosslayer.cli_listing as listing\n"
        "del listing.wrong_distributions\n"
        "from crosslayer.cli import main\n"
        "main(['plugins'])\n"
    )
    ended = in_new_python([sys.executable, "-c", code])
    assert ended.returncode == 70
    assert "Traceback" in ended.stderr
    assert "NameError" in ended.stderr
    assert "defect of crosslayer" in ended.stderr


def test_an_interruption_exits_130_without_a_traceback(site: Path) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    (site / "example_interrupt.py").write_text(code)
    head = ["Metadata-Version: 2.1", "Name: example-interrupt", "Version: 1"]
    write_dist_info(site, head, ["[crosslayer]", "example-interrupt = example_interrupt"])
    for arguments in (["plugins"], ["--help"]):
        ended = crosslayer(*arguments, site=site)
        assert ended.returncode == 130
        assert "Traceback" not in ended.stderr


def test_a_reader_that_leaves_early_is_no_error(site: Path) -> None:
    command = f"'{sys.executable}' -m crosslayer plugins --json | head -c 1"
    ended = in_new_python(["bash", "-c", f"set -o pipefail; {command}"], site=site)
    assert ended.stdout == "{"
    assert ended.stderr == ""
    closed = in_new_python(
        ["bash", "-c", f"'{sys.executable}' -m crosslayer plugins | true; echo ${{PIPESTATUS[0]}}"],
        site=site,
    )
    assert closed.stdout in ("0\n", "141\n")  # 0 where all was written before the reader left
    assert closed.stderr == ""


def test_the_module_can_be_run_and_called(site: Path) -> None:
    code = "from crosslayer.cli import main; main(['--version'])"
    ended = in_new_python([sys.executable, "-c", code])
    assert isinstance(ended, subprocess.CompletedProcess)
    assert ended.stdout == crosslayer("--version").stdout
