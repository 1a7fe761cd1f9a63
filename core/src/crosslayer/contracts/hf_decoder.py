"""Blocks of decoders with rotary positions and RMS norms: Llama, Mistral, Qwen, Gemma-2, Phi-3.

They differ in biases, fused projections, head norms, norms after a sublayer, windows and experts
(Mixtral, Qwen3-MoE).
"""

from __future__ import annotations

from typing import Any

from crosslayer.contracts.hf_keys import Keys
from crosslayer.contracts.model import (
    Attention,
    Block,
    Elementwise,
    Embedding,
    Linear,
    MoE,
    Norm,
    Part,
)

# FLOPs an element of an activation function, an exp or tanh counted as one
ACTIVATION_FLOPS = {"relu": 1, "silu": 4, "swish": 4, "gelu": 8}
_ROPE_FLOPS = 3  # x cos + rotated x sin

_FULL, _SLIDING = "full_attention", "sliding_attention"


def activation_flops(function: str) -> int:
    """FLOPs an element of an activation named as in a config.json ("gelu_pytorch_tanh")."""
    return ACTIVATION_FLOPS.get(function.split("_")[0], 4)


def formats(keys: Keys) -> dict[str, Any]:
    """The format fields that every part of the model shares."""
    name = keys.number_format()
    return {"weight_format": name, "activation_format": name}


def decoder(keys: Keys) -> tuple[Block, ...]:
    """Embedding, layers and head of a decoder with rotary positions."""
    form = formats(keys)
    hidden, vocabulary = keys.integer("hidden_size"), keys.integer("vocab_size")
    gemma = keys.model_type == "gemma2"

    lookup: list[Part] = [
        Embedding(name="embed", path="model.embed_tokens", entries=vocabulary, width=hidden, **form)
    ]
    if gemma:
        lookup.append(Elementwise(name="embed_scale", function="scale", width=hidden, **form))

    head: list[Part] = [
        Norm(name="norm", path="model.norm", width=hidden, **form),
        Linear(
            name="lm_head", path="lm_head", rows="logits", inputs=hidden, outputs=vocabulary,
            tied=keys.flag("tie_word_embeddings"), shard="column", **form,
        ),
    ]  # fmt: skip
    if gemma and keys.value("final_logit_softcapping") is not None:
        head.append(
            Elementwise(
                name="softcap", rows="logits", function="softcap", width=vocabulary,
                flops_per_element=3, **form,
            )
        )  # fmt: skip

    layer = _Layer(keys)
    blocks = [Block(name="embedding", parts=tuple(lookup))]
    blocks += [layer.block(index, window) for index, window in enumerate(_windows(keys))]
    return (*blocks, Block(name="head", parts=tuple(head)))


def _windows(keys: Keys) -> list[int | None]:
    """The window of each layer, itself included; None sees every key."""
    layers = keys.integer("num_hidden_layers")
    if keys.model_type == "llama":
        return [None] * layers
    window = keys.optional_integer("sliding_window")
    if keys.model_type.startswith("qwen") and not keys.flag("use_sliding_window"):
        window = None
    if keys.model_type not in ("qwen2", "qwen3", "gemma2"):
        return [window] * layers

    types = keys.value("layer_types")
    if types is None and keys.model_type == "gemma2":
        types = [_FULL if index % 2 else _SLIDING for index in range(layers)]
    elif types is None:
        first = keys.integer("max_window_layers", low=0)
        types = [_SLIDING if index >= first else _FULL for index in range(layers)]
    if not isinstance(types, list | tuple) or len(types) != layers:
        raise keys.error("layer_types", f"must list one type for each of the {layers} layers")
    for given in types:
        if given not in (_FULL, _SLIDING):
            raise keys.error("layer_types", f"has {given!r}; use {_FULL!r} or {_SLIDING!r}")
    return [window if given == _SLIDING else None for given in types]


