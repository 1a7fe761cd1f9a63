"""Parameters of the transform `flow`; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from crosslayer.errors import InputError
from crosslayer.parameters import TextName

if TYPE_CHECKING:
    from crosslayer.contracts.sparsity import NMSparsity

LARGEST_M = 64

# Every N kept of M = 4, 8, 16; dense once.
CANDIDATES = (*(f"{n}:{m}" for m in (4, 8, 16) for n in range(1, m)), "4:4")


class FlowParams(BaseModel):
    """How FLOW chooses a pattern for each decoder block. N:M keeps N of M weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sparsity: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the weights of all block linears to remove at least; a plan removes "
        "the least that reaches it at the lowest cost.",
    )
    plan: Literal["flow", "uniform"] = Field(
        "flow",
        description="flow: a pattern for each block at the lowest total cost; uniform: one pattern "
        "for all blocks, the baseline.",
    )
    cost: Literal["outlier", "recon"] = Field(
        "outlier",
        description="What a pattern costs a block under plan flow. outlier: share of the outliers' "
        "scores that it drops; recon: relative squared error of the linears' outputs, as if their "
        "inputs were uncorrelated.",
    )
    candidates: tuple[str, ...] = Field(
        CANDIDATES,
        min_length=1,
        max_length=256,
        description='Patterns to choose from, such as ["2:4", "4:8"]; one whose M does not divide '
        "the inputs of a block is not offered to that block.",
    )
    pattern: str | None = Field(
        None,
        description="The pattern of plan uniform, such as 2:4; left out: the densest candidate "
        "that reaches the sparsity, with the largest M.",
    )
    outlier_multiple: float = Field(
        5.0,
        gt=0,
        le=1000,
        description="A weight is an outlier where its score is above this multiple of its block's "
        "mean score.",
    )
    calibration_text: TextName = Field(
        "wikipedia-sample",
        description="Text for the activation norms: a named text or a UTF-8 file; only its "
        "calibration split is read.",
    )
    calibration_tokens: int = Field(
        2048, ge=2, le=1 << 24, description="Tokens of the calibration text to run."
    )
    window_tokens: int = Field(
        256, ge=2, le=1 << 20, description="Tokens that see each other in calibration."
    )

    @field_validator("candidates")
    @classmethod
    def _candidates_are_patterns(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_pattern(value) for value in values))

    @field_validator("pattern")
    @classmethod
    def _pattern_is_one(cls, value: str | None) -> str | None:
        return value if value is None else _pattern(value)

    @model_validator(mode="after")
    def _choices_fit(self) -> FlowParams:
        if self.window_tokens > self.calibration_tokens:
            raise ValueError(
                f"window_tokens = {self.window_tokens} is more than calibration_tokens = "
                f"{self.calibration_tokens}; shorten the windows"
            )
        if self.pattern is None:
            return self
        if self.plan != "uniform":
            raise ValueError(
                f'pattern = "{self.pattern}" is for plan = "uniform"; under plan = "flow" set '
                "candidates"
            )
        removed = 1 - _parsed(self.pattern).density
        if removed < self.sparsity:
            raise ValueError(
                f'pattern = "{self.pattern}" removes {removed:g}, less than sparsity = '
                f"{self.sparsity:g}; set sparsity = {removed:g} or a sparser pattern"
            )
        return self


def _parsed(text: str) -> NMSparsity:
    from crosslayer.contracts.sparsity import NMSparsity  # here: describing needs none of it

    return NMSparsity.parse(text)


def _pattern(text: str) -> str:
    try:
        pattern = _parsed(text)
    except InputError as error:  # as a ValueError it is shown with the key it belongs to
        raise ValueError(str(error)) from None
    if pattern.m > LARGEST_M:
        raise ValueError(f"pattern {text!r}: M is at most {LARGEST_M}")
    return str(pattern)
