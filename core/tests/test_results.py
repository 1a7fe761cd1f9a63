"""Results where people look at them: notebooks, data frames, drawn figures, runs read back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from run_directories import metric, table, write_run
from sample_report import MARKUP, quickstart_report
from toy_runs import FOLDER, go, pipeline
from toy_runs import own_cache as own_cache  # a fixture

import crosslayer as cl
from crosslayer.errors import DependencyError, InputError


@pytest.fixture
def run(tmp_path: Path, own_cache: None) -> cl.Run:
    return go(pipeline(tmp_path), tmp_path)


def test_a_run_read_back_is_the_run(run: cl.Run) -> None:
    found = cl.load(run.directory)
    assert {**found.metrics} == {**run.metrics}  # the wall-clock ones too, which report.json lacks
    assert "prune_s" in found.metrics
    assert found.report.tables == run.report.tables
    assert (found.directory, found.info, found.lock) == (run.directory, run.info, run.lock)
    assert [step.name for step in found.steps] == [step.name for step in run.steps]
    assert found.pipeline.transforms[0].params["sparsity"] == 0.5
    assert found.file(run.report.files[0].name).is_file()


def test_a_run_is_found_by_its_name_or_its_pipelines(run: cl.Run) -> None:
    for name in (FOLDER, "Toy <b>run</b>"):
        assert cl.load(name, runs_dir=run.directory.parent).directory == run.directory


def test_to_frame_has_a_row_a_metric(run: cl.Run) -> None:
    pandas = pytest.importorskip("pandas")
    frame = run.to_frame()
    assert list(frame.index) == list(run.metrics)
    assert frame.loc["weight_bytes", "value"] == run.metrics.value("weight_bytes")
    assert frame.loc["weight_bytes", "provenance"] == "modelled"
    assert isinstance(frame, pandas.DataFrame)


def test_a_table_becomes_a_frame_with_its_units() -> None:
    pytest.importorskip("pandas")
    blocks = quickstart_report().table("blocks")
    frame = blocks.to_frame()
    assert frame.shape == (30, len(blocks.columns))
    assert frame["density"].dtype == float
    assert frame.attrs["units"]["packed size"] == "bytes"
    assert frame.attrs["provenance"]["packed size"] == "modelled"


def test_without_pandas_a_sentence_names_the_extra(
    run: cl.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DependencyError, match=r"needs pandas, .* extra 'data'"):
        run.to_frame()
    with pytest.raises(DependencyError):
        quickstart_report().table("ops").to_frame()


def test_a_figure_is_a_matplotlib_figure(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    sample = quickstart_report()
    write_run(tmp_path / "r", sample.metrics, figures=sample.figures)
    drawn = cl.load(tmp_path / "r").figure("blocks")
    assert isinstance(drawn, Figure)
    assert len(drawn.axes) == 3
    with pytest.raises(KeyError, match="blocks, batch"):
        sample.figure("block")


def test_html_is_short_escaped_and_self_contained(run: cl.Run) -> None:
    hostile = metric(MARKUP, 1.0, MARKUP, source=MARKUP)
    cells = table(MARKUP, (MARKUP,), [(MARKUP,)] * 500)
    report = quickstart_report(title=MARKUP).replace(metrics=(hostile,), tables=(cells,))
    comparison = write_two(run.directory.parent, MARKUP)
    shown = (run, run.metrics, report, hostile, cells, report.figures[0], comparison)
    for value in shown:
        text = value._repr_html_()
        assert "<script" not in text
        assert "src=" not in text and "http:" not in text.replace("http://www.w3.org", "")
    assert "480 more rows" in cells._repr_html_()
    assert "modelled" in hostile._repr_html_()


def write_two(folder: Path, source: str) -> cl.Comparison:
    runs = [write_run(folder / name, [metric("x", 1.0, source=source + name)]) for name in "pq"]
    return cl.compare(*runs)


def test_rich_prints_each_of_them(run: cl.Run) -> None:
    report = quickstart_report()
    comparison = write_two(run.directory.parent, "s")
    for value, expected in (
        (run, "weight_bytes"),
        (run.metrics, "weight_bytes"),
        (report, "next_token_agreement"),
        (report.metric("weight_bytes"), "184.3 MB"),
        (report.table("ops"), "model.layers.*.q_proj"),
        (comparison, "unchanged; another source"),
    ):
        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(value)
        assert expected in console.export_text()


def test_reprs_are_one_line_that_says_what_it_is(run: cl.Run, tmp_path: Path) -> None:
    report = quickstart_report()
    agreement = repr(report.metric("next_token_agreement"))
    assert agreement == (
        "<Metric next_token_agreement = 0.7133 share (0.6931 to 0.7325 at 95 %), measured>"
    )
    assert repr(report.metric("pruning_time")).endswith("measured, wall clock>")
    assert repr(report.table("ops")).startswith("<Table ops: 8 rows of op, shape")
    assert repr(report).endswith("10 metrics, 2 tables, 2 figures>")
    assert "Toy <b>run</b>" in repr(run) and str(run.directory) in repr(run)
    for value in (run, run.metrics, report, report.figures[0], write_two(tmp_path, "s")):
        assert "\n" not in repr(value)
        assert str(value) == repr(value)


def broken(folder: Path, file: str, text: str) -> Path:
    write_run(folder, [metric("x", 1.0)])
    (folder / file).write_text(text)
    return folder


def test_broken_json_is_located(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a/report\.json:2:3: broken JSON"):
        cl.load(broken(tmp_path / "a", "report.json", "{\n  nonsense: 1}"))
    with pytest.raises(InputError, match=r"b/run\.json: is no JSON object"):
        cl.load(broken(tmp_path / "b", "run.json", "[]"))
    with pytest.raises(InputError, match=r"c/report\.json: is nested too deeply"):
        cl.load(broken(tmp_path / "c", "report.json", "[" * 90_000))
    with pytest.raises(InputError, match=r"d/report\.json: holds a number that no run wrote"):
        cl.load(broken(tmp_path / "d", "report.json", "9" * 5000))
    for field in ("wall_clock", "steps", "wall_clock_tables"):
        folder = write_run(tmp_path / field, [metric("x", 1.0)], info={field: 5})
        with pytest.raises(InputError, match=rf"run\.json: {field}"):
            cl.load(folder)
    step = {"step": "model", "seconds": "abc", "cached": False}
    folder = write_run(tmp_path / "f", [metric("x", 1.0)], info={"steps": [step]})
    with pytest.raises(InputError, match=r"run\.json: steps: an entry is damaged"):
        cl.load(folder)


def test_a_report_of_another_schema_says_where_and_who_wrote_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [metric("x", 1.0)])
    data = json.loads((folder / "report.json").read_text())
    data["metrics"][0]["colour"] = data["metrics"][0].pop("unit")
    (folder / "report.json").write_text(json.dumps(data))
    message = r"report\.json: metrics\[0\]\.unit: Field required \(and 1 more\); .* crosslayer 0\.1"
    with pytest.raises(InputError, match=message):
        cl.load(folder)
    other = write_run(tmp_path / "b", [], lock={"format": 2})
    with pytest.raises(InputError, match=r"b/pipeline\.lock\.toml: lock\.format is 2"):
        cl.load(other)
    with pytest.raises(InputError, match=r"pipeline\.lock\.toml:1:\d+: broken TOML"):
        cl.load(broken(tmp_path / "c", "pipeline.lock.toml", "model ="))


def test_what_is_no_finished_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: is no run directory, there is no report\.json"):
        cl.load(tmp_path / "empty")
    failed = tmp_path / "x.failed"
    failed.mkdir()
    (failed / "error.txt").write_text("Traceback\n  ...\nValueError: of the toy\n")
    for place in (failed, tmp_path / "x"):
        with pytest.raises(InputError, match=r"failed \(ValueError: of the toy\)"):
            cl.load(place)
    (tmp_path / "file.toml").write_text("")
    with pytest.raises(InputError, match="is a file; name the run's directory"):
        cl.load(tmp_path / "file.toml")
    write_run(tmp_path / "dense", [])
    with pytest.raises(InputError, match="did you mean 'dense'"):
        cl.load("dense2", runs_dir=tmp_path)
