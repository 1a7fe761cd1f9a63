"""From what a model wrote to its answer: the text of it, and the key that equal answers share.

`extractor("number")` gives a function from a text to a `Found`, or None where the text holds no
answer. Every rule takes the last place that states an answer, because models think before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from crosslayer.errors import InputError, nearest
from slm_mux.canonical import (
    NUMBER,
    dates,
    latex_key,
    number_key,
    number_of,
    plain_number_text,
    text_key,
)


class Found(NamedTuple):
    """An answer as written, and its key."""

    text: str
    key: str


Extractor = Callable[[str], Found | None]
KINDS = ("number", "stated-number", "boxed", "choice", "date", "json", "text", "math")
SHAPES = (
    "number, stated-number, boxed, choice, choice:ABCDE, date, date:day-first, json:FIELD, text,"
    " math"
)


def extractor(name: str) -> Extractor:
    """The extractor of a name: one of SHAPES. Errors: InputError for any other name."""
    kind, _, option = name.partition(":")
    plain: dict[str, Extractor] = {
        "number": number,
        "stated-number": stated_number,
        "boxed": boxed,
        "text": whole_text,
    }
    if kind in plain and not option:
        return plain[kind]
    if kind == "math" and not option:
        return math()
    if kind == "choice" and (option.isalpha() or not option):
        letters = option.upper() or "ABCD"
        return lambda text: choice(text, letters)
    if kind == "date" and option in ("", "day-first"):
        return lambda text: _date(text, option == "day-first")
    if kind == "json" and option:
        return lambda text: json_field(text, option)
    raise InputError(f"no extractor {name!r}; {nearest(kind, KINDS)} (all: {SHAPES})")


def alone(name: str) -> Extractor:
    """How that extractor reads what is an answer already, a gold one or one that a recording kept:
    a formula needs no box around it, a field's value no JSON.
    """
    read, kind = extractor(name), name.partition(":")[0]
    if kind == "json":
        return lambda text: read(text) or _value(text)
    if kind in ("boxed", "math"):
        marks = (
            ("\\boxed", "\\fbox", "$", "\\(", "\\[") if kind == "math" else ("\\boxed", "\\fbox")
        )
        return lambda text: read(text if any(m in text for m in marks) else f"\\boxed{{{text}}}")
    return read


def from_function(function: Callable[[str], str | None]) -> Extractor:
    """An extractor from a function that gives the answer as text; equal texts are equal answers."""

    def found(text: str) -> Found | None:
        answer = function(text)
        return None if answer is None else Found(answer, answer)

    return found


_ANSWER_IS = re.compile(  # or right before a number; "to answer this, add 3 and 4" states nothing
    r"\banswer\b[\s*_]*"
    r"(?:(?:is|was|=|:|equals|(?:should|would|must|will) be)[\s*_:]*|(?=[-+$.\d]))",
    re.IGNORECASE,
)


def number(text: str) -> Found | None:
    """The number after the last "####", in the last \\boxed, after the last "answer is", or the
    last one.
    """
    plain = plain_number_text(text)
    for part in (_after(plain, "####"), _last_boxed(plain)):
        found = _first_number(part) if part is not None else None
        if found:
            return found
    for cue in reversed(list(_ANSWER_IS.finditer(plain))):
        sentence = re.split(r"(?<=[^\d\s])\.\s|\n", plain[cue.end() :], maxsplit=1)[0]
        found = _first_number(sentence)
        if found:
            return found
    return _last_number(plain)


_STATES = re.compile(
    r"(?:\b(?:is|are|was|equals|gives|be)(?: equal to)?|=)\s*"
    r"(?:(?:exactly|approximately|about|a total of|indeed|only|all|\$|\\\(|\*\*)\s*)*$",
    re.IGNORECASE,
)


def stated_number(text: str) -> Found | None:
    """For one sentence that states a result: the last number right after "is", "are", "equals" or
    "=", else as `number`. "There are 29 strings of length 6" answers 29.
    """
    plain = plain_number_text(text)
    stated = None
    for match in NUMBER.finditer(plain):
        value = number_of(match)
        if value is not None and _STATES.search(plain[max(0, match.start() - 60) : match.start()]):
            stated = Found(match[0].strip(), str(value))
    return stated or number(text)


def boxed(text: str) -> Found | None:
    """What the last \\boxed holds."""
    content = _last_boxed(text)
    key = None if content is None else latex_key(content)
    return None if key is None else Found((content or "").strip(), key)


def choice(text: str, letters: str = "ABCD") -> Found | None:
    """The letter of an option: "##Answer: B##", \\boxed{B}, "answer is (B)", a bracketed letter, or
    a letter that stands alone or begins the last line.

    A small letter counts only in brackets or alone, so that "the answer is a matter of" is none.
    """
    one = f"[{letters}]"
    either = f"[{letters}{letters.lower()}]"
    inside = _last_boxed(text)
    shown = (
        None
        if inside is None
        else re.fullmatch(
            rf"\s*(?:\\(?:text|mathrm|mathbf|textbf)\s*\{{)?\s*\(?({either})\)?[.:]?\s*\}}?\s*",
            inside,
        )
    )
    if shown:
        return Found(shown[1], shown[1].upper())
    rules = (  # letters keep their case, words do not
        rf"##\s*(?i:answer)\s*:?\s*\(?({either})\)?\s*##",
        rf"\b(?i:answer|choice|option)\b[\s*_]*(?i:is|was|should be|would be|must be|=|:)?[\s*_:]*"
        rf"(?:(?i:option|choice|letter)[\s*_:]*)?(?:\(({either})\)|({one})(?![\w'’]))",
        rf"(?<!\bnot )\(({either})\)",
        rf"\*\*({one})[.):]?\s*\*\*",
    )
    for rule in rules:
        found = [next(g for g in m.groups() if g) for m in re.finditer(rule, text)]
        if found:
            return Found(found[-1], found[-1].upper())
    lines = [line.strip(" *_\t") for line in text.strip().splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    alone = re.fullmatch(rf"\(?({either})\)?[.:)]?", last) or re.match(rf"({one})[).:]\s", last)
    return Found(alone[1], alone[1].upper()) if alone else None


def _date(text: str, day_first: bool) -> Found | None:
    found = dates(text, day_first=day_first)
    return Found(*found[-1]) if found else None


def json_field(text: str, path: str) -> Found | None:
    """A field of the last JSON object that has it; path: "answer" or "result.value"."""
    decoder, at, found = json.JSONDecoder(), text.find("{"), None
    for _ in range(1000):
        if at < 0:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        found = _field(value, path.split(".")) or found
        at = text.find("{", end)
    return found


def _field(value: Any, path: list[str]) -> Found | None:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    if value is None or isinstance(value, dict | list):
        return None
    return _value(json.dumps(value) if isinstance(value, bool | float | int) else str(value))


def _value(shown: str) -> Found | None:
    key = number_key(shown) or text_key(shown)
    return Found(shown, key) if key else None


def whole_text(text: str) -> Found | None:
    """All of it, as words."""
    key = text_key(text)
    return Found(text.strip(), key) if key else None


def math() -> Extractor:
    """Expressions in LaTeX or plain. Errors: DependencyError without math-verify."""
    from slm_mux.expressions import Expressions

    expressions = Expressions()

    def found(text: str) -> Found | None:
        read = expressions.read(text)
        return None if read is None else Found(*read)

    return found


def _after(text: str, mark: str) -> str | None:
    _, found, after = text.rpartition(mark)
    return after if found else None


def _first_number(text: str) -> Found | None:
    for match in NUMBER.finditer(text):
        value = number_of(match)
        if value is not None:
            return Found(match[0].strip(), str(value))
    return None


def _last_number(text: str) -> Found | None:
    found = None
    for match in NUMBER.finditer(text):
        value = number_of(match)
        if value is not None:
            found = Found(match[0].strip(), str(value))
    return found


def _last_boxed(text: str) -> str | None:
    r"""What the last \boxed or \fbox holds, braces balanced; None without a whole one."""
    for start in reversed([m.end() for m in re.finditer(r"\\f?box(?:ed)?\s*", text)]):
        if text[start : start + 1] != "{":
            return text[start : start + 1] or None
        depth = 0
        for at in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if not depth:
                return text[start + 1 : at]
    return None
