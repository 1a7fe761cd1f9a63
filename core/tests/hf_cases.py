"""config.json dicts that the tests build on the meta device: well-known models and odd ones."""

from __future__ import annotations

from typing import Any

from crosslayer.contracts.hf_config import MODEL_TYPES
from crosslayer.models.presets import config_names, preset_config

# only what differs from the defaults of the model type; the hub id says where the numbers come from
KNOWN: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-1B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-0.6B": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "mistralai/Mistral-Nemo-Base-2407": {
        "model_type": "mistral",
        "vocab_size": 131072,
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "head_dim": 128,
        "sliding_window": None,
    },
    "facebook/opt-350m": {
        "model_type": "opt",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "ffn_dim": 4096,
        "num_attention_heads": 16,
        "word_embed_proj_dim": 512,
        "do_layer_norm_before": False,
    },
    "openai-community/gpt2-xl": {
        "model_type": "gpt2",
        "n_embd": 1600,
        "n_layer": 48,
        "n_head": 25,
    },
    "state-spaces/mamba-130m-hf": {"model_type": "mamba", "num_hidden_layers": 24},
}

# every switch that adds, drops or reshapes a tensor, on small layers
ODD: dict[str, dict[str, Any]] = {
    "llama with biases and wide heads": {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 96,
        "num_key_value_heads": None,
    },
    "qwen2 with late windows": {
        "model_type": "qwen2",
        "num_hidden_layers": 4,
        "use_sliding_window": True,
        "sliding_window": 1024,
        "max_window_layers": 3,
    },
    "qwen3 with attention bias": {
        "model_type": "qwen3",
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "attention_bias": True,
    },
    "qwen3-moe with dense layers": {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 6,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
        "attention_bias": True,
        "head_dim": 48,
        "tie_word_embeddings": True,
    },
    "mixtral with head_dim": {
        "model_type": "mixtral",
        "num_hidden_layers": 2,
        "num_local_experts": 3,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "gemma2 untied with bias": {
        "model_type": "gemma2",
        "num_hidden_layers": 3,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "final_logit_softcapping": None,
    },
    "phi3 with grouped queries": {
        "model_type": "phi3",
        "num_hidden_layers": 2,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "gpt2 untied": {
        "model_type": "gpt2",
        "num_hidden_layers": 2,
        "n_inner": 1000,
        "tie_word_embeddings": False,
    },
    "opt without biases": {
        "model_type": "opt",
        "num_hidden_layers": 2,
        "enable_bias": False,
        "layer_norm_elementwise_affine": False,
        "tie_word_embeddings": False,
    },
    "opt without final norm": {
        "model_type": "opt",
        "num_hidden_layers": 2,
        "_remove_final_layer_norm": True,
    },
    "mamba with biases": {
        "model_type": "mamba",
        "hidden_size": 100,
        "num_hidden_layers": 2,
        "use_bias": True,
        "use_conv_bias": False,
        "expand": 3,
        "conv_kernel": 3,
        "tie_word_embeddings": False,
    },
    "mamba with a given rank": {"model_type": "mamba", "num_hidden_layers": 2, "time_step_rank": 5},
    "mamba2 with biases": {
        "model_type": "mamba2",
        "hidden_size": 256,
        "num_heads": 8,
        "num_hidden_layers": 2,
        "n_groups": 2,
        "use_bias": True,
        "use_conv_bias": False,
        "tie_word_embeddings": True,
    },
}

CASES: dict[str, dict[str, Any]] = {
    **{f"{kind} defaults": {"model_type": kind} for kind in MODEL_TYPES},
    **{name: preset_config(name) for name in config_names()},
    **KNOWN,
    **ODD,
}

# Published totals of these models; for the rest the live module is the only reference
PUBLISHED = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-2-7b": 6_738_415_616,
    "smollm2-135m": 134_515_008,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "gemma-2-9b": 9_241_705_984,
    "phi-3-mini": 3_821_079_552,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "gpt2": 124_439_808,
    "opt defaults": 125_239_296,  # facebook/opt-125m
    "facebook/opt-350m": 331_196_416,
    "state-spaces/mamba-130m-hf": 129_135_360,
}
