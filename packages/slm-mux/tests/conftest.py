"""Settings for a run of pytest by hand; a nox session loads its own profiles after this one."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("by-hand", deadline=None, max_examples=100)
settings.load_profile("by-hand")
