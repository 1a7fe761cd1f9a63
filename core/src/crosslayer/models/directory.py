"""A local Hugging Face directory as a model: shapes from config.json, weights from safetensors.

Nothing is downloaded and no code from the directory runs.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosslayer.contracts.hf_config import spec_from_directory
from crosslayer.contracts.model import ModelSpec
from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact
from crosslayer.live import TransformersModel, require_live_parts
from crosslayer.models.live_params import DirectoryParams

_FORMATS = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}


def directory(params: DirectoryParams) -> ModelArtifact:
    """The component `directory`: `open_directory` with parameters from a pipeline file."""
    return open_directory(params.path, params.live)


def open_directory(path: str | Path, live: bool = True) -> ModelArtifact:
    """The model in a directory; `live`: with its weights, opened on first use.

    Each part's weight_format is the type its tensor is stored in; without weights it is
    config.json's dtype.
    Errors: InputError for a missing or broken file, pickled weights, or weights that are stored
    quantised.
    """
    folder = Path(path)
    spec = spec_from_directory(folder)
    if any(folder.glob("*.safetensors")):
        spec = _with_stored_formats(spec, stored_formats(folder))
    if not live:
        return ModelArtifact(spec=spec)
    model = TransformersModel.from_directory(folder)
    require_live_parts()
    return ModelArtifact(spec=spec, live=model)


def stored_formats(folder: Path) -> Mapping[str, str]:
    """Format by tensor name, from the headers of the safetensors files: no tensor is read."""
    formats: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, entry in _header(file).items():
            if name == "__metadata__":
                continue
            stored = entry.get("dtype") if isinstance(entry, dict) else None
            if stored not in _FORMATS:
                raise InputError(
                    f"{file}: {name} is stored as {stored}, but only F32, BF16 and F16 weights can "
                    "be opened"
                )
            formats[name] = _FORMATS[stored]
    return formats


def _header(file: Path) -> dict[str, Any]:
    """The JSON header: 8 bytes of length, then text (the safetensors format)."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is not a table")
    except (ValueError, struct.error) as error:
        raise InputError(f"{file} is not a safetensors file: {error}") from error
    return header


def _with_stored_formats(spec: ModelSpec, formats: Mapping[str, str]) -> ModelSpec:
    """Weights in their stored format; activations and KV in the commonest one, as servers do."""
    common = Counter(formats.values()).most_common(1)[0][0] if formats else "bf16"

    def change(_block: Any, part: Any) -> Any:
        stored = formats.get(f"{part.path}.weight", common)
        changes = {"weight_format": stored, "activation_format": common}
        if "kv_format" in type(part).model_fields:
            changes["kv_format"] = common
        return part.replace(**changes)

    return spec.map_parts(change)
