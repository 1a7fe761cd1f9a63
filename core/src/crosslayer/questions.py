"""Questions with reference answers: JSON lines of id, prompt or messages, and answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from crosslayer.contracts.base import Value
from crosslayer.contracts.calls import Message
from crosslayer.errors import InputError

Match = Literal["exact", "normalised", "numeric"]


class Question(Value):
    """One question; prompt: the text of its one user message."""

    id: str = Field(min_length=1)
    prompt: str | None = Field(None, min_length=1)
    messages: tuple[Message, ...] | None = Field(None, min_length=1)
    answer: str

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Question:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("needs either 'prompt' or 'messages', not both and not neither")
        return self

    def asked(self, system: str | None = None) -> tuple[Message, ...]:
        """What a model is asked; `system` goes before a question of one prompt."""
        if self.messages is not None:
            return self.messages
        first = () if system is None else (Message(role="system", content=system),)
        return (*first, Message(role="user", content=self.prompt or ""))


def read_questions(file: Path, limit: int | None = None) -> tuple[Question, ...]:
    """The questions of a file, the first `limit` of them.

    Errors: InputError with file, line and column for what is no question, and for an id used twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    found: list[Question] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(found) == limit:
            break
        found.append(_question(f"{file}:{number}", line))
        first = lines.setdefault(found[-1].id, number)
        if first != number:
            raise InputError(f"{file}:{number}: id {found[-1].id!r} is line {first}'s already")
    if not found:
        raise InputError(f"{file}: holds no question")
    return tuple(found)


def _question(place: str, line: str) -> Question:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}:{error.colno}: is no JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise InputError(f"{place}:1: must be an object with id, prompt and answer")
    # Data sets number their questions and answers as they like.
    for key in ("id", "answer"):
        if isinstance(row.get(key), int | float) and not isinstance(row[key], bool):
            row[key] = str(row[key]).removesuffix(".0")
    try:
        return Question.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        at = line.find(json.dumps(where.partition(".")[0])) + 1 or 1
        raise InputError(f"{place}:{at}: {f'{where}: ' if where else ''}{message}") from None


_AROUND = " \t\n\r.,;:!?\"'`()[]{}*"
# A hyphen behind a word or a number ("10-12", "x-3") is no sign.
_NUMBER = re.compile(
    r"(?:(?<![\w.)\]])[-\u2212])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+\-\u2212]?\d+)?"
)


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_AROUND)


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def _same_number(answer: str, reference: str) -> bool:
    number = _last_number(answer)
    return number is not None and number == _last_number(reference)


MATCHES: dict[Match, Callable[[str, str], bool]] = {
    "exact": lambda answer, reference: answer.strip() == reference.strip(),
    "normalised": lambda answer, reference: _normal(answer) == _normal(reference),
    "numeric": _same_number,
}
