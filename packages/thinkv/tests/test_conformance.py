"""The core's conformance kit on the transform `thinkv`."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosslayer.testing import BoundCheck, checks_for

# Read when tests are collected, so not a fixture.
TEXT = Path(__file__).with_name("conformance_text.txt")
PARAMETERS = {"measure_text": str(TEXT), "measure_tokens": 320, "budget_tokens": 160}


@pytest.mark.parametrize("check", checks_for("thinkv", parameters=PARAMETERS), ids=str)
def test_thinkv_passes_the_check(check: BoundCheck) -> None:
    check()
