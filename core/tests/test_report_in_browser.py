"""The page in a real browser: no complaint, no request, nothing wider than the window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import devtools
import pytest
from sample_report import MARKUP, PIPELINE, RUN_INFO, quickstart_report
from test_render import hostile_report

from crosslayer.contracts.report import Column, Metric, Report, Table
from crosslayer.render import html

EXECUTABLE = devtools.installed()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(EXECUTABLE is None, reason="chromium is not installed"),
]
DESKTOP, PHONE = (1280, 900), (390, 844)
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[devtools.Page]:
    assert EXECUTABLE is not None
    with devtools.browser(EXECUTABLE, tmp_path_factory.mktemp("profile")) as page:
        yield page


def written(folder: Path, report: Report) -> Path:
    path = folder / "report with space.html"
    text = html.render(report, run_info=RUN_INFO, pipeline_text=PIPELINE, lock_text=PIPELINE)
    path.write_text(text, encoding="utf-8")
    return path


@SIZES
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_report_opens_offline_without_a_complaint_or_a_request(
    page: devtools.Page, tmp_path: Path, size: tuple[int, int], dark: bool
) -> None:
    path = written(tmp_path, quickstart_report())
    page.open(path, *size, dark=dark)
    assert page.evaluate("document.querySelectorAll('figure svg').length") == 2
    assert page.complaints() == []
    outside = [url for url in page.requests() if not url.startswith("data:")]
    assert outside == [path.as_uri()]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(22, 22, 21)" if dark else "rgb(253, 253, 252)")


@SIZES
def test_nothing_is_wider_than_the_window(
    page: devtools.Page, tmp_path: Path, size: tuple[int, int]
) -> None:
    long = "word " * 60 + "x" * 300
    wide = Table(
        name="wide",
        title=long,
        columns=tuple(Column(name=f"column {i} {'y' * 40}") for i in range(20)),
        rows=((long,) * 20,),
    )
    numbers = tuple(
        Metric(
            name=long + end, value=1e-3, unit=long, provenance="recorded", source=long, note=long
        )
        for end in ("", "_original", "_other")
    )
    sample = quickstart_report(title=long)
    report = sample.replace(
        metrics=numbers + sample.metrics, tables=(wide, *sample.tables), notes=(long,)
    )
    page.open(written(tmp_path, report), *size)
    assert page.evaluate("innerWidth") == size[0]
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    # What is wider scrolls in its own box.
    box = "document.querySelector('.scroll')"
    assert page.evaluate(f"{box}.scrollWidth > {box}.clientWidth")


@SIZES
def test_a_name_full_of_markup_stays_text(
    page: devtools.Page, tmp_path: Path, size: tuple[int, int]
) -> None:
    page.open(written(tmp_path, hostile_report()), *size)
    assert page.evaluate("document.querySelector('h1').textContent") == MARKUP
    assert page.evaluate("document.title") == MARKUP
    labels = page.evaluate("[...document.querySelectorAll('svg text')].map(t => t.textContent)")
    assert MARKUP in labels
    assert page.evaluate("document.scripts.length") == 0
    assert page.complaints() == []


def test_a_script_that_slipped_in_would_be_refused_by_the_page(
    page: devtools.Page, tmp_path: Path
) -> None:
    path = written(tmp_path, quickstart_report())
    text = path.read_text(encoding="utf-8")
    slipped = "<script>document.title = 'ran'</script><img src='file:///etc/hostname'></body>"
    path.write_text(text.replace("</body>", slipped), encoding="utf-8")
    page.open(path, *DESKTOP)
    assert page.evaluate("document.title") == quickstart_report().title
    assert len(page.complaints()) >= 2


def test_the_report_can_be_printed(page: devtools.Page, tmp_path: Path) -> None:
    page.open(written(tmp_path, quickstart_report()), *DESKTOP)
    page.call("Emulation.setEmulatedMedia", media="print")
    boxes = "[...document.querySelectorAll('.scroll, .card, pre')]"
    cut = f"{boxes}.filter(e => getComputedStyle(e).overflowX != 'visible').length"
    assert page.evaluate(f"{boxes}.length") > 0
    assert page.evaluate(cut) == 0
    page.call("Emulation.setEmulatedMedia", media="")
