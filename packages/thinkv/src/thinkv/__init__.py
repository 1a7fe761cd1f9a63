"""ThinKV (arXiv 2510.01290): a KV cache whose precision and eviction follow the type of thought.

`from thinkv import ThinKV, ThinKVParams, attach`; the names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "Calibration": "thinkv.calibration",
    "CalibrationSettings": "thinkv.calibration",
    "ThinKV": "thinkv.transform",
    "ThinKVParams": "thinkv.params",
    "attach": "thinkv.attaching",
    "calibrate": "thinkv.replay",
}
__all__ = [
    "Calibration",
    "CalibrationSettings",
    "ThinKV",
    "ThinKVParams",
    "attach",
    "calibrate",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
