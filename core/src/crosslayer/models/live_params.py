"""Parameters of models with real weights."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class LiveParams(BaseModel):
    """Whether the weights come along or only the shapes."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    live: bool = Field(
        True,
        description="Open the real weights (fetched once, needs torch); false: shapes only, no "
        "weights, modelled numbers.",
    )


class DirectoryParams(LiveParams):
    """A local Hugging Face directory."""

    path: Path = Field(
        description="Directory with config.json, *.safetensors and a tokenizer, from the pipeline "
        "file's folder.",
    )
