"""The components: importing this module is what listing must avoid."""

from __future__ import annotations

from example_good.params import ScaleParams


class Scale:
    """Keeps its parameters."""

    def __init__(self, params: ScaleParams) -> None:
        self.params = params


class Plain:
    """Has no parameters."""
