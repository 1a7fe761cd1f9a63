"""What a profile and a recorded run do not say of a model: its shape and its bytes."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from crosslayer.errors import CrosslayerError, InputError

NO_CONFIG = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Model:
    """What must be known of the model: shape, KV bytes of a token, bytes of its weights."""

    shape: Mapping[str, int]
    kv_bytes_per_token: float
    weight_bytes: float


def find_model(name: str, folder: Path | None = None) -> Model:
    """What is known of a model: from a config.json (`name`, or in the folder), the core's presets
    or known_models.toml. Errors: InputError if nobody knows it.
    """
    from crosslayer.contracts.model import ModelSpec
    from crosslayer.models.presets import config_names

    config = Path(name) if name.endswith(".json") else folder and folder / "config.json"
    if config is not None and config.is_file():
        try:
            table = json.loads(config.read_text(encoding="utf-8"))
            return _of_spec(ModelSpec.from_hf_config(table), table)
        except (*NO_CONFIG, CrosslayerError) as error:
            raise InputError(f"{config}: is no config.json of a model: {error}") from None
    short = re.sub(r"(-instruct|-chat|-hf|-\d{4})+$", "", name.rstrip("/").split("/")[-1].lower())
    if short in config_names():
        text = files("crosslayer.models").joinpath(f"{short}.json").read_text(encoding="utf-8")
        table = json.loads(text)
        return _of_spec(ModelSpec.from_hf_config(table), table)
    known = tomllib.loads(files("hermes_sim").joinpath("known_models.toml").read_text("utf-8"))
    if short in known:
        one = known[short]
        shape = {"layers": one["layers"], "hidden": one["hidden"]}
        return Model(shape, one["kv_bytes_per_token"], one["weight_bytes"])
    names = ", ".join([*config_names(), *known])
    raise InputError(
        f"the model {name!r} is not known; give --model, a config.json or one of: {names}"
    )


def _of_spec(spec: Any, table: Mapping[str, Any]) -> Model:
    shape = {"layers": int(table["num_hidden_layers"]), "hidden": int(table["hidden_size"])}
    experts = table.get("num_experts") or table.get("num_local_experts")
    if experts:
        shape |= {"experts": int(experts), "active_experts": int(table["num_experts_per_tok"])}
    return Model(shape, float(spec.kv_bytes(1, 0)), float(spec.weight_bytes))
