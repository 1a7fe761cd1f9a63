"""Parameters of the backends that a [[backend]] table can name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class _Params(BaseModel):
    # What was written may be a key in the wrong place: errors do not repeat it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class OpenAIParams(_Params):
    """An OpenAI-compatible endpoint (chat completions)."""

    base_url: str = Field(
        description="Address up to the version, such as http://127.0.0.1:8000/v1."
    )
    model: str = Field(min_length=1, description="Model name that the endpoint knows.")
    api_key_env: str | None = Field(
        None,
        pattern="^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the key; left out: no key.",
    )
    attempts: int = Field(5, ge=1, le=100, description="Requests for one sample, the first too.")
    timeout_s: float = Field(120, gt=0, le=86_400, description="Seconds one request may take.")
    wait_s: float = Field(0.5, ge=0, le=600, description="Seconds before the first retry; doubles.")
    longest_wait_s: float = Field(
        60, ge=0, le=3600, description="Longest wait; an endpoint that asks for more is given up."
    )
    ask: Literal["once", "always"] = Field(
        "once",
        description="once: a step that recorded its calls may come from the step cache, and says "
        "when they were made. always: every run asks.",
    )
    concurrency: int = Field(16, ge=1, le=4096, description="Requests at one time.")
    limit_key: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What the endpoint calls the limit of a sample's tokens."
    )

    @field_validator("base_url")
    @classmethod
    def _address_without_secrets(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            good = False
        if not good:
            raise ValueError("must be an address such as https://host/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "holds a user, a password or a query; keys come from the environment (api_key_env)"
            )
        return value.rstrip("/")


class ReplayParams(_Params):
    """A recorded session."""

    file: Path = Field(description="The recording, JSON lines, from the pipeline file's folder.")
    model: str | None = Field(
        None, min_length=1, description="Whose answers; left out: the file has one model's."
    )
    strict: bool = Field(
        True, description="Exactly what was asked; false: any recorded sample of the same prompt."
    )


class TransformersParams(_Params):
    """A live model of this pipeline."""

    instance: str = Field(min_length=1, description="Name of the model, or of its instance.")
    rows: int = Field(16, ge=1, le=4096, description="Samples decoded at one time.")
