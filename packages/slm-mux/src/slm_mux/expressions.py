"""Answers that are expressions, by math-verify and SymPy (the extra `math`): 2/4, 0.5, 1/2 are one.

What is evaluated is bounded first: a text may hold 9^{9^{9}}, on which SymPy never ends, and an
event loop that reads it would answer nobody. A time limit would make keys depend on the machine.
"""

from __future__ import annotations

import logging
import math
import re
from typing import Any

from crosslayer.errors import DependencyError
from slm_mux.canonical import LONGEST_NUMBER

LONGEST_TEXT = 20_000  # the end of a text holds the answer
DEEPEST = 12  # brackets in brackets; the parser takes minutes over some more
LARGEST = 200  # operations in an expression that is simplified
# SymPy evaluates it while it parses.
_LARGE_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{?\s*\d{5}|\d{5}\s*\\choose")


class Expressions:
    """Texts to (as written, key). Errors: DependencyError without math-verify."""

    def __init__(self) -> None:
        try:
            import sympy
            from math_verify import parse
        except ModuleNotFoundError as error:
            raise DependencyError(
                "the extractor 'math' needs math-verify:"
                " python -m pip install 'math-verify>=0.9,<1'"
            ) from error
        # It warns that nothing ends it, once; the bounds here do.
        logging.getLogger("math_verify.parser").setLevel(logging.ERROR)
        self._sympy: Any = sympy
        self._parse: Any = parse

    def read(self, text: str) -> tuple[str, str] | None:
        """The last expression; None without one, for a division by nought, or beyond the bounds."""
        text = text[-LONGEST_TEXT:]
        if _LARGE_BINOMIAL.search(text) or _depth(text) > DEEPEST:
            return None
        try:
            parsed = self._parse(text, parsing_timeout=None)  # its own works in main threads only
        except Exception:  # whatever a text makes it raise
            return None
        value = next((one for one in parsed if not isinstance(one, str)), None)
        if value is None:
            return None
        key = self._key(value)
        written = next((one for one in parsed if isinstance(one, str)), "")
        return None if key is None else (written or key, key)

    def _key(self, value: Any) -> str | None:
        sympy = self._sympy
        try:
            if value.has(sympy.nan, sympy.zoo):
                return None
            if self._digits(value) > LONGEST_NUMBER or value.count_ops() > LARGEST:
                return str(value)
            exact = sympy.nsimplify(value, rational=True) if value.is_number else value
            return str(sympy.simplify(exact))
        except Exception:  # sets, intervals, matrices, and what simplifying them makes it raise
            return str(value)

    def _digits(self, value: Any) -> float:
        """About how many digits its largest numerator or denominator has when it is evaluated."""
        sympy = self._sympy
        if isinstance(value, sympy.Rational):
            return math.log10(2) * max(int(value.p).bit_length(), int(value.q).bit_length())
        if not value.args:
            return 1.0
        parts = [self._digits(part) for part in value.args]
        if isinstance(value, sympy.Pow):
            base, power = parts
            return base * 10**power if power < 4 else math.inf
        if isinstance(value, sympy.factorial | sympy.binomial):
            return 10 ** max(parts) if max(parts) < 4 else math.inf
        if isinstance(value, sympy.Sum | sympy.Product | sympy.Integral | sympy.Limit):
            return math.inf
        return sum(parts)


def _depth(text: str) -> int:
    deepest = depth = 0
    for letter in text:
        if letter in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in ")]}":
            depth = max(0, depth - 1)
    return deepest
