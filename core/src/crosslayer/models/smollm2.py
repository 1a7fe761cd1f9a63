"""SmolLM2-135M-Instruct, the built-in real model (Apache-2.0, Hugging Face, 2024).

Its public weights here are a Q4_1 GGUF file. It is dequantised and rounded to bf16 once, into the
cache; those bf16 values are what the spec ships and what the live module computes with, in fp32.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from crosslayer.contracts.model import ModelSpec
from crosslayer.fetch import catalogue, fetch
from crosslayer.kinds import ModelArtifact
from crosslayer.live import TransformersModel, require_live_parts
from crosslayer.models.gguf_llama import CONVERTER, convert_llama
from crosslayer.models.live_params import LiveParams
from crosslayer.models.presets import preset_config
from crosslayer.places import cache_dir
from crosslayer.progress import Progress, progress_for
from crosslayer.stored import stored

NAME = "smollm2-135m"


def smollm2(params: LiveParams | None = None, progress: Progress | None = None) -> ModelArtifact:
    """The model; with `live`, fetched and converted first if the cache lacks it (told on stderr).

    Errors: DependencyError where torch is missing, or offline with a cold cache.
    """
    params = params or LiveParams()
    spec = ModelSpec.from_hf_config(preset_config(NAME), name=NAME)
    if not params.live:
        return ModelArtifact(spec=spec)
    require_live_parts()
    folder = converted(progress_for() if progress is None else progress)
    return ModelArtifact(
        spec=spec, live=TransformersModel.from_directory(folder, identity=folder.name)
    )


def converted(progress: Progress) -> Path:
    """The bf16 directory in the cache, made from the GGUF file once; named by what made it."""
    sha256 = catalogue()[NAME].member_sha256
    key = hashlib.sha256(f"{CONVERTER} {sha256}".encode()).hexdigest()[:12]
    target = cache_dir("models", f"{NAME}-{key}")

    def make(path: Path) -> None:
        convert_llama(fetch(NAME, progress), path, progress)

    return stored(target, make, progress, f"{NAME} in bf16")
