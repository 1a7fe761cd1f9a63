"""Spec presets: one component a JSON file, cheap to list, without weights or torch."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from crosslayer.errors import InputError
from crosslayer.models import presets
from crosslayer.models.params import PresetParams
from crosslayer.models.presets import components, config_names, preset_config, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_builds_the_spec_of_its_name(name: str) -> None:
    (component,) = [c for c in components() if c.name == name]
    module, _, attribute = component.factory.partition(":")
    artifact = getattr(importlib.import_module(module), attribute)(PresetParams())
    assert artifact.live is None
    assert artifact.spec.name == name
    assert artifact.spec.source.startswith("config.json of ")
    assert {part.weight_format for _, part in artifact.spec.parts()} == {"bf16"}


def test_the_dtype_overrides_the_config() -> None:
    full = presets.SpecPreset("gpt2")(PresetParams(dtype="fp32")).spec
    assert full.weight_bytes == 4 * full.parameters


def test_a_live_model_is_data_here_but_no_preset() -> None:
    assert "smollm2-135m" in config_names()
    assert "smollm2-135m" not in preset_names()


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"did you mean 'llama-3.1-8b'"):
        preset_config("llama-3-8b")
    with pytest.raises(AttributeError, match="no_such"):
        presets.no_such


def test_names_and_specs_load_nothing_heavy() -> None:
    code = """
import sys
from crosslayer.models import presets
assert len(presets.preset_names()) > 10 and len(presets.components()) > 10
heavy = {"numpy", "torch", "transformers", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
presets.llama_3_1_70b()
assert not (heavy - {"numpy"}) & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
