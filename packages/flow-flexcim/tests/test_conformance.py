"""The core's conformance kit on the transform `flow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosslayer.testing import BoundCheck, checks_for

# Read when tests are collected, so not a fixture.
TEXT = Path(__file__).with_name("conformance_text.txt")
PARAMETERS = {
    "calibration_text": str(TEXT),
    "calibration_tokens": 256,
    "window_tokens": 64,
    "candidates": ["2:8", "4:8", "8:16", "4:4"],
}


@pytest.mark.parametrize("check", checks_for("flow", parameters=PARAMETERS), ids=str)
def test_flow_passes_the_check(check: BoundCheck) -> None:
    check()
