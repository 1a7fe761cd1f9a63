"""The example pipelines run, all packages installed, and write their reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINES = sorted((Path(__file__).resolve().parents[2] / "pipelines").glob("*.toml"))


def crosslayer(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("crosslayer")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_there_are_examples() -> None:
    assert len(PIPELINES) >= 2


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda path: path.stem)
def test_an_example_runs_and_reports_where_its_numbers_come_from(
    pipeline: Path, tmp_path: Path
) -> None:
    # One thread each: two of these tests run at a time, and threads that wait for cores spin.
    done = crosslayer("run", str(pipeline), "--threads", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (report,) = tmp_path.glob("runs/*/report.json")
    assert report.with_suffix(".html").stat().st_size > 0
    text = report.read_text(encoding="utf-8")
    assert json.loads(text)
    assert "provenance" in text


def test_a_compressed_cache_lets_the_simulator_decode_more_calls_at_once(tmp_path: Path) -> None:
    source = PIPELINES[0].with_name("thinkv-serving.toml").read_text(encoding="utf-8")
    shorter = source.replace("output_tokens = 4096", "output_tokens = 2048")
    assert shorter != source
    (tmp_path / "both.toml").write_text(shorter, encoding="utf-8")
    values = ("--set", "policy.member=full,thinkv", "--jobs", "1")
    done = crosslayer("sweep", "both.toml", *values, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    decoding, rate = {}, {}
    for path in tmp_path.glob("runs/*/points/*/report.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        tables = {table["name"]: table for table in report["tables"]}
        columns = [column["name"] for column in tables["clients"]["columns"]]
        (client,) = (row for row in tables["clients"]["rows"] if row[1])  # the one that served
        name = client[0]
        decoding[name] = client[columns.index("mean decoding calls")]
        metrics = {metric["name"]: metric["value"] for metric in report["metrics"]}
        rate[name] = metrics["output_token_throughput"]
        assert metrics["failed_requests"] == 0
    assert decoding["thinkv"] > 1.15 * decoding["full"]
    assert rate["thinkv"] > 1.3 * rate["full"]
