"""A Llama-type GGUF file to a Hugging Face directory: config.json, bf16 safetensors, tokenizer.

Read with the `gguf` package. Q4_1, Q8_0 and the like are dequantised to fp32 and rounded to bf16,
ties to even: from there on the bf16 values are the model. Layout: the GGUF specification of ggml,
the tensor names and the order of rotary rows of llama.cpp's converter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crosslayer.errors import InputError
from crosslayer.progress import Progress

CONVERTER = 1  # counts up when the same file would be converted to something else

_BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_CONTROL = 3  # token type of special tokens


def convert_llama(gguf_file: Path, folder: Path, progress: Progress) -> None:
    """Write the new directory `folder` from `gguf_file`. InputError for another architecture."""
    import numpy as np
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    progress.say(f"{gguf_file.name}: reading")
    reader = GGUFReader(gguf_file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    architecture = fields.get("general.architecture")
    if architecture != "llama" or fields.get("tokenizer.ggml.model") != "gpt2":
        raise InputError(
            f"{gguf_file}: only Llama models with a byte-level BPE can be converted, not "
            f"{architecture!r}"
        )
    config = _config(fields)
    weights = {}
    for tensor in progress.track(reader.tensors, "converting to bf16", total=len(reader.tensors)):
        name = _name(tensor.name)
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            values = _split_rotary_halves(values, heads)
        weights[name] = torch.from_numpy(values.copy()).to(torch.bfloat16)
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer, tokenizer_config = _tokenizer(fields)
    for file, content in (
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config),
    ):
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / file).write_text(text, encoding="utf-8")


def _name(gguf_name: str) -> str:
    stem, _, kind = gguf_name.rpartition(".")
    if stem in _TENSORS:
        return f"{_TENSORS[stem]}.{kind}"
    blk, _, rest = stem.partition(".")
    number, _, part = rest.partition(".")
    if blk != "blk" or part not in _BLOCK_TENSORS:
        raise InputError(f"the tensor {gguf_name!r} belongs to no Llama model")
    return f"model.layers.{number}.{_BLOCK_TENSORS[part]}.{kind}"


def _split_rotary_halves(weight: Any, heads: int) -> Any:
    """[heads * d, inputs]: rotation pairs rows (2i, 2i+1) in GGUF, (i, i + d/2) in transformers."""
    rows, inputs = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, inputs)
    return pairs.swapaxes(1, 2).reshape(rows, inputs)


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    def llama(key: str) -> Any:
        return fields[f"llama.{key}"]

    heads = llama("attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": llama("embedding_length"),
        "intermediate_size": llama("feed_forward_length"),
        "num_hidden_layers": llama("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": llama("attention.head_count_kv"),
        "head_dim": llama("embedding_length") // heads,
        "max_position_embeddings": llama("context_length"),
        # float32 in the file; the shortest decimal that means the same float32
        "rms_norm_eps": float(f"{llama('attention.layer_norm_rms_epsilon'):.7g}"),
        "rope_parameters": {"rope_type": "default", "rope_theta": llama("rope.freq_base")},
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _tokenizer(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json of a byte-level BPE."""
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    before: list[dict[str, Any]] = [byte_level]
    if fields.get("tokenizer.ggml.pre") == "smollm":
        # SmolLM splits numbers into digits before anything else; without it every number is
        # tokenised as the model has never seen it.
        before.insert(0, {"type": "Digits", "individual_digits": True})
    special = [i for i, kind in enumerate(types) if kind == _CONTROL]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], **flags, "special": True} for i in special
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": before},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in fields["tokenizer.ggml.merges"]],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "chat_template": fields.get("tokenizer.chat_template"),
    }
    return tokenizer, config
