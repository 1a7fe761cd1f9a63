"""Parameters of the roofline accelerator; imports nothing heavy."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from crosslayer.errors import nearest

PRESET_FILE = Path(__file__).with_name("presets.toml")


@lru_cache(maxsize=1)
def presets() -> dict[str, dict[str, Any]]:
    """Every preset of presets.toml by name."""
    with PRESET_FILE.open("rb") as file:
        return tomllib.load(file)


class RooflineParams(BaseModel):
    """An accelerator as peak rates and a memory bandwidth."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    preset: str = Field(description="Which hardware: a name of presets.toml, such as a100-80g.")
    packed_kernels: bool = Field(
        default=False,
        description="Read pruned weights packed for patterns the sparse units do not run, by a "
        "kernel that unpacks on the fly. Compute stays dense.",
    )
    tf32: bool = Field(
        default=False,
        description="Round fp32 products to tf32, where the hardware has such units. Other formats "
        "that tf32 holds exactly use the units anyway if they are the fastest.",
    )
    launch_overhead_s: float | None = Field(
        default=None, ge=0, le=1, description="Fixed seconds an op; default: the preset's figure."
    )

    @field_validator("preset")
    @classmethod
    def _preset_exists(cls, value: str) -> str:
        if value not in presets():
            raise ValueError(f"no preset {value!r}; {nearest(value, presets())}")
        return value
