"""What check, run, fetch and check-plugin print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from example_plugins import crosslayer, install


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of example plugins: one good."""
    return install(tmp_path / "site", "example-good")


def test_check_prints_file_line_and_sentence_for_each_problem(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(
        '[model]\nuse = "llama-3.1-8b"\n\n[[transform]]\nuse = "example-scale"\nfactr = 2\n'
    )
    ended = crosslayer("check", "pipeline.toml", site=site, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (2, "")
    (line,) = ended.stdout.splitlines()
    assert line.startswith("pipeline.toml:6:")
    assert "did you mean 'factor'?" in line
    data = json.loads(crosslayer("check", str(file), "--json", site=site).stdout)
    assert data["valid"] is False
    assert data["problems"][0]["line"] == 6


def test_check_of_a_good_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "good.toml"
    file.write_text('[model]\nuse = "llama-3.1-8b"\n\n[accelerator]\nuse = "roofline:a100-80g"\n')
    ended = crosslayer("check", "good.toml", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "good.toml: nothing wrong with 'good'\n")
    assert json.loads(crosslayer("check", str(file), "--json").stdout)["valid"] is True


def test_fetch_lists_size_licence_hash_and_path(tmp_path: Path) -> None:
    text = crosslayer("fetch", "--list", CROSSLAYER_CACHE_DIR=str(tmp_path)).stdout
    data = json.loads(
        crosslayer("fetch", "--list", "--json", CROSSLAYER_CACHE_DIR=str(tmp_path)).stdout
    )
    assert "smollm2-135m" in {asset["name"] for asset in data}
    for asset in data:
        for key in ("name", "licence", "sha256", "path"):
            assert asset[key] in text
        assert asset["path"].startswith(str(tmp_path))


def test_fetch_offline_with_a_cold_cache_is_one_sentence_and_exit_3(tmp_path: Path) -> None:
    ended = crosslayer(
        "fetch", "smollm2-135m", CROSSLAYER_CACHE_DIR=str(tmp_path), CROSSLAYER_OFFLINE="1"
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    assert len(ended.stderr.splitlines()) == 1


SPEC_ONLY = '[model]\nuse = "llama-3.1-8b"\n\n[accelerator]\nuse = "roofline:a100-80g"\n'


def test_run_prints_the_metrics_and_the_reports_path(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SPEC_ONLY)
    ended = crosslayer(
        "run",
        "small.toml",
        "--threads",
        "1",
        cwd=tmp_path,
        CROSSLAYER_CACHE_DIR=str(tmp_path / "c"),
    )
    assert ended.returncode == 0, ended.stderr
    head, *rows, last = ended.stdout.splitlines()
    assert head.split() == ["metric", "value", "provenance", "source"]
    assert rows and all("modelled" in row for row in rows)
    assert last == "report: runs/small/report.html"
    assert (tmp_path / "runs" / "small" / "report.html").is_file()


def test_run_as_json_goes_to_the_directory_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SPEC_ONLY)
    runs = tmp_path / "my runs"
    ended = crosslayer(
        *("run", "small.toml", "--json", "--runs-dir", str(runs)),
        cwd=tmp_path,
        CROSSLAYER_CACHE_DIR=str(tmp_path / "c"),
    )
    data = json.loads(ended.stdout)
    assert data["directory"] == str(runs / "small")
    assert Path(data["report"]).is_file()
    assert {metric["provenance"] for metric in data["metrics"]} == {"modelled"}


def test_run_of_a_wrong_file_prints_what_check_prints_and_makes_no_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "bad.toml").write_text(
        SPEC_ONLY + '\n[workload]\nbatch = 2\n[[transform]]\nuse = "x"\n'
    )
    checked = crosslayer("check", "bad.toml", cwd=tmp_path)
    ended = crosslayer("run", "bad.toml", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == checked.stdout
    assert len(ended.stderr.splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bad.toml"]


def test_check_plugin_shows_each_check_of_each_component_and_fails_with_4(
    site: Path, tmp_path: Path
) -> None:
    ended = crosslayer("check-plugin", "example-good", site=site, cwd=tmp_path)
    assert ended.returncode == 4  # the examples are no real transforms
    assert "ok      example-scale:half: listing_imports_nothing_heavy\n" in ended.stdout
    assert "ok      example-plain: listing_imports_nothing_heavy\n" in ended.stdout
    assert "FAILED  example-plain: " in ended.stdout
    assert ended.stdout.splitlines()[-1].endswith("checks passed")


def test_check_plugin_of_a_plugin_that_did_not_load_says_why_and_exits_3(site: Path) -> None:
    install(site, "example-exits")
    ended = crosslayer("check-plugin", "example-exits", site=site)
    assert ended.returncode == 3
    assert "failed at import: SystemExit: this plugin needs a licence" in ended.stderr
