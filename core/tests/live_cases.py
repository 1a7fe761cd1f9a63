"""Small real models of several families, for the tests of live models and evaluators."""

from __future__ import annotations

from typing import Any

_DECODER = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 256,
    "initializer_range": 0.5,  # wide, so that the models have opinions
}
LLAMA: dict[str, Any] = {"model_type": "llama", "tie_word_embeddings": True, **_DECODER}
QWEN2 = {"model_type": "qwen2", "tie_word_embeddings": False, **_DECODER}
GEMMA2 = {"model_type": "gemma2", "sliding_window": 16, "query_pre_attn_scalar": 8, **_DECODER}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 300,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "initializer_range": 0.3,
    "bos_token_id": 256,
    "eos_token_id": 256,
}
MAMBA = {
    "model_type": "mamba",
    "vocab_size": 300,
    "hidden_size": 32,
    "state_size": 4,
    "num_hidden_layers": 2,
    "initializer_range": 0.5,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
FAMILIES = (LLAMA, QWEN2, GEMMA2, GPT2, MAMBA)
