"""Parameters of the spec presets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PresetParams(BaseModel):
    """How the weights and activations of a preset are stored before any transform."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    dtype: Literal["bf16", "fp16", "fp32"] = Field(
        default="bf16",
        description="Number format of weights, activations and KV cache, "
        "whatever the model's own config.json says.",
    )
