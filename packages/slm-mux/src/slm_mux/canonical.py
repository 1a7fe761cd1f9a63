"""One key for all ways to write an answer: numbers, LaTeX, dates, words.

Two answers are the same if their keys are equal, so sameness is transitive and samples can be
counted. Numbers are exact: 0.5 is 1/2, 0.333 is not 1/3. A percent or currency sign is a unit and
is dropped.
"""

from __future__ import annotations

import datetime
import re
from fractions import Fraction

LONGEST_NUMBER = 300  # digits, also as an exponent: a longer one is no answer but an attack

_SIGNS = str.maketrans("−–‐‑﹣－＋．，", "------+.,")
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}
_FRACTION = re.compile(
    r"\\[dt]?frac\s*(?:\{\s*(-?[\d.,]+)\s*\}|(\d))\s*(?:\{\s*([\d.,]+)\s*\}|(\d))"
)
NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]}.])[-+]\s?\$?\s?)?"
    r"(?:(?P<whole>(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?P<part>\.\d+)?|(?P<bare>(?<!\d)\.\d+))"
    r"(?:[eE](?P<e>[-+]?\d+)(?!\w)|\s*(?:×|\*|x|\\times|\\cdot)\s*10\s*\^\s*\{?(?P<ten>[-+]?\d+)\}?"
    r"|\^\{?(?P<power>\d+)\}?)?"
    r"(?:\s?/\s?(?P<under>\d+)(?![\d/]))?"
)


def plain_number_text(text: str) -> str:
    """LaTeX and Unicode ways to write numbers turned into ASCII ones."""
    text = text.translate(_SIGNS)
    for mark, plain in _VULGAR.items():
        text = text.replace(mark, plain)
    for mark in ("{,}", "\\,", "\\!", "\u202f", "\u2009"):
        text = re.sub(rf"(?<=\d){re.escape(mark)}(?=\d{{3}})", ",", text)
    text = text.replace("\\$", "$").replace("\\%", "%")
    return _FRACTION.sub(lambda m: f"{m[1] or m[2]}/{m[3] or m[4]}", text)


def number_of(match: re.Match[str]) -> Fraction | None:
    """The value of a match of NUMBER in plain text; None for one beyond all bounds, or x/0."""
    if len(match[0]) > LONGEST_NUMBER:
        return None
    digits = (match["whole"] or "0").replace(",", "") + (match["part"] or match["bare"] or "")
    value = Fraction(digits)
    exponent = int(match["e"] or match["ten"] or 0)
    if abs(exponent) > LONGEST_NUMBER:
        return None
    value *= Fraction(10) ** exponent
    if match["power"]:
        if len(match["power"]) > 3 or int(match["power"]) * len(digits) > LONGEST_NUMBER:
            return None
        value **= int(match["power"])
    if match["under"]:
        if not int(match["under"]):
            return None
        value /= int(match["under"])
    return -value if "-" in (match["sign"] or "") else value


def numbers(text: str) -> list[tuple[int, Fraction]]:
    """(position in the plain text, value) of every number."""
    found = ((m.start(), number_of(m)) for m in NUMBER.finditer(text))
    return [(at, value) for at, value in found if value is not None]


_AROUND_NUMBER = re.compile(r"[\s$€£%.]*")


def number_key(text: str) -> str | None:
    """The key of a text that is one number, units of money and percent apart; None otherwise."""
    plain = plain_number_text(text).strip().strip("{}() ")
    plain = re.sub(r"^([-+]?)\s*[$€£]\s*", r"\1", plain)
    match = NUMBER.match(plain)
    if match is None or not _AROUND_NUMBER.fullmatch(plain[match.end() :]):
        return None
    value = number_of(match)
    return None if value is None else str(value)


_SPACING = re.compile(r"\\[,!;:> ]|\\q?quad\b|~|\s+")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")


def latex_key(text: str) -> str | None:
    """The key of a LaTeX answer: a number's where it is one, else its letters without layout."""
    number = number_key(text)
    if number is not None:
        return number
    text = text.translate(_SIGNS).strip().strip("$").rstrip(".")
    unit = re.sub(
        r"(?<=[\d}])\s*\\(?:text|mathrm|mbox)\s*\{\s*[^{}]*\}\s*(?:\^\{?\d\}?)?$", "", text
    )
    number = number_key(unit)
    if number is not None:
        return number
    text = _WRAPPED.sub(r"\1", text)
    text = re.sub(r"\\(?:left|right|displaystyle)(?![a-zA-Z])", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\w)(?!\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"\^\s*\{?\\circ\}?", "", text).replace("\\%", "").replace("\\$", "")
    text = _SPACING.sub("", text)
    text = re.sub(r"^[a-zA-Z](?:\\in|=)(?=.)", "", text)  # "x = 5" answers 5
    return (number_key(text) or text.casefold()) if text else None


_AROUND = " \t\n\r.,;:!?\"'`()[]{}*“”‘’"


def text_key(text: str) -> str | None:
    """The key of words: case, runs of spaces and punctuation around them do not count."""
    key = " ".join(text.casefold().split()).strip(_AROUND)
    return key or None


_MONTHS = {
    name[:3]: number
    for number, name in enumerate(
        [
            "january",
            "february",
            "march",
            "april",
            "may",
            "june",
            "july",
            "august",
            "september",
            "october",
            "november",
            "december",
        ],
        1,
    )
}
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATES = re.compile(
    rf"(?<!\d)(?:(?P<iy>\d{{4}})[-/.](?P<im>\d{{1,2}})[-/.](?P<id>\d{{1,2}})"
    rf"|{_MONTH.replace('(', '(?P<m1>', 1)}\s+(?P<d1>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y1>\d{{4}})"
    rf"|(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?(?:\s+of)?\s+{_MONTH.replace('(', '(?P<m2>', 1)},?\s+"
    rf"(?P<y2>\d{{4}})|(?P<s1>\d{{1,2}})[/.-](?P<s2>\d{{1,2}})[/.-](?P<sy>\d{{4}}))(?!\d)",
    re.IGNORECASE,
)


def dates(text: str, *, day_first: bool = False) -> list[tuple[str, str]]:
    """(as written, ISO 8601) of every date that exists; 3/4/2024 is March unless `day_first`."""
    found = []
    for m in _DATES.finditer(text):
        if m["iy"]:
            parts = int(m["iy"]), int(m["im"]), int(m["id"])
        elif m["m1"]:
            parts = int(m["y1"]), _MONTHS[m["m1"].casefold()], int(m["d1"])
        elif m["m2"]:
            parts = int(m["y2"]), _MONTHS[m["m2"].casefold()], int(m["d2"])
        else:
            first, second = int(m["s1"]), int(m["s2"])
            swap = (day_first and second <= 12) or first > 12
            parts = int(m["sy"]), *((second, first) if swap else (first, second))
        try:
            found.append((m[0], datetime.date(*parts).isoformat()))
        except ValueError:  # 31 February
            continue
    return found
