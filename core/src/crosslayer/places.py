"""Where crosslayer keeps things outside a run directory."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir(*parts: str) -> Path:
    """The user's cache folder (CROSSLAYER_CACHE_DIR, or the platform's), with `parts` below it; not
    created.
    """
    root = os.environ.get("CROSSLAYER_CACHE_DIR")
    if root:
        return Path(root).expanduser().joinpath(*parts)
    import platformdirs

    return Path(platformdirs.user_cache_dir("crosslayer")).joinpath(*parts)
