"""crosslayer: stack techniques from different layers of the ML systems stack, and see what they
cost and buy.

import crosslayer as cl
run = cl.run("pipeline.toml")
run.metrics["perplexity"].value
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosslayer.comparison import Comparison, compare
    from crosslayer.load_run import load
    from crosslayer.pipeline.schema import Pipeline
    from crosslayer.results import Run
    from crosslayer.runner import run
    from crosslayer.sweeps.engine import sweep
    from crosslayer.sweeps.results import SweepResult

    __version__: str

__all__ = [
    "Comparison",
    "Pipeline",
    "Run",
    "SweepResult",
    "__version__",
    "compare",
    "load",
    "run",
    "sweep",
]

_HOME = {
    "Comparison": "crosslayer.comparison",
    "compare": "crosslayer.comparison",
    "load": "crosslayer.load_run",
    "Pipeline": "crosslayer.pipeline.schema",
    "Run": "crosslayer.results",
    "SweepResult": "crosslayer.sweeps.results",
    "run": "crosslayer.runner",
    "sweep": "crosslayer.sweeps.engine",
}


def __getattr__(name: str) -> Any:
    """Loads each public name when it is first used: `import crosslayer` alone imports nothing."""
    if name == "__version__":
        from crosslayer.discovery import core_version

        return core_version()
    if name not in _HOME:
        raise AttributeError(f"module 'crosslayer' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
