"""Runs side by side: differences, intervals and what changed.

Intervals are checked against arithmetic by hand: 4.3027 is the 0.975 quantile of Student's t with
2 degrees of freedom.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from example_plugins import crosslayer
from run_directories import BOTH, INPUTS, KV, T2, metric, perplexity_run, table, write_run
from toy_runs import go, pipeline
from toy_runs import own_cache as own_cache  # a fixture

import crosslayer as cl
from crosslayer.comparison import Comparison, Entry
from crosslayer.contracts.report import WrittenFile
from crosslayer.errors import InputError
from crosslayer.intervals import paired_shares
from crosslayer.progress import PlainProgress


def second(comparison: Comparison, name: str) -> Entry:
    return comparison.metric(name).entries[1]


def test_windows_in_common_give_paired_intervals(tmp_path: Path) -> None:
    a = perplexity_run(tmp_path / "a", (1.0, 2.0, 3.0))
    b = perplexity_run(tmp_path / "b", (1.1, 2.2, 3.3))
    found = second(cl.compare(a, b), "perplexity")
    # Differences of NLL are 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1.
    half = T2 * 0.1 / math.sqrt(3)
    assert found.ratio == pytest.approx(math.exp(0.2))
    ratio = found.ratio_interval
    assert ratio is not None
    assert (ratio.how, ratio.samples, ratio.confidence) == ("paired", 3, 0.95)
    expected = (math.exp(0.2 - half), math.exp(0.2 + half))
    assert (ratio.low, ratio.high) == pytest.approx(expected, rel=1e-4)
    # To first order: e^2.2 times (-1.1, 0, 1.1), less e^2 times (-1, 0, 1).
    value, spread = math.exp(2.2) - math.exp(2), 1.1 * math.exp(2.2) - math.exp(2)
    half = T2 * spread / math.sqrt(3)
    assert found.difference == pytest.approx(value)
    ends = found.difference_interval
    assert ends is not None
    assert (ends.low, ends.high) == pytest.approx((value - half, value + half), rel=1e-4)
    assert found.verdict == "no difference beyond the interval"


def test_a_small_difference_that_all_windows_show_is_worse_though_intervals_overlap(
    tmp_path: Path,
) -> None:
    a = perplexity_run(tmp_path / "a", (1.0, 2.0, 3.0))
    b = perplexity_run(tmp_path / "b", (1.010, 2.011, 3.012))
    found = second(cl.compare(a, b), "perplexity")
    assert found.verdict == "worse"
    half = T2 * 0.001 / math.sqrt(3)
    assert found.ratio_interval is not None
    ends = (math.log(found.ratio_interval.low), math.log(found.ratio_interval.high))
    assert ends == pytest.approx((0.011 - half, 0.011 + half), rel=1e-3)


@pytest.mark.parametrize(
    ("other", "ids"),
    [((1.1, 2.2, 3.3), ("x", "y", "else")), ((1.1, 2.2), ("x", "y"))],
    ids=["another text", "fewer windows"],
)
def test_other_windows_are_never_paired(
    tmp_path: Path, other: Sequence[float], ids: Sequence[str]
) -> None:
    a = perplexity_run(tmp_path / "a", (1.0, 2.0, 3.0))
    b = perplexity_run(tmp_path / "b", other, ids)
    ends = second(cl.compare(a, b), "perplexity").difference_interval
    assert ends is not None
    assert (ends.how, ends.samples) == ("unpaired", None)


def test_a_table_that_is_not_the_metrics_is_not_used(tmp_path: Path) -> None:
    kept = table("perplexity_windows", ("window", "nll"), [("x", 1.0), ("y", 2.0)])
    runs = [
        write_run(tmp_path / name, [metric("perplexity", value, "1")], tables=[kept])
        for name, value in (("a", 9.0), ("b", 10.0))
    ]
    assert second(cl.compare(*runs), "perplexity").difference_interval is None


def test_intervals_without_samples_are_combined_in_quadrature(tmp_path: Path) -> None:
    a = metric("x", 10.0, interval=(9.0, 12.0), confidence=0.95)
    b = metric("x", 15.0, interval=(13.0, 18.0), confidence=0.95)
    runs = [write_run(tmp_path / "a", [a]), write_run(tmp_path / "b", [b])]
    ends = second(cl.compare(*runs), "x").difference_interval
    assert ends is not None
    assert ends.how == "unpaired"
    # 15 may be 2 less and 10 may be 2 more; 15 may be 3 more and 10 may be 1 less.
    assert (ends.low, ends.high) == pytest.approx((5 - math.sqrt(8), 5 + math.sqrt(10)))


def test_one_interval_or_two_confidences_give_none(tmp_path: Path) -> None:
    runs = [
        write_run(
            tmp_path / f"r{i}",
            [metric("x", 10.0 + i, interval=ends, confidence=ends and confidence)],
        )
        for i, (ends, confidence) in enumerate([((9.0, 12.0), 0.95), (None, 0), ((9.0, 13.0), 0.9)])
    ]
    entries = cl.compare(*runs).metric("x").entries
    assert [entry.difference_interval for entry in entries] == [None, None, None]


def test_accuracies_are_paired_by_question_from_the_whole_file(tmp_path: Path) -> None:
    """The report shows one answer of four; the CSV file beside it has all."""
    folders = []
    for name, rights in (("a", (1, 0, 1, 0)), ("b", (1, 1, 1, 0))):
        value = sum(rights) / 4
        ends = (0.0, 1.0)
        one = metric("policy_accuracy", value, "fraction", better="higher", interval=ends,
                     confidence=0.95, provenance="recorded")  # fmt: skip
        columns = ("question", "answer", "reference", "right")
        file = WrittenFile(name="answers", path="files/answers.csv", sha256="0" * 64)
        cut = table("answers", columns, [("q0", "4", "4", True)])
        folder = write_run(tmp_path / name, [one], tables=[cut], files=(file,))
        (folder / "files").mkdir()
        lines = [f"q{i},4,4,{bool(right)}" for i, right in enumerate(rights)]
        (folder / "files" / "answers.csv").write_text("\n".join([",".join(columns), *lines]))
        folders.append(folder)
    found = second(cl.compare(*folders), "policy_accuracy")
    assert found.difference_interval is not None
    ends = (found.difference_interval.low, found.difference_interval.high)
    assert ends == pytest.approx(paired_shares((1, 1, 1, 0), (1, 0, 1, 0)))
    assert found.difference_interval.how == "paired"


def test_an_interval_of_paired_shares_is_newcombes_and_does_not_collapse() -> None:
    first = [1.0] * 32 + [0.0] * 18
    second = [1.0] * 20 + [0.0] * 12 + [1.0] * 2 + [0.0] * 16
    # By hand: shares 0.64 and 0.44 of 50, Wilson (0.5014, 0.7586) and (0.3116, 0.5769);
    # 20 x 16 - 12 x 2 - 25 over the root of 32 x 18 x 22 x 28: phi = 0.4550
    assert paired_shares(first, second) == pytest.approx((0.0562, 0.3292), abs=5e-5)
    low, high = paired_shares(second, first)
    assert (-high, -low) == pytest.approx((0.0562, 0.3292), abs=5e-5)
    for one, other in (([1.0] * 3, [0.0] * 3), ([1.0] * 20, [1.0] * 20)):
        low, high = paired_shares(one, other)
        assert low < one[0] - other[0] <= high + 1e-12
        assert high - low > 0.1


def test_measured_against_modelled_is_no_comparison(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [metric("x", 1.0)])
    b = write_run(tmp_path / "b", [metric("x", 2.0, provenance="measured")])
    c = write_run(tmp_path / "c", [metric("x", 2.0, "J")])
    _, measured, joules = cl.compare(a, b, c).metric("x").entries
    assert measured.remark == "not a comparison: modelled against measured"
    assert joules.remark == "not a comparison: s against J"
    for entry in (measured, joules):
        assert entry.metric is not None
        assert (entry.difference, entry.ratio, entry.verdict) == (None, None, "")


def test_a_metric_that_one_run_lacks_is_shown_as_missing(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [metric("x", 1.0)])
    b = write_run(tmp_path / "b", [metric("y", 2.0)])
    found = cl.compare(a, b)
    assert [row.name for row in found.metrics] == ["x", "y"]
    assert second(found, "x").remark == "missing"
    assert found.metric("y").entries[0].remark == "missing"
    assert second(found, "y").remark == "missing in the baseline"


def test_another_source_and_no_interval_are_said(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [metric("x", 2.0, provenance="measured")])
    b = write_run(tmp_path / "b", [metric("x", 1.0, provenance="measured", source="else")])
    found = second(cl.compare(a, b), "x")
    assert (found.verdict, found.remark) == ("better (no interval)", "another source")


def test_changed_inputs_are_named_by_component_not_by_place(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"r{i}", [metric("x", 1.0)], inputs=inputs)
        for i, inputs in enumerate((KV, BOTH))
    ]
    found = {row.key: row.values for row in cl.compare(*runs).inputs}
    assert found == {"transform.flow.use": (None, "flow"), "transform.flow.sparsity": (None, 0.5)}


def test_the_order_of_transforms_is_an_input(tmp_path: Path) -> None:
    turned = {"transform": BOTH["transform"][::-1]}
    runs = [
        write_run(tmp_path / f"r{i}", [], inputs=inputs) for i, inputs in enumerate((BOTH, turned))
    ]
    (row,) = cl.compare(*runs).inputs
    assert (row.key, row.values) == ("order of transforms", ("flow, thinkv", "thinkv, flow"))


def test_the_same_file_named_from_another_folder_is_the_same_input(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [], inputs={"workload": {"trace": "../t.csv"}})
    b = write_run(tmp_path / "deep/er/b", [], inputs={"workload": {"trace": "../../../t.csv"}})
    c = write_run(tmp_path / "deep/c", [], inputs={"workload": {"trace": "../t.csv"}})
    assert cl.compare(a, b).inputs == ()
    assert [row.key for row in cl.compare(a, c).inputs] == ["workload.trace"]


def test_a_file_that_changed_at_its_place_is_another_input_and_the_lock_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    head = (
        '[pipeline]\nname = "{}"\n[model]\nuse = "gpt2"\n[accelerator]\nuse = "roofline:a100-80g"\n'
    )
    rest = (
        '[policy]\nuse = "single"\n[[simulate]]\nuse = "isolated"\n[workload]\ntrace = "t.jsonl"\n'
    )
    folders = []
    for name, prompt in (("a", 5), ("b", 5), ("c", 5000)):
        row = {"arrival_ns": 0, "prompt_tokens": prompt, "output_tokens": 2}
        lines = [json.dumps({"crosslayer_trace": 1}), json.dumps(row)]
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
        (tmp_path / f"{name}.toml").write_text(head.format(name) + rest)
        folders.append(cl.run(f"{name}.toml").directory)
    a, b, c = folders
    assert cl.compare(a, b).inputs == ()
    (row_,) = cl.compare(a, c).inputs
    assert row_.key == "workload.trace"
    said = io.StringIO()
    cl.run(a / "pipeline.lock.toml", runs_dir="again", progress=PlainProgress(said))
    assert "lock file: ../../t.jsonl does not hold what it held then\n" in said.getvalue()


def test_a_ratio_beyond_the_floats_is_none(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / name, [metric("x", value)])
        for name, value in (("a", 1e-320), ("b", 1e300))
    ]
    assert second(cl.compare(*folders), "x").ratio is None


def test_versions_threads_and_machines_that_differ_are_listed(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [])
    info = {"threads": 4, "machine": {"cpu": "B"}, "versions": {"crosslayer": "0.2.0"}}
    b = write_run(tmp_path / "b", [], info=info)
    found = {row.key: row.values for row in cl.compare(a, b).surroundings}
    assert found == {
        "versions.crosslayer": ("0.1.0", "0.2.0"),
        "threads": (2, 4),
        "machine.cpu": ("A", "B"),
    }


def test_the_baseline_is_the_first_or_the_one_that_is_named(tmp_path: Path) -> None:
    a, b = (write_run(tmp_path / n, [metric("x", v)]) for n, v in (("a", 1.0), ("b", 4.0)))
    assert second(cl.compare(a, b), "x").ratio == 4.0
    found = cl.compare(a, b, baseline=b)
    assert (found.runs, second(found, "x").ratio) == (("b", "a"), 0.25)


def test_a_run_that_was_replaced_on_disk_is_compared_as_it_was(
    tmp_path: Path, own_cache: None
) -> None:
    text = '[model]\nuse = "toy"\n[[transform]]\nuse = "prune"\nsparsity = {}\n'
    first = go(pipeline(tmp_path, text.format(0.25)), tmp_path)
    second_run = go(pipeline(tmp_path, text.format(0.5)), tmp_path)
    assert first.directory == second_run.directory
    found = cl.compare(first, second_run)
    (row,) = found.inputs
    assert (row.key, row.values) == ("transform.prune.sparsity", (0.25, 0.5))
    assert len(set(found.runs)) == 2


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [])
    with pytest.raises(InputError, match="needs two runs or more"):
        cl.compare(a)
    with pytest.raises(InputError, match="this run is given twice"):
        cl.compare(a, a)


def test_the_page_escapes_and_shows_everything(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    runs = [
        write_run(tmp_path / f"r{i}", [metric(f"x{evil}", 10.0 + i, source=f"{evil}{i}")],
                  inputs={**inputs, "workload": {"trace": evil if i else "t"}})
        for i, inputs in enumerate(INPUTS)
    ]  # fmt: skip
    found = cl.compare(*runs)
    for text in (found.to_html(), found._repr_html_()):
        assert "<script" not in text
        assert "&lt;script&gt;" in text
    page = found.to_html().replace("http-equiv", "").replace('"http://www.w3.org/2000/svg"', "")
    assert "http" not in page
    assert "transform.flow.sparsity" in found.to_html()


def test_the_figure_has_a_row_a_metric_at_its_relative_difference_with_its_interval(
    tmp_path: Path,
) -> None:
    def run(name: str, factor: float) -> Path:
        ends = (9.0 * factor, 12.0 * factor)
        recorded = metric("x", 10.0 * factor, provenance="recorded", interval=ends, confidence=0.95)
        others = [metric("still", 5.0), metric("none", 0.0), metric("faster", 4.0 / factor)]
        return write_run(tmp_path / name, [recorded, *others])

    found = cl.compare(run("a", 1.0), run("b", 1.25))
    drawing = found.figure()
    (axis,) = drawing.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "faster"]
    marks = {line.get_marker(): line for line in axis.lines}
    assert list(marks["s"].get_xdata()) == [pytest.approx(0.25)]  # recorded
    assert list(marks["^"].get_xdata()) == [pytest.approx(-0.2)]  # modelled
    interval = found.metric("x").entries[1].ratio_interval
    assert interval is not None
    expected = [interval.low - 1, interval.high - 1]
    assert list(marks["|"].get_xdata()) == pytest.approx(expected)
    assert "1 unchanged, 1 that cannot be compared" in drawing.get_supxlabel()
    names = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert names == ["b", "recorded", "modelled"]
    assert found.to_html().count("<svg") == 1
    assert found.to_html() == cl.compare(tmp_path / "a", tmp_path / "b").to_html()
    assert (
        cl.compare(tmp_path / "a", write_run(tmp_path / "c", [metric("y", 1.0)])).figure() is None
    )


def test_the_command_prints_tables_json_and_a_page(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, value, inputs in zip("abcd", (10.0, 6.0, 5.0, 4.5), INPUTS, strict=True):
        write_run(runs / name, [metric("latency_s", value)], inputs=inputs)
    ended = crosslayer("compare", *"abcd", "--html", "page.html", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "latency_s: gains overlap: 1.5 s of 7 s lost" in ended.stdout
    assert "transform.flow.sparsity" in ended.stdout
    assert ended.stdout.endswith("page: page.html\n")
    assert "gains overlap" in (tmp_path / "page.html").read_text()
    ended = crosslayer("compare", "a", "runs/b", "--json", "--baseline", "b", cwd=tmp_path)
    data = json.loads(ended.stdout)
    assert data["runs"] == ["b", "a"]
    assert data["metrics"][0]["entries"][1]["ratio"] == pytest.approx(10 / 6)
    ended = crosslayer("compare", "a", "bb", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "bb: there is no such run directory; " in ended.stderr
