"""FLOW (arXiv 2504.14365): each decoder block gets its own N:M pattern, chosen from its outliers.

`from flow_flexcim import Flow, FlowParams`; the names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flow_flexcim.params import FlowParams
    from flow_flexcim.transform import Flow

__all__ = ["Flow", "FlowParams"]


def __getattr__(name: str) -> Any:
    if name == "Flow":
        from flow_flexcim.transform import Flow

        return Flow
    if name == "FlowParams":
        from flow_flexcim.params import FlowParams

        return FlowParams
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
