"""Parameters of the serving policy `slm-mux`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SLMMuxParams(BaseModel):
    """k samples of each member; the member most consistent with itself answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(3, ge=1, le=1000, description="Samples of each member.")
    members: tuple[str, ...] = Field(
        (), description="Who is asked, each once; left out: the whole pool."
    )
    temperature: float = Field(
        0.3, gt=0, le=100, description="Of every call. Not 0, where all samples would be equal."
    )
    max_tokens: int | None = Field(
        None, ge=1, le=2**31, description="Limit of an answer in tokens; left out: the request's."
    )
    extractor: str = Field(
        "number",
        min_length=1,
        description="How an answer is found in a text: number, stated-number, boxed, "
        "choice[:LETTERS], date[:day-first], json:FIELD, text or math.",
    )
    tie_break: Literal["validation", "order"] = Field(
        "validation",
        description="Between members of equal confidence: by the quality measured under [pool], or "
        "the first of the pool.",
    )
    early_stop: Literal["lossless", "unanimous", "never"] = Field(
        "lossless",
        description="lossless: when no outstanding sample can change the choice. unanimous: where "
        "all first samples agree their answer, which need not be the choice of all samples.",
    )
    schedule: Literal["parallel", "best-first", "rounds"] = Field(
        "parallel",
        description="All calls at once; member after member, the best first; or a sample of each "
        "at a time. The later ones save calls and take longer.",
    )
    prefix_block_tokens: int = Field(
        16,
        ge=0,
        le=65536,
        description="A prompt without prefix hashes gets blocks of so many tokens of its own, so "
        "that a simulator can share it among the samples; 0: none.",
    )