class _Layer:
    """What all layers of one model share."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.type = keys.model_type
        self.form = formats(keys)
        self.hidden = keys.integer("hidden_size")
        self.heads = keys.integer("num_attention_heads")
        self.kv_heads = keys.optional_integer("num_key_value_heads") or self.heads
        if self.heads % self.kv_heads:
            problem = f"is {self.kv_heads}, which does not divide {self.heads} heads"
            raise keys.error("num_key_value_heads", problem)
        if self.type in ("llama", "gemma2"):  # these refuse such a width even beside a head_dim
            keys.multiple("hidden_size", "num_attention_heads")
        self.head_dim = keys.optional_integer("head_dim") or keys.multiple(
            "hidden_size", "num_attention_heads"
        )
        self.act = keys.text("hidden_activation" if self.type == "gemma2" else "hidden_act")
        self.attention_bias = "attention_bias" in keys.defaults and keys.flag("attention_bias")
        self.mlp_bias = self.type == "llama" and keys.flag("mlp_bias")
        self.rotary = 1.0
        if self.type == "phi3":
            self.rotary = keys.number("partial_rotary_factor", 0.0, 1.0)
        self.experts = self._experts()

    def _experts(self) -> tuple[int, int, int] | None:
        """(experts, active, width of one) of a MoE."""
        keys = self.keys
        if self.type not in ("mixtral", "qwen3_moe"):
            return None
        qwen = self.type == "qwen3_moe"
        experts = keys.integer("num_experts" if qwen else "num_local_experts", low=0 if qwen else 1)
        if not experts:
            return None
        active = keys.integer("num_experts_per_tok")
        if active > experts:
            raise keys.error("num_experts_per_tok", f"is {active}, more than the {experts} experts")
        width = keys.integer("moe_intermediate_size" if qwen else "intermediate_size")
        return experts, active, width

    def block(self, index: int, window: int | None) -> Block:
        at = f"model.layers.{index}"
        parts: list[Part] = [self.norm("input_norm", f"{at}.input_layernorm")]
        parts += self.attention(f"{at}.self_attn", window)
        if self.type == "gemma2":
            parts += [
                self.norm("attention_norm", f"{at}.post_attention_layernorm"),
                self.elementwise("attention_add", "add", self.hidden, reads=2),
                self.norm("mlp_norm", f"{at}.pre_feedforward_layernorm"),
                *self.mlp(f"{at}.mlp"),
                self.norm("mlp_out_norm", f"{at}.post_feedforward_layernorm"),
            ]
        else:
            parts += [
                self.elementwise("attention_add", "add", self.hidden, reads=2),
                self.norm("mlp_norm", f"{at}.post_attention_layernorm"),
                *(self.moe(f"{at}.mlp") if self._is_sparse(index) else self.mlp(f"{at}.mlp")),
            ]
        parts.append(self.elementwise("mlp_add", "add", self.hidden, reads=2))
        return Block(name=f"layers.{index}", parts=tuple(parts))

    def _is_sparse(self, index: int) -> bool:
        if self.experts is None or self.type == "mixtral":
            return self.experts is not None
        step = self.keys.integer("decoder_sparse_step")
        return index not in self.keys.integers("mlp_only_layers") and (index + 1) % step == 0

    def attention(self, at: str, window: int | None) -> list[Part]:
        """Projections, head norms, rotation, attention; q, k and v come after the norm."""
        q_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        start: tuple[str, ...] = ("input_norm",)
        parts: list[Part] = []
        if self.type == "phi3":
            parts.append(self.linear("qkv", f"{at}.qkv_proj", self.hidden, q_width + 2 * kv_width))
            queries, keys, values = ("qkv",), ("qkv",), ("qkv",)
        else:
            bias = self.attention_bias or self.type == "qwen2"
            for name, width in (("q", q_width), ("k", kv_width), ("v", kv_width)):
                path = f"{at}.{name}_proj"
                parts.append(self.linear(name, path, self.hidden, width, bias=bias, after=start))
            queries, keys, values = ("q",), ("k",), ("v",)
        if self.type in ("qwen3", "qwen3_moe"):
            parts += [
                self.norm("q_norm", f"{at}.q_norm", self.head_dim, self.heads, after=queries),
                self.norm("k_norm", f"{at}.k_norm", self.head_dim, self.kv_heads, after=keys),
            ]
            queries, keys = ("q_norm",), ("k_norm",)
        rotated = int(self.head_dim * self.rotary) * (self.heads + self.kv_heads)
        if rotated:
            parts.append(
                self.elementwise(
                    "rope",
                    "rope",
                    rotated,
                    flops=_ROPE_FLOPS,
                    after=tuple(dict.fromkeys((*queries, *keys))),
                )
            )
            queries, keys = ("rope",), ("rope",)
        parts.append(
            Attention(
                name="attention", heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim,
                window=window, kv_format=self.form["activation_format"],
                after=tuple(dict.fromkeys((*queries, *keys, *values))), **self.form,
            )
        )  # fmt: skip
        bias = self.attention_bias
        parts.append(self.linear("o", f"{at}.o_proj", q_width, self.hidden, bias=bias, shard="row"))
        return parts

    def mlp(self, at: str) -> list[Part]:
        """gate and up after the norm, their product, down."""
        width = self.keys.integer("intermediate_size")
        bias, start = self.mlp_bias, ("mlp_norm",)
        if self.type == "phi3":
            fused = self.linear("gate_up", f"{at}.gate_up_proj", self.hidden, 2 * width)
            parts: list[Part] = [fused]
            gated: tuple[str, ...] = ("gate_up",)
        else:
            parts = [
                self.linear(name, f"{at}.{name}_proj", self.hidden, width, bias=bias, after=start)
                for name in ("gate", "up")
            ]
            gated = ("gate", "up")
        down = self.linear("down", f"{at}.down_proj", width, self.hidden, bias=bias, shard="row")
        return [*parts, self.gate(width, after=gated), down]

    def moe(self, at: str) -> list[Part]:
        """Router, experts with one fused gate and up each, weighted sum of the active ones."""
        assert self.experts is not None
        experts, active, width = self.experts
        router = Linear(
            name="router", path=f"{at}.gate", inputs=self.hidden, outputs=experts, **self.form
        )
        stacked = f"{at}.experts"
        moe = MoE(
            name="moe", path=at, experts=experts, active=active, router=router,
            expert=(
                self.linear("gate_up", f"{stacked}.gate_up_proj", self.hidden, 2 * width),
                self.gate(width),
                self.linear("down", f"{stacked}.down_proj", width, self.hidden, shard="row"),
            ),
            **self.form,
        )  # fmt: skip
        mix = self.elementwise("mix", "weighted_sum", self.hidden, reads=active, flops=2 * active)
        return [moe, mix]

    def gate(self, width: int, after: tuple[str, ...] | None = None) -> Elementwise:
        """act(gate) * up."""
        function = f"{self.act.split('_')[0]}_gate"
        flops = activation_flops(self.act) + 1
        return self.elementwise(function, function, width, reads=2, flops=flops, after=after)

    def linear(
        self, name: str, path: str, inputs: int, outputs: int, *,
        bias: bool = False, shard: Any = "column", after: tuple[str, ...] | None = None,
    ) -> Linear:  # fmt: skip
        return Linear(
            name=name, path=path, inputs=inputs, outputs=outputs, bias=bias, shard=shard,
            after=after, **self.form,
        )  # fmt: skip

    def norm(
        self, name: str, path: str, width: int | None = None, copies: int = 1,
        after: tuple[str, ...] | None = None,
    ) -> Norm:  # fmt: skip
        return Norm(
            name=name,
            path=path,
            width=width or self.hidden,
            copies=copies,
            after=after,
            **self.form,
        )

    def elementwise(
        self, name: str, function: str, width: int, *,
        reads: int = 1, flops: int = 1, after: tuple[str, ...] | None = None,
    ) -> Elementwise:  # fmt: skip
        return Elementwise(
            name=name, function=function, width=width, reads=reads, flops_per_element=flops,
            after=after, **self.form,
        )  # fmt: skip
