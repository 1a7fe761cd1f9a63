"""Parameters of the zoo's components."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator


class ToyParams(BaseModel):
    """Good ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    factor: float = Field(1.5, gt=0, le=10, description="Multiplies something.")


class Undocumented(ToyParams):
    """A parameter without a meaning."""

    mystery: str = "?"


class Doubling(ToyParams):
    """A validator that changes its own result."""

    factor: float = Field(
        1.5, gt=0, le=1e6, description="Multiplies something.", validate_default=True
    )

    @field_validator("factor")
    @classmethod
    def _twice(cls, value: float) -> float:
        return value * 2


class Lenient(ToyParams):
    """Takes any key."""

    model_config = ConfigDict(frozen=True, extra="ignore")
