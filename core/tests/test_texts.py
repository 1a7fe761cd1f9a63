"""Texts: markup taken off, articles split, windows of tokens."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from real_assets import fetched

from crosslayer.errors import InputError
from crosslayer.texts import articles, token_windows
from crosslayer.wikitext import pages, plain_text


@pytest.mark.parametrize(
    "markup, prose",
    [
        ("An '''[[apple tree|apple]]''' is ''red''.", "An apple is red."),
        ("It {{convert|3|km|{{abbr|on}}}} grew.<ref name=a>Who?</ref>", "It grew."),
        ("a<ref name=x /> b<!-- c --> H<sub>2</sub>O &nbsp;&amp; d", "a b H2O & d"),
        ("== Use ==\n* one\n** two\n== References ==\n{{reflist}}\nx", "Use\n\none\ntwo"),
        ('{| class="w"\n! head\n|-\n| cell {| inner |}\n|}\nAfter.', "After."),
        ("[[File:a.jpg|thumb|A [[cat]] on a [[mat|rug]].]]Text.", "Text."),
        ("See [http://x.example/page the page] and [http://x.example].", "See the page and."),
        ("Pi (; {{lang|el|π}}) is [[Pi#Value|a number]].", "Pi is a number."),
        ("One.\n\n\n\nTwo.\n[[Category:Numbers]]", "One.\n\nTwo."),
    ],
)
def test_what_a_reader_reads_stays_and_the_markup_goes(markup: str, prose: str) -> None:
    assert plain_text(markup) == prose


def test_redirects_and_project_pages_are_no_articles(tmp_path: Path) -> None:
    page = "<page><title>{}</title><ns>{}</ns>{}<revision><text>{}</text></revision></page>"
    xml = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">'
        + page.format("Apple", 0, "", "An &lt;b&gt;apple&lt;/b&gt;.")
        + page.format("Apples", 0, '<redirect title="Apple" />', "#REDIRECT [[Apple]]")
        + page.format("Wikipedia:Apples", 4, "", "About apples.")
        + "</mediawiki>"
    )
    export = tmp_path / "pages.bz2"
    export.write_bytes(bz2.compress(xml.encode()))
    assert list(pages(export)) == [("Apple", "An apple.")]


def test_the_wikipedia_sample_is_prose_split_by_article() -> None:
    fetched("wikipedia-sample")
    every = articles("wikipedia-sample")
    calibration = articles("wikipedia-sample", "calibration")
    evaluation = articles("wikipedia-sample", "evaluation")
    assert len(every) == 91
    assert calibration == every[0::2]
    assert evaluation == every[1::2]
    assert not {article.title for article in calibration} & {
        article.title for article in evaluation
    }
    assert all(len(article.text) > 3000 for article in every)
    text = "\n".join(article.text for article in every)
    assert 2_500_000 < len(text) < 3_000_000
    assert sum(text.count(mark) for mark in ("[[", "]]", "{{", "}}", "<ref", "'''")) < 20
    assert every[0].text.startswith(
        "Anarchism is a political philosophy that advocates self-governed"
    )


def write(path: Path, *paragraphs: str) -> Path:
    path.write_text("\n\n".join(paragraphs), "utf-8")
    return path


def test_a_file_is_cut_at_blank_lines_into_pieces_that_alternate(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}. " + "word " * 400 for i in range(30)]
    file = write(tmp_path / "a.txt", *paragraphs)
    every, even, odd = (articles(file, split) for split in ("all", "calibration", "evaluation"))
    assert len(every) > 4
    assert "\n\n".join(piece.text for piece in every).split("\n\n") == [
        p.strip() for p in paragraphs
    ]
    assert even == every[0::2]
    assert odd == every[1::2]


def test_even_a_short_file_gives_both_splits(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "One short paragraph.", "And " + "a longer one " * 20)
    assert [len(articles(file, split)) for split in ("calibration", "evaluation")] == [1, 1]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "holds no text"),
        (b"ok \xff\xfe", r"not UTF-8 text \(byte 3\)"),
        (None, "no text or file"),
    ],
)
def test_a_file_that_is_no_text_is_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "odd.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=f"odd.txt.*{message}|{message}.*odd.txt"):
        articles(file)


def test_a_misspelt_text_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match="did you mean 'wikipedia-sample'"):
        articles("wikipedia-samples")


def letters(begin: list[int] | None = None) -> Callable[..., dict[str, list[int]]]:
    """A tokenizer: a token a character; `begin` is what it puts before every text."""
    begin = begin or []

    class Letters(SimpleNamespace):
        def __call__(
            self, text: str, add_special_tokens: bool = True, verbose: bool = True
        ) -> dict[str, list[int]]:
            return {"input_ids": (begin if add_special_tokens else []) + [ord(c) for c in text]}

    return Letters(bos_token_id=begin[0] if begin else None)


@pytest.fixture
def alphabet(tmp_path: Path) -> Path:
    """Pieces of about 8,000 times one letter: a, b, c, d."""
    return write(tmp_path / "alphabet.txt", *("\n\n".join([c * 4000] * 2) for c in "abcd"))


def test_windows_stay_inside_articles_and_every_article_gives_one_before_any_gives_two(
    alphabet: Path,
) -> None:
    windows = token_windows(letters(), alphabet, "all", tokens=600, window=100)
    assert windows.shape == (6, 100)
    assert windows.dtype == np.int64
    assert [{chr(token) for token in window} for window in windows] == [{c} for c in "abcdab"]


def test_the_split_and_the_seed_choose_the_articles(alphabet: Path) -> None:
    def first(split: str, seed: int | None) -> str:
        windows = token_windows(letters(), alphabet, split, 200, 100, seed)  # type: ignore[arg-type]
        return "".join(chr(window[0]) for window in windows)

    assert first("calibration", None) == "ac"
    assert first("evaluation", None) == "bd"
    assert first("all", 3) == first("all", 3)
    assert len({first("all", seed) for seed in range(8)}) > 3


def test_an_article_is_read_on_where_its_last_window_ended(tmp_path: Path) -> None:
    file = write(tmp_path / "digits.txt", "0123456789" * 4, "x" * 50)
    windows = token_windows(letters(), file, "calibration", tokens=28, window=7)
    assert "".join(chr(token) for token in windows.ravel()) == "0123456789012345678901234567"


def test_a_tokenizer_that_begins_texts_begins_windows(alphabet: Path) -> None:
    windows = token_windows(letters(begin=[1]), alphabet, "all", tokens=20, window=10)
    assert windows[:, 0].tolist() == [1, 1]
    assert windows[:, 1:].tolist() == [[ord("a")] * 9, [ord("b")] * 9]


def test_asking_for_more_than_there_is_says_how_much_there_is(alphabet: Path) -> None:
    with pytest.raises(InputError, match=r"holds 2 windows of 8000 tokens in 2 articles, 4 are"):
        token_windows(letters(), alphabet, "evaluation", tokens=32_000, window=8000)
    with pytest.raises(InputError, match="one window must fit"):
        token_windows(letters(), alphabet, "evaluation", tokens=50, window=100)
