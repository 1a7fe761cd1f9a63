"""The core's conformance kit on the policy."""

from __future__ import annotations

import pytest

from crosslayer.testing import BoundCheck, checks_for


@pytest.mark.parametrize("check", checks_for("slm-mux", parameters={"k": 2}), ids=str)
def test_slm_mux_passes_the_check(check: BoundCheck) -> None:
    check()
