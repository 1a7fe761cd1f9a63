"""The careful way to read one cell: exact, and with a sentence for what cannot be read.

Every function raises ValueError with a sentence that follows the cell's name.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from crosslayer.contracts.calls import LAST_NS, NANOSECONDS

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d+))? ?(?:(Z)|([+-])(\d\d):?(\d\d))?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def whole(text: str) -> int:
    """A count: a whole number from 0 on; 374.0 is one too."""
    number = _number(text)
    if number != int(number):
        raise ValueError(f"is {text!r}; a whole number is needed")
    if number < 0:
        raise ValueError(f"is {text}; it must not be negative")
    if number > LAST_NS:
        raise ValueError(f"is {text}, which does not fit 64 bits")
    return int(number)


def scaled(text: str, nanoseconds: int) -> int:
    """An instant given in units of so many nanoseconds, in nanoseconds: exact, or rounded where it
    has digits beyond them.
    """
    number = _number(text)
    if number < 0:
        raise ValueError(f"is {text}; it must not be negative")
    whole_ns = round(Fraction(number) * nanoseconds)
    if whole_ns > LAST_NS:
        raise ValueError(f"is {text}, which in nanoseconds does not fit 64 bits")
    return whole_ns


def instant(text: str) -> tuple[int, bool]:
    """(nanoseconds since 1970 UTC, whether a zone is given) of a date and time of day.

    Without a zone the time counts as UTC.
    """
    match = _TIME.fullmatch(text.strip())
    if not match:
        missing = _missing(text)
        raise ValueError(missing or f"is {text!r}, not like 2023-11-16 18:15:46.6805900")
    date, clock, fraction, utc, sign, hours, minutes = match.groups()
    try:
        at = datetime.fromisoformat(f"{date}T{clock}+00:00")
    except ValueError as error:
        raise ValueError(f"is {text!r}: {error}") from None
    if hours and (int(hours) > 23 or int(minutes) > 59):
        raise ValueError(f"is {text!r}: there is no such time zone")
    nanos = round(Fraction(f"0.{fraction}") * NANOSECONDS) if fraction else 0
    passed = at - _EPOCH
    seconds = passed.days * 86400 + passed.seconds
    if sign:
        offset = int(hours) * 3600 + int(minutes) * 60
        seconds -= offset if sign == "+" else -offset
    value = seconds * NANOSECONDS + nanos
    if not -LAST_NS <= value <= LAST_NS:
        raise ValueError(f"is {text!r}; years from 1678 to 2261 can be read")
    return value, bool(utc or sign)


def _number(text: str) -> Decimal:
    missing = _missing(text)
    if missing:
        raise ValueError(missing)
    try:
        # Decimal takes underscores and digits of every script; a trace has neither.
        number = Decimal(text.strip()) if text.isascii() and "_" not in text else None
    except InvalidOperation:
        number = None
    if number is None:
        raise ValueError(f"is {text!r}, which is no number")
    if not number.is_finite():
        raise ValueError(f"is {text!r}; a number is needed")
    if number and abs(number.adjusted()) > 30:
        raise ValueError(f"is {text}, which is out of range")
    return number


def _missing(text: str) -> str | None:
    name = text.strip()
    if not name:
        return "is missing"
    if name.lower() in ("nan", "na", "null", "none", "nat"):
        return f"is {name}; every row needs a value"
    return None
