"""Parameters, one of every sort."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Layer(BaseModel):
    """A nested table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: float = Field(1.0, gt=0, le=1, description="Share of the layer that is kept.")


class ScaleParams(BaseModel):
    """How much to scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: float = Field(1.0, gt=0, le=8, description="What every weight is multiplied by.")
    rounds: int = Field(1, ge=1, description="How often.")
    rounding: Literal["even", "up"] = Field("even", description="How ties are rounded.")
    layers: tuple[Layer, ...] = Field((), description="One table a layer.")
    target: int | str = Field(0, description="A layer's number or its name.")
    preset: str | None = Field(None, description="A named choice of the above.")
