"""Figures as they are drawn: every label readable, every interval there, no setting changed."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from sample_report import BLOCKS, MARKUP, bars, block_figure, sweep_figure

from crosslayer.contracts.report import Panel, Series
from crosslayer.render import figures


def texts_of(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [
        "".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")
    ]


def test_every_one_of_thirty_labels_is_drawn() -> None:
    texts = texts_of(figures.to_svg(block_figure()))
    assert [
        text for text in texts if text.startswith("block ") and text != block_figure().x_label
    ] == list(BLOCKS)
    assert {"weights kept of 8", "density", "attention", "feed-forward"} <= set(texts)


def test_hundreds_of_labels_are_thinned_until_they_can_be_read() -> None:
    texts = texts_of(figures.to_svg(bars(tuple(f"layer {i}" for i in range(300)))))
    drawn = [text for text in texts if text.startswith("layer ")]
    assert drawn[:2] == ["layer 0", "layer 5"]
    assert len(drawn) == 60


def test_thirty_bars_stand_apart_and_as_high_as_their_values() -> None:
    labels = tuple(str(i) for i in range(30))
    (axis,) = figures.draw(bars(labels)).axes
    assert [bar.get_height() for bar in axis.patches] == [float(i + 1) for i in range(30)]
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axis.patches]
    assert all(left[1] < right[0] for left, right in pairwise(ends))


def test_panels_share_labels_in_their_order_of_appearance() -> None:
    panels = (
        Panel(
            series=(Series(label="a", x=("one", "three"), y=(1, 3)),), y_label="a", kind="points"
        ),
        Panel(series=(Series(label="b", x=("two", "one"), y=(2, 1)),), y_label="b", kind="points"),
    )
    drawing = figures.draw(bars(("one",), panels=panels))
    assert [text.get_text() for text in drawing.axes[1].get_xticklabels()] == [
        "one",
        "three",
        "two",
    ]
    assert list(drawing.axes[1].lines[0].get_xdata()) == [2.0, 0.0]


def test_only_a_panel_of_several_series_has_a_legend() -> None:
    legends = [axis.get_legend() is not None for axis in figures.draw(block_figure()).axes]
    assert legends == [False, False, True]


def test_a_series_whose_name_starts_with_an_underscore_is_in_the_legend() -> None:
    series = tuple(Series(label=name, x=(1, 2), y=(1, 2)) for name in ("_hidden", "shown"))
    (axis,) = figures.draw(bars(("a",), panels=(Panel(series=series, y_label="y"),))).axes
    assert [t.get_text().strip("\u200b") for t in axis.get_legend().get_texts()] == [
        "_hidden",
        "shown",
    ]


@pytest.mark.parametrize("kind", ["line", "points", "bars", "steps"])
def test_an_interval_is_drawn_from_its_low_to_its_high_end(kind: str) -> None:
    series = {"label": "s", "x": (1, 2, 3), "y": (5, 5, 5), "low": (2, 3, 4), "high": (6, 7, 9)}
    panel = Panel.model_validate({"series": (series,), "y_label": "y", "kind": kind})
    (axis,) = figures.draw(bars(("a",), panels=(panel,))).axes
    heights = [p[1] for c in axis.collections for path in c.get_paths() for p in path.vertices]
    assert (min(heights), max(heights)) == (2, 9)


def test_logarithmic_axes_are_labelled_in_plain_text() -> None:
    (axis,) = figures.draw(sweep_figure()).axes
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    texts = texts_of(figures.to_svg(sweep_figure()))
    assert {"1", "10", "100", "1,000", "0.001"} <= set(texts)
    assert not any("$" in text for text in texts)


def test_a_logarithmic_axis_without_a_positive_value_stays_linear() -> None:
    panel = Panel(series=(Series(label="a", x=(0, 1), y=(0, -1)),), y_label="a", y_scale="log")
    (axis,) = figures.draw(bars(("a",), panels=(panel,), x_scale="log")).axes
    assert axis.get_yscale() == "linear"


def test_an_empty_series_is_an_empty_panel() -> None:
    panel = Panel(
        series=(Series(label="a", x=(), y=()),), y_label="nothing", kind="bars", y_scale="log"
    )
    assert "nothing" in texts_of(figures.to_svg(bars(("a",), panels=(panel,))))


def test_a_figure_by_itself_says_title_provenance_and_source() -> None:
    alone, within = (texts_of(figures.to_svg(block_figure(), caption=c)) for c in (True, False))
    assert block_figure().title in alone
    assert f"measured: {block_figure().source}" in alone
    assert block_figure().title not in within


def test_dollars_and_markup_in_a_figure_are_drawn_as_they_are() -> None:
    svg = figures.to_svg(bars(("$x_1$", MARKUP), title=f"{MARKUP} costs $5 or $6"))
    assert "<script" not in svg
    assert {"$x_1$", MARKUP, f"{MARKUP} costs $5 or $6"} <= set(texts_of(svg))


def test_drawing_changes_no_setting_and_obeys_none_of_the_users() -> None:
    import matplotlib

    def settings() -> dict[str, object]:
        # Reading the backend would choose one.
        return {
            name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"
        }

    plain = figures.to_svg(sweep_figure())
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": False}):
        before = settings()
        assert figures.to_svg(sweep_figure()) == plain
        assert settings() == before
