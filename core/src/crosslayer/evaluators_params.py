"""Parameters of the built-in evaluators."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from crosslayer.parameters import TextName


class _TextParams(BaseModel):
    """Which text an evaluator reads, and how much of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    needs_live: ClassVar[bool] = True  # a model of shapes alone has nothing to evaluate

    text: TextName = Field(
        "wikipedia-sample",
        description="A built-in text, or a UTF-8 text file, from the pipeline file's folder.",
    )
    split: Literal["all", "calibration", "evaluation"] = Field(
        "evaluation",
        description="Which articles: odd ones are for evaluation, even ones for calibration.",
    )
    tokens: int = Field(
        2048, ge=2, le=100_000_000, description="Tokens read, in whole windows (rounded down)."
    )
    window_tokens: int = Field(
        256,
        ge=2,
        le=1_000_000,
        description="Tokens of one window; each starts with an empty cache.",
    )
    instance: str | None = Field(
        None, description="Name of the instance to evaluate; left out: the only one."
    )

    @model_validator(mode="after")
    def _one_window_fits(self) -> Self:
        if self.tokens < self.window_tokens:
            raise ValueError(
                f"tokens = {self.tokens} is less than one window of {self.window_tokens} tokens"
            )
        return self


class PerplexityParams(_TextParams):
    """Perplexity of a model and of the unmodified model on a text."""


class StepTimeParams(BaseModel):
    """Which steps are timed, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    needs_live: ClassVar[bool] = True
    wall_clock: ClassVar[bool] = True  # what it finds is this machine's

    prompt_tokens: int = Field(
        128, ge=1, le=1_000_000, description="Tokens of the prompt whose prefill is timed."
    )
    output_tokens: int = Field(
        8, ge=1, le=100_000, description="Decode steps after it; their mean is one repeat."
    )
    repeats: int = Field(
        5, ge=1, le=1000, description="Repeats, the best of which counts; one more warms up."
    )
    instance: str | None = Field(
        None, description="Name of the instance to time; left out: the only one."
    )


class AgreementParams(_TextParams):
    """How often a model's most likely next token is the unmodified model's."""
