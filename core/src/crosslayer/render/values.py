"""Numbers and names as text: unit prefixes, significant digits, columns that line up."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

DIGITS = 4  # significant digits that a person reads; the exact value is always at hand beside them

# Units that take prefixes: how they are written, the smallest and the largest power of 1000.
_PREFIXED: dict[str, tuple[str, int, int]] = {
    "s": ("s", -4, 0),
    "second": ("s", -4, 0),
    "seconds": ("s", -4, 0),
    "B": ("B", 0, 6),
    "byte": ("B", 0, 6),
    "bytes": ("B", 0, 6),
    "J": ("J", -4, 4),
    "joules": ("J", -4, 4),
    "W": ("W", -3, 4),
    "watts": ("W", -3, 4),
    "Hz": ("Hz", 0, 4),
    "FLOP": ("FLOP", 0, 7),
    "FLOPs": ("FLOP", 0, 7),
    "OP": ("OP", 0, 7),
}
_PREFIXES = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}
_PREFIXES |= {6: "E", 7: "Z"}
_SHARES = ("share", "fraction")  # shown in per cent
_UNITLESS = ("", "1")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


@dataclass(frozen=True)
class Aligned:
    """Numbers of one unit written alike: `texts` without the unit, which is the same for all."""

    texts: tuple[str, ...]
    unit: str


def format_value(value: float, unit: str) -> str:
    """A value in the prefix that suits it: (0.00123, "s") is "1.23 ms", (0.5, "share") "50 %"."""
    shown = aligned([value], unit)
    return f"{_without_trailing_zeros(shown.texts[0])} {shown.unit}".rstrip()


def exact_value(value: float, unit: str) -> str:
    """The value as it is, in its own unit."""
    text = f"{value:,}" if isinstance(value, int) else repr(float(value))
    return text if unit in _UNITLESS else f"{text} {unit}"


def aligned(values: Sequence[float], unit: str) -> Aligned:
    """Values of one unit with one prefix and, where their sizes allow it, as many decimals each.

    The largest gets `DIGITS` significant digits. Values so different that the smallest would be
    left with fewer than two are written each on its own.
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    factor, shown_unit = _scale(largest, unit)
    scaled = [value / factor for value in values]
    if factor == 1 and all(math.isfinite(v) and v == int(v) and abs(v) < 1e15 for v in scaled):
        return Aligned(tuple(f"{int(value):,}" for value in scaled), shown_unit)
    sizes = [abs(value) for value in scaled if value and math.isfinite(value)]
    decimals = _decimals(max(sizes, default=0.0))
    narrow = bool(sizes) and min(sizes) >= 1e-4 and max(sizes) < 1e15
    if narrow and round(min(sizes) * 10**decimals) >= 10:
        return Aligned(tuple(_fixed(value, decimals) for value in scaled), shown_unit)
    return Aligned(tuple(format_number(value) for value in scaled), shown_unit)


def format_number(value: float, digits: int = DIGITS) -> str:
    """A number without a unit: 12,346; 0.1235; 1.235×10⁻⁷."""
    if not math.isfinite(value):
        return "undefined"
    if value == 0:
        return "0"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1e15 or abs(value) < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        power = str(int(exponent)).translate(_SUPERSCRIPT)
        return f"{_without_trailing_zeros(_minus(mantissa))}×10{power}"
    return _without_trailing_zeros(_fixed(value, _decimals(abs(value), digits)))


def format_ratio(ratio: float) -> str:
    """A ratio with three significant digits, 1.00× where nothing changed."""
    if 1e-3 <= abs(ratio) < 1000:
        return f"{_fixed(ratio, _decimals(abs(ratio), 3))}×"
    return f"{format_number(ratio, 3)}×"


def plain(text: str) -> str:
    """The text without control characters, which could move a terminal's cursor or break an SVG."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters, cut in the middle: names differ at either end."""
    line = " ".join(plain(text).split())
    if len(line) <= width:
        return line
    tail = (width - 1) // 3
    return f"{line[: width - 1 - tail]}…{line[len(line) - tail :]}"


def _scale(largest: float, unit: str) -> tuple[float, str]:
    """(factor, unit): what to divide by and the unit of the result."""
    if unit in _UNITLESS:
        return 1.0, ""
    if unit in _SHARES:
        return 0.01, "%"
    head, separator, tail = unit, "", ""
    for mark in ("/", " per "):
        if mark in unit:
            head, _, tail = unit.partition(mark)
            separator = "/"
            break
    if head not in _PREFIXED:
        return 1.0, unit
    symbol, low, high = _PREFIXED[head]
    power = 0
    if largest > 0:
        # Round first: 999.96 µs is 1 ms, not 1,000 µs.
        power = math.floor(math.log10(float(f"{largest:.{DIGITS - 1}e}")) / 3 + 1e-9)
    power = min(max(power, low), high)
    return float(1000.0**power), f"{_PREFIXES[power]}{symbol}{separator}{tail}"


def _decimals(size: float, digits: int = DIGITS) -> int:
    """Decimals that leave `digits` significant digits of a number of that size."""
    if size == 0:
        return 0
    return max(0, digits - 1 - math.floor(math.log10(float(f"{size:.{digits - 1}e}")) + 1e-9))


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return _minus(text) if float(text.replace(",", "")) else text.lstrip("-")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _without_trailing_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
