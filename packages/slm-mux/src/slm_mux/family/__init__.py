"""The live family: small transformers, each trained here on its own mixture of problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from crosslayer.models.live_params import LiveParams

if TYPE_CHECKING:
    from crosslayer.kinds import ModelArtifact

MEMBERS = ("sums", "digits", "remainders", "carryless")


class FamilyParams(LiveParams):
    """Which member of the family."""

    preset: Literal["sums", "digits", "remainders", "carryless"] = Field(
        description="The member: what most of its training was about."
    )


def member_folder(name: str) -> Path:
    """Where a member's weights are. Errors: InputError for an unknown one."""
    from crosslayer.errors import InputError, nearest

    if name not in MEMBERS:
        raise InputError(f"the family has no member {name!r}; {nearest(name, MEMBERS)}")
    return Path(__file__).with_name(name)


def family(params: FamilyParams) -> ModelArtifact:
    """A member as a model of crosslayer: 0.2 million parameters, live."""
    from crosslayer.contracts.model import ModelSpec
    from crosslayer.kinds import ModelArtifact
    from crosslayer.live import TransformersModel

    folder = member_folder(params.preset)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return ModelArtifact(
        spec=ModelSpec.from_hf_config(config, name=f"slm-mux-family-{params.preset}"),
        live=TransformersModel.from_directory(folder) if params.live else None,
    )
