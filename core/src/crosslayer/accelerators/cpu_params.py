"""Parameters of the `cpu-local` accelerator; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class CpuLocalParams(BaseModel):
    """This machine's CPU as a calibration finds it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    calibrate: Literal["auto", "always", "never"] = Field(
        "auto",
        description="auto: use the calibration of this machine, library and number of threads if "
        "there is one in the cache, else measure. always: measure. never: an error without one.",
    )
    calibration_s: float = Field(
        10.0, ge=1, le=10, description="Seconds that a calibration may take; few make it coarse."
    )
    calibration_file: Path | None = Field(
        None, description="A stored calibration to use instead, of this or another machine."
    )
    formats: Literal["live", "stored"] = Field(
        "live",
        description="live: price every op in fp32 and dense, as live models compute here. stored: "
        "in the formats of the model's spec, where the library has a product of that format.",
    )
