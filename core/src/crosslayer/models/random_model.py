"""A small model with random weights and a byte tokenizer, for tests and the conformance kit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosslayer.contracts.model import ModelSpec
from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact
from crosslayer.live import TransformersModel, require_live_parts

BYTES = 256


def random_model(config: Mapping[str, Any], seed: int = 0) -> ModelArtifact:
    """The causal LM of a config.json given as a dict, with seeded weights that bf16 holds exactly.

    vocab_size must be 257 or more: a token a byte, and one special token, which begins nothing by
    itself.
    Errors: InputError for a configuration that makes no model.
    """
    spec = ModelSpec.from_hf_config(
        {**config, "dtype": "bfloat16"}, name=f"random-{config['model_type']}"
    )
    if spec.vocabulary is None or spec.vocabulary <= BYTES:
        raise InputError(
            f"vocab_size {spec.vocabulary} is too small: 256 bytes and one special token"
        )
    require_live_parts()
    live = TransformersModel(
        lambda: _module(dict(config), seed),
        _byte_tokenizer,
        identity=f"random {seed} {json.dumps(config)}",
    )
    return ModelArtifact(spec=spec, live=live)


def _module(config: dict[str, Any], seed: int) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = config.pop("model_type")
    config.pop("dtype", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **config), dtype=torch.float32
        )
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(parameter.to(torch.bfloat16))
    return module


def _byte_tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    end = {"id": BYTES, "content": "<end>", "special": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    content = {
        "version": "1.0",
        "added_tokens": [end | flags],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": _byte_letters() | {"<end>": BYTES}, "merges": []},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tokenizer.json")
        file.write_text(json.dumps(content), encoding="utf-8")
        return PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<end>")


def _byte_letters() -> dict[str, int]:
    """The letter that byte-level BPE (GPT-2) writes for each byte: itself if printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(BYTES + i): byte for i, byte in enumerate(others)}
