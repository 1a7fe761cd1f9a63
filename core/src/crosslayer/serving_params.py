"""Parameters of the built-in policy, simulator and evaluator of serving."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class SingleParams(_Params):
    """One call to one pool member."""

    member: str | None = Field(
        None,
        min_length=1,
        description="Who is asked; left out: the only member, or the one of the best measured "
        "quality.",
    )
    temperature: float | None = Field(
        None, ge=0, le=100, description="Of the call; left out: what the request or backend says."
    )
    max_tokens: int | None = Field(
        None, ge=1, le=2**31, description="Limit of the answer in tokens; left out: the request's."
    )


class IsolatedParams(_Params):
    """Every call alone on an idle instance."""

    needs_requests: ClassVar[bool] = True

    table_rows: int = Field(
        50, ge=0, le=100_000, description="Requests that the report shows; all are in the CSV file."
    )


class PolicyAccuracyParams(_Params):
    """Share of questions that a policy over the pool answers right."""

    needs_live: ClassVar[bool] = False  # an endpoint or a recording may answer instead
    needs_pool: ClassVar[bool] = True  # every member must have words

    data: Path = Field(
        description="Questions, JSON lines of id, prompt or messages, and answer; from the "
        "pipeline file's folder.",
    )
    questions: int | None = Field(
        None, ge=1, le=10_000_000, description="How many, from the first; left out: all."
    )
    match: Literal["exact", "normalised", "numeric"] = Field(
        "normalised",
        description="When an answer is right: equal but for spaces around it; also but for case, "
        "runs of spaces and punctuation around it; or the last number in it is the reference's.",
    )
    system: str | None = Field(
        None, min_length=1, description="System message before every question of one prompt."
    )
    temperature: float = Field(
        0.0, ge=0, le=100, description="Of calls whose policy says nothing else; 0 is greedy."
    )
    max_tokens: int = Field(
        256, ge=1, le=2**31, description="Limit of a call whose policy says nothing else."
    )
    stop: tuple[str, ...] = Field((), description="Texts that end an answer.")
    record: bool = Field(
        True, description="Write every call to calls.jsonl, from which it can be replayed."
    )
    table_rows: int = Field(
        50, ge=0, le=100_000, description="Answers that the report shows; all are in the CSV file."
    )
