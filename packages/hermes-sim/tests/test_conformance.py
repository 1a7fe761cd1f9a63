"""The core's conformance kit on the simulator `hermes`."""

from __future__ import annotations

import pytest

from crosslayer.testing import BoundCheck, checks_for


@pytest.mark.parametrize("check", checks_for("hermes"), ids=str)
def test_hermes_passes_the_check(check: BoundCheck) -> None:
    check()
