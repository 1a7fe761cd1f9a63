"""What `crosslayer check`, `run`, `fetch` and `check-plugin` do and print; each returns its exit code."""

from __future__ import annotations
