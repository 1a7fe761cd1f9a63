"""Prose out of a MediaWiki export: articles' titles and texts with the markup taken off.

Not a parser: a few passes of regular expressions that keep what a reader reads (paragraphs,
headings, list items) and drop the rest (templates, tables, references, files, formulas). Enough for
measuring a language model on real prose; links keep their visible words.
"""

from __future__ import annotations

import bz2
import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

_ENDING_SECTIONS = re.compile(
    r"^==+\s*(references|notes|footnotes|citations|sources|bibliography|further reading"
    r"|external links|see also|works cited|notes and references)\s*==+\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_DROPPED_ELEMENTS = re.compile(
    r"<!--.*?-->|<ref\b[^>]*/>|<(ref|math|gallery|timeline|imagemap|table|source|syntaxhighlight|score"
    r"|hiero|chem|div)\b[^>]*>.*?</\1\s*>",
    re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")  # the innermost ones
_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
_DROPPED_LINK = re.compile(
    r"\[\[(?:File|Image|Category|[a-z]{2,3}(?:-[a-z]+)?):[^\[\]]*\]\]", re.IGNORECASE
)
_LINK = re.compile(r"\[\[(?!(?:File|Image):)(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_LEFT_LINK = re.compile(r"\[\[[^\[\]]*\]\]")
_OUTSIDE_LINK = re.compile(r"\[(?:https?:|ftp:)?//[^\s\]]+\s*([^\]]*)\]")
_HEADING = re.compile(r"^(=+)\s*(.*?)\s*\1\s*$", re.MULTILINE)
_LIST_MARK = re.compile(r"^[*#:;]+\s*", re.MULTILINE)
_TABLE_LINE = re.compile(r"^\s*[|!].*$", re.MULTILINE)
_HOLLOW_BRACKETS = re.compile(r"\s*\([\s,;:]*\)")


def plain_text(markup: str) -> str:
    """The prose of one page; paragraphs are separated by one blank line."""
    text = _DROPPED_ELEMENTS.sub("", markup)
    ending = _ENDING_SECTIONS.search(text)
    text = text[: ending.start()] if ending else text
    text = _repeated(_TEMPLATE, "", text)
    text = _repeated(_TABLE, "", text)
    text = _TABLE_LINE.sub("", text)
    text = _OUTSIDE_LINK.sub(r"\1", text)
    # Links inside a picture's caption go first, then the picture itself is innermost and can go.
    for _ in range(4):
        text = _DROPPED_LINK.sub("", text)
        text = _LINK.sub(r"\1", text)
    text = _LEFT_LINK.sub("", text)
    text = _TAG.sub("", text).replace("'''", "").replace("''", "")
    text = re.sub(r"__[A-Z]+__", "", text)
    text = _HEADING.sub(r"\n\2\n", text)
    text = _LIST_MARK.sub("", text)
    text = html.unescape(text).replace("\u00a0", " ")
    text = _HOLLOW_BRACKETS.sub("", text)
    text = re.sub(r" +([,.;:])", r"\1", text)
    text = re.sub(r"[ \t]+", " ", text)
    lines = (line.strip() for line in text.splitlines())
    return re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip()


def pages(path: Path) -> Iterator[tuple[str, str]]:
    """(title, prose) of every article of a bz2 MediaWiki export, redirects left out."""
    with bz2.open(path) as file:
        for _, page in ElementTree.iterparse(file):
            if page.tag.rpartition("}")[2] != "page":
                continue
            namespace = page.tag[: -len("page")]
            is_article = page.findtext(f"{namespace}ns") == "0"
            if is_article and page.find(f"{namespace}redirect") is None:
                markup = page.findtext(f"{namespace}revision/{namespace}text") or ""
                yield page.findtext(f"{namespace}title") or "", plain_text(markup)
            page.clear()


def _repeated(pattern: re.Pattern[str], replacement: str, text: str) -> str:
    """Substitute until nothing changes: innermost first, so nesting unwinds."""
    changes = 1
    while changes:
        text, changes = pattern.subn(replacement, text)
    return text
