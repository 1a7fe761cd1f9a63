"""config.json to ModelSpec without transformers: shapes and paths of its *ForCausalLM classes.

A part's path is the module of transformers 5.x that holds its weights, such as
"model.layers.0.self_attn.q_proj". transformers stacks the weights of all experts: the path of an
expert's Linear is the stacked tensor ("model.layers.0.mlp.experts.gate_up_proj", [experts, outputs,
inputs]), the path of the MoE its whole block. A selective scan's path is its mixer, whose own
tensors (A_log, D, the dt bias) it counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crosslayer.contracts.hf_absolute import gpt2, opt
from crosslayer.contracts.hf_decoder import decoder
from crosslayer.contracts.hf_keys import Keys
from crosslayer.contracts.hf_mamba import falcon_mamba, mamba, mamba2
from crosslayer.contracts.model import Block, ModelSpec
from crosslayer.errors import InputError, nearest

_BUILDERS: Mapping[str, Callable[[Keys], tuple[Block, ...]]] = {
    "llama": decoder,
    "mistral": decoder,
    "mixtral": decoder,
    "qwen2": decoder,
    "qwen3": decoder,
    "qwen3_moe": decoder,
    "gemma2": decoder,
    "phi3": decoder,
    "gpt2": gpt2,
    "opt": opt,
    "mamba": mamba,
    "falcon_mamba": falcon_mamba,
    "mamba2": mamba2,
}
MODEL_TYPES = tuple(_BUILDERS)


def spec_from_config(config: Mapping[str, Any], name: str | None = None) -> ModelSpec:
    """The spec of a config.json given as a plain dict; missing keys take the model type's defaults.

    dtype (or torch_dtype) gives the weight and activation format, bf16 where it says nothing.
    `_source` is kept as the spec's source. Errors: InputError for an unknown model_type, a
    quantised checkpoint, or a value that makes no model.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"a model configuration is a table of keys, not {type(config).__name__}")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise InputError(f"model config: model_type is {model_type!r}; {nearest('', MODEL_TYPES)}")
    if model_type not in _BUILDERS:
        raise InputError(
            f"model config: unknown model_type {model_type!r}; {nearest(model_type, MODEL_TYPES)}"
        )
    keys = Keys(config, model_type)
    if config.get("quantization_config"):
        problem = "makes a quantised checkpoint; give the unquantised model's config"
        raise keys.error("quantization_config", problem)
    return ModelSpec(
        name=name or config.get("_name_or_path") or model_type,
        family=model_type,
        hidden=keys.integer("hidden_size"),
        blocks=_BUILDERS[model_type](keys),
        vocabulary=keys.integer("vocab_size"),
        context_tokens=keys.optional_integer("max_position_embeddings"),
        source=str(config.get("_source", "config.json")),
    )


def spec_from_directory(path: str | Path) -> ModelSpec:
    """The spec of a local Hugging Face directory, from its config.json; named like the directory.

    Errors: InputError with the file (and line, where the JSON is broken).
    """
    directory = Path(path)
    file = directory / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "has no config.json" if directory.is_dir() else "is no directory"
        raise InputError(f"{directory}: {what}; a model directory holds config.json") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text, so it is no config.json") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{file}:{error.lineno}: is not JSON: {error.msg}") from None
    try:
        return spec_from_config(config, name=directory.resolve().name or None)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
