"""Spec presets: a well-known model's shapes without weights, from the JSON files beside this one.

A new preset is one JSON file. `components()` describes each; the factory of "llama-3.1-8b" is the
module attribute `llama_3_1_8b`, made on first use, as a factory is called with its parameters only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslayer.errors import InputError, nearest

if TYPE_CHECKING:
    from crosslayer.component import Component
    from crosslayer.kinds import ModelArtifact
    from crosslayer.models.params import PresetParams

_HERE = Path(__file__).parent
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_LIVE = ("smollm2-135m",)  # has a component of its own with real weights


@cache
def config_names() -> tuple[str, ...]:
    """Every model whose config.json is here, presets and live ones; reads no file."""
    return tuple(sorted(file.name.removesuffix(".json") for file in _HERE.glob("*.json")))


def preset_names() -> tuple[str, ...]:
    """The spec presets by name; reads no file."""
    return tuple(name for name in config_names() if name not in _LIVE)


def preset_config(name: str) -> dict[str, Any]:
    """The config.json of a model that ships here. InputError with the nearest name if none does."""
    if name not in config_names():
        raise InputError(f"no model preset {name!r}; {nearest(name, config_names())}")
    text = (_HERE / f"{name}.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


@dataclass(frozen=True)
class SpecPreset:
    """The factory of one preset: called with its parameters, returns a spec, no live model."""

    name: str

    def __call__(self, params: PresetParams | None = None) -> ModelArtifact:
        from crosslayer.contracts.model import ModelSpec
        from crosslayer.kinds import ModelArtifact

        dtype = _DTYPES[params.dtype if params is not None else "bf16"]
        config = preset_config(self.name) | {"dtype": dtype}
        return ModelArtifact(spec=ModelSpec.from_hf_config(config, name=self.name))


def components() -> list[Component]:
    """One component a preset; reads no file and builds no spec."""
    from crosslayer.component import Component

    return [
        Component(
            name=name,
            summary=f"Shapes of {name} without weights: modelled numbers only",
            paper="",
            factory=f"{__name__}:{_attribute(name)}",
            params="crosslayer.models.params:PresetParams",
        )
        for name in preset_names()
    ]


def _attribute(name: str) -> str:
    return name.replace(".", "_").replace("-", "_")


def __getattr__(attribute: str) -> SpecPreset:
    for name in preset_names():
        if _attribute(name) == attribute:
            return SpecPreset(name)
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
