"""A report as text, as a drawing and as a page: escaped, labelled, the same every time."""

from __future__ import annotations

import hashlib
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console
from sample_report import (
    MARKUP,
    PIPELINE,
    RUN_INFO,
    bars,
    block_figure,
    in_another_process,
    metrics,
    quickstart_report,
)

from crosslayer.contracts.report import (
    Column,
    Metric,
    Panel,
    Report,
    Series,
    Table,
    WrittenFile,
)
from crosslayer.render import figures, format_value, html
from crosslayer.render.tables import pairs_and_rest, table_view, value_and_interval
from crosslayer.render.terminal import print_report
from crosslayer.render.values import format_number, format_ratio, shorten


class Page(HTMLParser):
    """Every element with its attributes, every text, and the text of each table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows:
            self.rows[-1] = (self.rows[-1] + data).lstrip()


def metric(name: str = "m", value: float = 1.0, unit: str = "s", **more: object) -> Metric:
    fields: dict[str, object] = {"provenance": "modelled", "source": "a model"}
    return Metric.model_validate({"name": name, "value": value, "unit": unit} | fields | more)


def whole_page(report: Report | None = None) -> str:
    report = report or quickstart_report()
    return html.render(report, run_info=RUN_INFO, pipeline_text=PIPELINE, lock_text=PIPELINE)


# Values.


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (0.00123, "s", "1.23 ms"),
        (4.3712e-4, "s", "437.1 µs"),
        (2.5e-8, "seconds", "25 ns"),
        (1e-13, "s", "0.1 ps"),
        (141.273, "s", "141.3 s"),
        (86_400.0, "s", "86,400 s"),
        (999.96e-6, "s", "1 ms"),
        (0.0, "s", "0 s"),
        (-0.002, "s", "−2 ms"),
        (269_030_016, "bytes", "269 MB"),
        (1500, "B", "1.5 kB"),
        (999, "bytes", "999 B"),
        (8e10, "bytes", "80 GB"),
        (3.35e12, "bytes/s", "3.35 TB/s"),
        (2.0e-5, "s/token", "20 µs/token"),
        (0.25, "joules per token", "250 mJ/token"),
        (989.4e12, "FLOP/s", "989.4 TFLOP/s"),
        (4.5, "bits/element", "4.5 bits/element"),
        (0.7133, "share", "71.33 %"),
        (1.0, "share", "100 %"),
        (71.33, "%", "71.33 %"),
        (17.2043, "", "17.2"),
        (17.2043, "1", "17.2"),
        (134_515_008, "parameters", "134,515,008 parameters"),
        (12_345.67, "tokens/s", "12,346 tokens/s"),
        (1.2345e-7, "", "1.235×10⁻⁷"),
        (6.02e23, "", "6.02×10²³"),
        (-0.0, "", "0"),
    ],
)
def test_a_value_is_written_in_the_prefix_that_suits_its_size(
    value: float, unit: str, text: str
) -> None:
    assert format_value(value, unit) == text


def test_what_is_no_number_is_never_shown_as_nan() -> None:
    assert format_number(float("nan")) == "undefined"
    assert format_value(float("inf"), "s") == "undefined s"


@pytest.mark.parametrize(
    "ratio, text", [(1.0, "1.00×"), (0.68512, "0.685×"), (12.345, "12.3×"), (1e6, "1,000,000×")]
)
def test_a_ratio_has_three_digits(ratio: float, text: str) -> None:
    assert format_ratio(ratio) == text


def test_an_interval_has_the_prefix_and_the_decimals_of_its_value() -> None:
    timed = metric(value=0.0015, interval=(0.0009, 0.0021), confidence=0.9)
    assert value_and_interval(timed) == ("1.500 ms", "0.900 to 2.100 (90 %)")
    assert value_and_interval(metric(value=0.0015)) == ("1.5 ms", "")


def test_a_long_name_is_cut_in_the_middle_and_keeps_both_ends() -> None:
    assert shorten("model.layers.12.self_attn.q_proj", 20) == "model.layers.…q_proj"
    assert shorten("two\nlines", 20) == "two lines"


def test_a_column_has_one_prefix_and_its_decimal_points_line_up() -> None:
    columns = (
        Column(name="time", unit="s", provenance="modelled"),
        Column(name="size", unit="bytes"),
    )
    rows = ((0.0015, 1_000), (0.00025, None), (0.012, 2_500))
    view = table_view(Table(name="t", title="t", columns=columns, rows=rows))
    assert [column.unit for column in view.columns] == ["ms", "kB"]
    assert [row[0][0] for row in view.rows] == ["1.50", "0.25", "12.00"]
    assert [row[1][0] for row in view.rows] == ["1.000", "–", "2.500"]
    assert view.rows[0][0][1] == "0.0015 s"


def test_a_column_that_spans_many_sizes_loses_no_small_value() -> None:
    columns = (Column(name="time", unit="s"),)
    view = table_view(Table(name="t", title="t", columns=columns, rows=((1.5,), (3e-6,))))
    assert [row[0][0] for row in view.rows] == ["1.5", "3×10⁻⁶"]


# Before and after.


def test_a_metric_and_its_original_are_one_row_with_their_ratio() -> None:
    pairs, rest = pairs_and_rest(metrics())
    assert [(p.name, p.ratio, p.verdict) for p in pairs] == [
        ("perplexity", "1.83×", "worse"),
        ("weight_bytes", "0.685×", "better"),
        ("latency_per_token", "1.00×", "unchanged"),
    ]
    assert rest[0].name == "next_token_agreement"
    assert not any(m.name.endswith("_original") for m in rest)


def test_before_and_after_of_different_units_are_not_compared() -> None:
    pairs, rest = pairs_and_rest((metric("t", 1.0, "s"), metric("t_original", 1.0, "bytes")))
    assert not pairs
    assert len(rest) == 2


def test_overlapping_intervals_are_not_called_better() -> None:
    more = {"better": "lower", "confidence": 0.95}
    after = metric("t", 0.9, interval=(0.8, 1.0), **more)
    before = metric("t_original", 1.0, interval=(0.9, 1.1), **more)
    assert pairs_and_rest((after, before))[0][0].verdict == "intervals overlap"


def test_an_original_of_zero_has_no_ratio() -> None:
    assert pairs_and_rest((metric("t", 1.0), metric("t_original", 0.0)))[0][0].ratio == "–"


# The page.


def hostile_report() -> Report:
    column = Column(name=MARKUP, unit=MARKUP, provenance="recorded")
    number = {"unit": MARKUP, "source": MARKUP, "note": MARKUP, "provenance": "recorded"}
    panel = Panel(series=(Series(label=MARKUP, x=(MARKUP, "b"), y=(1, 2)),) * 2, y_label=MARKUP)
    return Report(
        title=MARKUP,
        metrics=(
            metric(MARKUP, **number),
            metric(MARKUP + "_original", **number),
            metric(**number),
        ),
        tables=(Table(name="t", title=MARKUP, note=MARKUP, columns=(column,), rows=((MARKUP,),)),),
        figures=(
            bars(("a",), title=MARKUP, x_label=MARKUP, note=MARKUP, source=MARKUP, panels=(panel,)),
        ),
        files=(WrittenFile(name=MARKUP, path=MARKUP, media_type=MARKUP, sha256=MARKUP),),
        notes=(MARKUP,),
    )


def test_markup_stays_text_wherever_it_comes_from() -> None:
    text = html.render(
        hostile_report(), run_info={MARKUP: MARKUP}, pipeline_text=MARKUP, lock_text=MARKUP
    )
    page = Page(text)
    assert "<script" not in text.lower()
    assert not [tag for tag, _ in page.elements if tag == "script"]
    assert not [
        name for _, attributes in page.elements for name in attributes if name.startswith("on")
    ]
    # Title, names, units, sources, notes, columns, cells, figures, files, facts, pipeline ...
    assert page.text.count(MARKUP) > 25


def test_control_characters_reach_neither_page_nor_terminal() -> None:
    name = "a\x1b[31mred\x00\u202e"
    report = Report(title=name, metrics=(metric(name, source=name),), figures=(bars((name, "b")),))
    written = io.StringIO()
    print_report(report, Console(file=written, width=200, force_terminal=False))
    for text in (html.render(report), written.getvalue()):
        assert not set(text) & {"\x1b", "\x00", "\u202e"}
        assert "[31mred" in text


def test_every_number_has_its_provenance_and_source_beside_it() -> None:
    page = Page(whole_page())
    for shown in (m for m in metrics() if not m.name.endswith("_original")):
        (row,) = [row for row in page.rows if row.startswith(shown.name.replace("_", " "))]
        paired = any(m.name == f"{shown.name}_original" for m in metrics())
        assert row.count(shown.provenance) == (2 if paired else 1), row
        assert shown.source in row
    values = [
        a
        for tag, a in page.elements
        if tag == "span" and "value" in a.get("class", "").split() and "title" in a
    ]
    assert len(values) == len(metrics())
    header = next(row for row in page.rows if row.startswith("block"))
    assert header.count("measured") == 2
    assert header.count("modelled") == 1


def test_the_legend_explains_each_provenance_that_occurs_and_no_other() -> None:
    page = Page(html.render(Report(title="t", metrics=(metric(),))))
    assert html.MEANING["modelled"] in page.text
    assert html.MEANING["measured"] not in page.text


def test_a_wall_clock_number_is_marked() -> None:
    assert "wall clock" not in html.render(Report(title="t", metrics=(metric(),)))
    page = Page(html.render(Report(title="t", metrics=(metric("took", wall_clock=True),))))
    assert "wall clock" in next(row for row in page.rows if row.startswith("took"))


def test_the_exact_value_is_one_hover_away() -> None:
    assert 'title="0.00043712 s"' in whole_page()


def test_the_page_refers_to_nothing_outside_itself() -> None:
    text = whole_page()
    page = Page(text)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "href", "xlink:href", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text


def test_ids_are_unique_and_every_reference_has_its_target() -> None:
    page = Page(whole_page())
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert ids
    assert len(ids) == len(set(ids))
    used = {a["href"][1:] for tag, a in page.elements if tag == "use"}
    used |= set(re.findall(r"url\(#([^)]*)\)", whole_page()))
    assert used == set(ids)


def test_the_same_report_is_the_same_page_in_every_process() -> None:
    program = (
        "import hashlib, sys, test_render as t; "
        "text = t.whole_page() + t.figures.to_svg(t.block_figure()); "
        "pyplot = 'matplotlib.pyplot' in sys.modules; "  # which keeps figures and settings
        "print(hashlib.sha256(text.encode()).hexdigest(), pyplot)"
    )
    here = hashlib.sha256((whole_page() + figures.to_svg(block_figure())).encode()).hexdigest()
    assert (
        here == hashlib.sha256((whole_page() + figures.to_svg(block_figure())).encode()).hexdigest()
    )
    assert in_another_process(program) == f"{here} False"


def test_an_empty_report_says_that_it_has_no_numbers() -> None:
    page = Page(html.render(Report(title="nothing")))
    assert "This run reports no numbers." in page.text
    assert not [tag for tag, _ in page.elements if tag in ("table", "figure", "footer", "pre")]


def test_a_table_of_200_rows_is_whole_and_scrolls_in_its_own_box() -> None:
    columns = (Column(name="row"), Column(name="time", unit="s", provenance="measured"))
    rows = tuple((i, i * 1e-5) for i in range(200))
    page = Page(
        html.render(
            Report(title="t", tables=(Table(name="t", title="T", columns=columns, rows=rows),))
        )
    )
    assert len(page.rows) == 201
    assert any("scroll long" in a.get("class", "") for _, a in page.elements)
    assert "200 rows" in page.text


def test_names_of_any_length_are_written_out_on_the_page() -> None:
    name = "n" * 3000
    text = html.render(
        Report(
            title=name, metrics=(metric(name, source=name),), figures=(bars((name,), title=name),)
        )
    )
    assert Page(text).text.count(name) >= 4


def test_facts_of_the_run_have_their_units_and_say_what_was_cached() -> None:
    text = Page(whole_page()).text
    assert "machine memory" in text
    assert "16.78 GB" in text
    assert "evaluate perplexity, cached yes, took 4.1 ms" in text


# The terminal.


def test_the_terminal_shows_each_number_with_interval_provenance_and_source() -> None:
    written = io.StringIO()
    print_report(quickstart_report(), Console(file=written, width=200))
    lines = written.getvalue().splitlines()
    (row,) = [line for line in lines if line.strip().startswith("next_token_agreement")]
    assert "71.33 %" in row
    assert "69.31 to 73.25 (95 %)" in row
    assert "measured" in row
    assert "wikipedia-sample" in row
    assert any("61.25 s" in line and "measured (wall clock)" in line for line in lines)
    assert lines[-1].startswith("The roofline prices")


def test_square_brackets_are_text_on_the_terminal() -> None:
    written = io.StringIO()
    report = Report(
        title="[bold]t[/bold]", metrics=(metric("[red]m", source="[/]"),), notes=("[x]",)
    )
    print_report(report, Console(file=written, width=120))
    for text in ("[bold]t[/bold]", "[red]m", "[/]", "[x]"):
        assert text in written.getvalue()


def test_importing_the_renderer_imports_nothing_heavy() -> None:
    program = (
        "import sys; from crosslayer.render import figures, html, terminal; "
        "print(sorted({'matplotlib', 'numpy', 'jinja2', 'rich', 'torch'} & set(sys.modules)))"
    )
    assert in_another_process(program) == "[]"
