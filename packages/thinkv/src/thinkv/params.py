"""Parameters of the transform `thinkv`; imports nothing heavy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from crosslayer.errors import InputError
from crosslayer.parameters import TextName


class ThinKVParams(BaseModel):
    """What the cache keeps of a sequence, and in how many bits."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bits: str = Field(
        "R4E4T2",
        description="Bits of reasoning, execution and transition tokens: 16 (fp16), 8 (FP8 E4M3), "
        "4 (NVFP4) or 2 (ternary) for each.",
    )
    budget_tokens: int = Field(
        1024,
        ge=0,
        le=1 << 24,
        description="k, the generated tokens to keep in each layer; 0: no budget. What cannot be "
        "reached is reported with its floor.",
    )
    segment_tokens: int = Field(
        128, ge=16, le=1 << 16, description="tau, tokens between refreshes; a multiple of 16."
    )
    schedule: tuple[int, ...] = Field(
        (64, 32, 16, 8, 4),
        min_length=1,
        max_length=64,
        description="Tokens that a segment keeps after its 1st, 2nd, ... selection; the last is "
        "the least that it ever keeps.",
    )
    trigger: Literal["segment", "entry", "end", "never"] = Field(
        "segment",
        description="Which transitions shrink what came before: each transition segment, only one "
        "after another type, the segment after one, or none.",
    )
    calibration: Path | None = Field(
        None,
        description="JSON file of `crosslayer thinkv calibrate` for this very model; left out: one "
        "type of thought.",
    )
    label_window_tokens: int = Field(
        1, ge=1, le=1 << 16, description="Attention rows before a refresh that are averaged."
    )
    prompt_tokens: int = Field(
        0,
        ge=0,
        le=1 << 24,
        description="First tokens of each text that count as its prompt: quantised, never evicted.",
    )
    budget_counts_prompt: bool = Field(
        False,
        description="Whether prompt tokens take their share of the budget. A spec's curve knows no "
        "prompt and does not count it.",
    )
    block_tokens: int = Field(8, ge=1, le=256, description="Slots of a block of the paged store.")
    decoding: Literal["auto", "torch", "triton"] = Field(
        "auto",
        description="What attends when one token is decoded: the Triton kernel, PyTorch, or the "
        "kernel where the cache is on a GPU and its shape fits.",
    )
    buffer_format: Literal["fp16", "bf16", "fp32"] = Field(
        "fp16", description="Of the tokens that wait for their group of 16 to be quantised."
    )
    measure_text: TextName = Field(
        "wikipedia-sample",
        description="Text that a live model reads to measure its cache: a named text or a UTF-8 "
        "file; only its calibration split is read.",
    )
    measure_tokens: int = Field(
        1024, ge=0, le=1 << 20, description="Tokens of it to read; 0: measure nothing."
    )

    @field_validator("bits")
    @classmethod
    def _bits_are_spelled(cls, value: str) -> str:
        from thinkv.layout import formats_of

        try:
            formats_of(value)
        except InputError as error:  # as a ValueError it is shown with the key it belongs to
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _sizes_fit(self) -> ThinKVParams:
        if self.segment_tokens % 16:
            raise ValueError(
                f"segment_tokens = {self.segment_tokens} is no multiple of 16, so a group of 16 "
                "could hold two types of thought"
            )
        steps = self.schedule
        if any(a <= b for a, b in pairwise(steps)) or steps[-1] < 1:
            raise ValueError(f"schedule = {list(steps)} must fall to at least 1")
        if self.label_window_tokens > self.segment_tokens:
            raise ValueError(
                f"label_window_tokens = {self.label_window_tokens} is more than segment_tokens = "
                f"{self.segment_tokens}"
            )
        return self
