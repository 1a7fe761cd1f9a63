"""What a profile and a recorded run do not say of a model: its shape and its bytes."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslayer.errors import CrosslayerError, InputError

if TYPE_CHECKING:
    from crosslayer.contracts.model import ModelSpec

NO_CONFIG = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Model:
    """What must be known of the model: shape, KV bytes of a token, bytes of its weights."""

    shape: Mapping[str, Any]
    kv_bytes_per_token: float
    weight_bytes: float


def find_model(name: str, folder: Path | None = None) -> Model:
    """What is known of a model: from a config.json (`name`, or in the folder), the core's presets
    or known_models.toml. Errors: InputError if nobody knows it.
    """
    from crosslayer.contracts.model import ModelSpec
    from crosslayer.models.presets import config_names

    config = Path(name) if name.endswith(".json") else folder and folder / "config.json"
    if config is not None and (config.is_file() or name.endswith(".json")):
        try:
            spec = ModelSpec.from_hf_config(json.loads(config.read_text(encoding="utf-8")))
        except (*NO_CONFIG, CrosslayerError) as error:
            raise InputError(f"{config}: is no config.json of a model: {error}") from None
        return _of_spec(spec)
    short = short_name(name)
    if short in config_names():
        text = files("crosslayer.models").joinpath(f"{short}.json").read_text(encoding="utf-8")
        return _of_spec(ModelSpec.from_hf_config(json.loads(text)))
    known = tomllib.loads(files("hermes_sim").joinpath("known_models.toml").read_text("utf-8"))
    if short in known:
        one = known[short]
        shape = {"layers": one["layers"], "hidden": one["hidden"]}
        return Model(shape, one["kv_bytes_per_token"], one["weight_bytes"])
    names = ", ".join([*config_names(), *known])
    raise InputError(
        f"the model {name!r} is not known; give --model, a config.json or one of: {names}"
    )


def short_name(name: str) -> str:
    """A model's name less its owner and the kinds of tuning that do not change its shape."""
    last = name.rstrip("/").split("/")[-1].lower()
    return re.sub(r"(-instruct|-chat|-hf|-\d{4})+$", "", last)


def _of_spec(spec: ModelSpec) -> Model:
    return Model(shape_of(spec), float(spec.kv_bytes(1, 0)), float(spec.weight_bytes))


def shape_of(spec: ModelSpec) -> dict[str, Any]:
    """Layers of attention, width, experts and how many of them a token wakes."""
    from crosslayer.contracts.model import Attention, MoE

    parts = [part for block in spec.blocks for part in block.parts]
    experts = next((part for part in parts if isinstance(part, MoE)), None)
    return {
        "layers": sum(isinstance(part, Attention) for part in parts),
        "hidden": spec.hidden,
        "experts": experts.experts if experts else 0,
        "active_experts": experts.active if experts else 0,
    }
