"""Lowering against torch.utils.flop_counter on small real modules."""

from __future__ import annotations

from typing import Any

import pytest

from crosslayer.contracts import ops
from crosslayer.contracts.lowering import lower
from crosslayer.contracts.model import Attention, ModelSpec
from crosslayer.contracts.steps import StepShape

torch = pytest.importorskip("torch", reason="flop counting needs torch")

COUNTED = (
    ops.Gemm,
    ops.Attention,
    ops.Conv2d,
)  # what torch's counter knows: products, attention, convolutions

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 96,
    },
    "qwen3": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 96,
    },
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 64},
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 96,
        "word_embed_proj_dim": 64,
        "max_position_embeddings": 64,
    },
}


def counted(graph: Any) -> float:
    return sum(
        ops.flops(op) * n
        for op, n in zip(graph.nodes, graph.repeats, strict=True)
        if isinstance(op, COUNTED)
    )


def live(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    # eager attention is two products, which the counter sees without any assumption about a fused
    # kernel
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config), attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize("model_type", CONFIGS)
def test_decode_flops_equal_what_torch_counts(model_type: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = {"model_type": model_type, **CONFIGS[model_type]}
    model, spec = live(config), ModelSpec.from_hf_config(config)
    with torch.no_grad():
        cache = model(torch.zeros(3, 11, dtype=torch.long), use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(3, 1, dtype=torch.long), past_key_values=cache)
    graph = lower(spec, StepShape.from_sequences(spec, [(1, 11, 0)] * 3))
    assert counted(graph) == counter.get_total_flops()


@pytest.mark.parametrize("model_type", CONFIGS)
def test_prefill_flops_equal_what_torch_counts_without_a_causal_mask(model_type: str) -> None:
    """Eager attention computes masked pairs too, so the spec is compared with its causal mask taken
    off.
    """
    from torch.utils.flop_counter import FlopCounterMode

    config = {"model_type": model_type, **CONFIGS[model_type]}
    model, spec = live(config), ModelSpec.from_hf_config(config)
    spec = spec.map_parts(
        lambda block, part: part.replace(causal=False) if isinstance(part, Attention) else part
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 13, dtype=torch.long))
    graph = lower(spec, StepShape.from_sequences(spec, [(13, 0, 0)] * 2, "all"))
    assert counted(graph) == counter.get_total_flops()
