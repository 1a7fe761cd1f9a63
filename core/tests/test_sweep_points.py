"""What a sweep is asked for: values, keys, points, and what is said about bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_parts import PIPELINE, metric, registry

import crosslayer as cl
from crosslayer.errors import InputError
from crosslayer.pipeline import PipelineErrors
from crosslayer.sweeps.keys import locate, placed
from crosslayer.sweeps.pareto import Objective, choose, front, read_pareto
from crosslayer.sweeps.points import points_of
from crosslayer.sweeps.record import PointResult, Record
from crosslayer.sweeps.settings import key_name, read_key, read_setting

DOCUMENT: dict[str, Any] = {
    "model": [{"use": "a:small", "name": "first"}, {"use": "b-1.5"}],
    "transform": [{"use": "flow", "on": "first"}, {"use": "flow"}, {"use": "thinkv:fast"}],
    "accelerator": {"use": "machine", "name": "desk", "fallback": ["x", "y"]},
    "evaluate": {"perplexity": {"tokens": 4}},
}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.3,0.5", (0.3, 0.5)),
        ("flexcim,roofline:h100-80g", ("flexcim", "roofline:h100-80g")),
        ('"a,b",2:4,true', ("a,b", "2:4", True)),
        ("[1,2],[3]", ([1, 2], [3])),
        ("{a = 1, b = 'x,y'}", ({"a": 1, "b": "x,y"},)),
        ('""', ("",)),
        ("2024-01-01, -3 ,1e3", ("2024-01-01", -3, 1000.0)),
        ("1\nmore = 2", ("1\nmore = 2",)),
    ],
)
def test_values_are_split_outside_quotes_and_brackets_and_read_as_toml(
    text: str, values: tuple[Any, ...]
) -> None:
    assert read_setting(f"workload.x={text}") == (("workload", "x"), values)


@pytest.mark.parametrize("text", ["workload.x", "workload.x=1,,2", "=1", "a..b=1", "a.=1"])
def test_a_setting_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        read_setting(text)


@given(st.lists(st.text("ab1.- _", min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_key_comes_back_from_its_name(parts: list[str]) -> None:
    assert read_key(key_name(tuple(parts))) == tuple(parts)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("model.first.layers", ("model", 0, "layers")),
        ("model.a.layers", ("model", 0, "layers")),
        ('model."b-1.5".layers', ("model", 1, "layers")),
        ("transform.1.sparsity", ("transform", 1, "sparsity")),
        ("transform.thinkv.budget", ("transform", 2, "budget")),
        ("accelerator.use", ("accelerator", "use")),
        ("accelerator.desk.use", ("accelerator", "use")),
        ("accelerator.machine.rate", ("accelerator", "rate")),
        ("workload.batch_size", ("workload", "batch_size")),
        ("evaluate.perplexity.tokens", ("evaluate", "perplexity", "tokens")),
    ],
)
def test_a_key_finds_its_table_by_name_use_or_place(key: str, path: tuple[Any, ...]) -> None:
    assert locate(DOCUMENT, read_key(key)) == path


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("transfrom.flow.x", "did you mean 'transform'"),
        ("transform.flow.x", "transform.0, transform.1"),
        ("transform.thinkw.x", "did you mean 'thinkv"),
        ("transform.7.x", "there are 3"),
        ("transform.2", "add one of its keys"),
        ("simulate.hermes.x", "there is no [[simulate]]"),
        ("evaluate.perplexty.tokens", "did you mean 'perplexity'"),
    ],
)
def test_a_key_without_a_place_is_told_with_the_way_out(key: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        locate(DOCUMENT, read_key(key))
    assert said in str(error.value)
    assert key in str(error.value)


def test_values_are_placed_in_a_copy_also_in_tables_and_lists_that_lie_deeper() -> None:
    paths = {("accelerator", "fallback", "1"): "z", ("workload", "batch_size"): 8}
    changed = placed(DOCUMENT, paths)
    assert changed["accelerator"]["fallback"] == ["x", "z"]
    assert changed["workload"] == {"batch_size": 8}
    assert DOCUMENT["accelerator"]["fallback"] == ["x", "y"]
    with pytest.raises(InputError, match="no element '2'"):
        placed(DOCUMENT, {("accelerator", "fallback", "2"): "z"})


def test_grid_zip_and_tables_give_their_points_in_order(tmp_path: Path) -> None:
    values = {"workload.a": [1, 2], "workload.b": ["x", "y"]}
    pairs = [tuple(point.parameters.values()) for point in points_of(values)]
    assert pairs == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    side = points_of(values, side_by_side=True)
    assert [tuple(point.parameters.values()) for point in side] == [(1, "x"), (2, "y")]
    csv, toml = tmp_path / "points.csv", tmp_path / "points.toml"
    csv.write_text('workload.a,workload.b\n1,x\n2,"y"\n3,\n')
    text = '[[point]]\nworkload.a = 1\nworkload.b = "x"\n[[point]]\n"workload.a" = 2\n'
    toml.write_text(text + 'workload = { b = "y" }\n[[point]]\nworkload.a = 3\n')
    tables = [points_of({}, table=path) for path in (csv, toml)]
    assert tables[0] == tables[1]
    assert tables[0][:2] == side  # the same points have the same names
    assert tables[0][2].parameters == {"workload.a": 3}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grid": {"w.a": [1, 2], "w.b": [1]}, "side_by_side": True}, "w.a has 2, w.b has 1"),
        ({"grid": {"w.a": [1, 1]}}, "the same: w.a=1"),
        ({"grid": {}}, "something to vary"),
        ({"grid": {"w.a": []}}, "no value"),
        ({"grid": {"w.a": "12"}}, "a list"),
        ({"grid": {"w.a": [float("nan")]}}, "no pipeline can have"),
        ({"grid": {"w.a": [1]}, "table": [{"w.a": 1}]}, "not both"),
    ],
)
def test_points_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        points_of(options.pop("grid"), **options)
    assert said in str(error.value)


def test_a_broken_table_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("workload.a,workload.b\n1,2\n3\n")
    with pytest.raises(InputError, match=r"points\.csv:3: has 1 cells for 2 keys"):
        points_of({}, table=path)
    path.write_text("workload.a\n" + "x" * 200_000 + "\n")
    with pytest.raises(InputError, match=r"points\.csv:2: broken CSV"):
        points_of({}, table=path)


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text('\ufeffworkload.a,workload.b\r\n1,"two\nlines"\r\n', encoding="utf-8")
    (point,) = points_of({}, table=path)
    assert point.parameters == {"workload.a": 1, "workload.b": "two\nlines"}


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000])
def test_a_value_that_no_pipeline_has_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="no pipeline has a value like that"):
        read_setting(f"workload.a={value}")


def test_a_key_below_what_is_no_table_is_refused() -> None:
    with pytest.raises(InputError, match="workload = 3 stands where a table should"):
        locate({"workload": 3}, ("workload", "requests"))


def problems_of(tmp_path: Path, grid: dict[str, Any], text: str = PIPELINE) -> list[str]:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(PipelineErrors) as error:
        cl.sweep(path, grid, registry=registry(), runs_dir=tmp_path / "runs")
    assert error.value.exit_code == 2
    assert not (tmp_path / "runs").exists()
    return [str(problem).removeprefix(f"{path}:") for problem in error.value.problems]


def test_a_bad_point_is_named_with_its_value_before_anything_runs(tmp_path: Path) -> None:
    grid = {"transform.mark.value": [0.5, 1.5], "accelerator.use": ["machine", "machin"]}
    found = problems_of(tmp_path, grid)
    assert len(found) == 2
    assert "transform.mark.value=1.5" in found[0] or "transform.mark.value=1.5" in found[1]
    assert any("accelerator.use=machin" in one and "did you mean 'machine'" in one for one in found)
    assert all("and 1 other point" in one for one in found)


def test_a_secret_in_the_wrong_place_is_not_shown(tmp_path: Path) -> None:
    table = '[[backend]]\nname = "a"\nuse = "openai"\nbase_url = "http://x/v1"\nmodel = "m"\n'
    for key in ("backend.a.api_key", "backend.a.api_key_env"):
        found = " ".join(problems_of(tmp_path, {key: ["sk-hunter2", "sk-other"]}, table + PIPELINE))
        assert f"point 1 ({key})" in found
        assert "sk-" not in found


def test_a_wrong_key_and_a_wrong_file_are_told_once(tmp_path: Path) -> None:
    (one,) = problems_of(tmp_path, {"transform.mark.valu": [0.1, 0.2]})
    assert "did you mean 'value'" in one
    (one,) = problems_of(tmp_path, {"transform.mark.value": [0.1, 0.2]}, PIPELINE + "tokns = 1\n")
    assert one.startswith("15:")
    assert "point" not in one
    (one,) = problems_of(tmp_path, {"transform.marc.value": [0.1, 0.2]})
    assert "did you mean 'mark'" in one


def result(id: str, **values: float) -> PointResult:
    better = {"x": "lower", "y": "higher"}
    made = tuple(metric(name, value, better.get(name)) for name, value in values.items())
    return PointResult(id, "key", {}, "ok", made)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=14))
def test_the_front_is_every_point_that_no_other_one_beats(pairs: list[tuple[int, int]]) -> None:
    points = [result(str(i), x=x, y=y) for i, (x, y) in enumerate(pairs)]
    found = front(points, Objective("x", "lower"), Objective("y", "higher"))
    expected = {
        str(i)
        for i, (x, y) in enumerate(pairs)
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in pairs)
    }
    assert set(found) == expected
    assert len(found) == len(expected)


def test_the_objectives_are_the_first_that_vary_unless_others_are_asked_for() -> None:
    points = [result("a", z=1, x=1, y=3, x_original=1), result("b", z=2, x=2, y=4, x_original=2)]
    objectives, said = choose(points, None)
    assert objectives == (Objective("x", "lower"), Objective("y", "higher"))
    assert "x (lower is better) and y (higher is better): the first two" in said
    objectives, said = choose(points, read_pareto("z, y"))
    assert objectives and objectives[0] == Objective("z", "lower")
    assert "z does not say; lower is taken" in said
    objectives, said = choose(points, ("x", "yy"))
    assert objectives and objectives[1].name == "y"
    assert "No point has a metric 'yy'" in said
    for wrong in ("x", "x,x", "x,y,z"):
        with pytest.raises(InputError):
            read_pareto(wrong)


def test_a_line_that_was_cut_off_is_taken_away_and_the_others_stay(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.append(result("a", x=1))
    whole = record.path.read_bytes()
    record.path.write_bytes(whole + whole[: len(whole) // 2])
    assert record.read() == [result("a", x=1)]
    record.append(result("b", x=2))
    assert [found.id for found in record.read()] == ["a", "b"]
    assert record.path.read_bytes().startswith(whole)
