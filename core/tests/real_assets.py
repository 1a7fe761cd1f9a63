"""Real models and texts for tests: cached or fetched; outside CI a test is skipped when offline."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crosslayer.errors import DependencyError
from crosslayer.fetch import cached, fetch


def fetched(name: str) -> Path:
    """The asset's file. In CI a failing fetch is a failing test."""
    try:
        return cached(name) or fetch(name)
    except DependencyError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name}: {error}")
