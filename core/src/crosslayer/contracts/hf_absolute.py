"""Blocks of the decoders with learned positions and LayerNorms: GPT-2 and OPT."""

from __future__ import annotations

from typing import Any

from crosslayer.contracts.hf_decoder import activation_flops, formats
from crosslayer.contracts.hf_keys import Keys
from crosslayer.contracts.model import Attention, Block, Elementwise, Embedding, Linear, Norm, Part

_OPT_POSITION_OFFSET = 2  # OPT's table of positions starts two entries late


def gpt2(keys: Keys) -> tuple[Block, ...]:
    """Fused qkv, biases everywhere, norms before the sublayers; Conv1D is a Linear here."""
    if keys.flag("add_cross_attention"):
        problem = "is true; only decoders without cross attention are known"
        raise keys.error("add_cross_attention", problem)
    form = formats(keys)
    hidden, vocabulary = keys.integer("hidden_size"), keys.integer("vocab_size")
    inner = keys.optional_integer("n_inner") or 4 * hidden
    tied = keys.flag("tie_word_embeddings")

    def layer(index: int) -> Block:
        at = f"transformer.h.{index}"
        parts: list[Part] = [
            _norm("attention_norm", f"{at}.ln_1", hidden, form),
            _linear("qkv", f"{at}.attn.c_attn", hidden, 3 * hidden, form),
            _attention(keys, form),
            _linear("o", f"{at}.attn.c_proj", hidden, hidden, form, shard="row"),
            _add("attention_add", hidden, form),
            _norm("mlp_norm", f"{at}.ln_2", hidden, form),
            _linear("fc1", f"{at}.mlp.c_fc", hidden, inner, form),
            _activation(keys, inner, form),
            _linear("fc2", f"{at}.mlp.c_proj", inner, hidden, form, shard="row"),
            _add("mlp_add", hidden, form),
        ]
        return Block(name=f"layers.{index}", parts=tuple(parts))

    positions = keys.integer("max_position_embeddings")
    lookup: tuple[Part, ...] = (
        Embedding(name="embed", path="transformer.wte", entries=vocabulary, width=hidden, **form),
        Embedding(
            name="positions",
            path="transformer.wpe",
            entries=positions,
            width=hidden,
            after=(),
            **form,
        ),
        _add("positions_add", hidden, form, after=("embed", "positions")),
    )
    norm = _norm("norm", "transformer.ln_f", hidden, form)
    head = (norm, _lm_head(hidden, vocabulary, tied, form))
    return (
        Block(name="embedding", parts=lookup),
        *(layer(index) for index in range(keys.integer("num_hidden_layers"))),
        Block(name="head", parts=head),
    )


def opt(keys: Keys) -> tuple[Block, ...]:
    """Biases by enable_bias, norms before or after the sublayers, word embeddings of own width."""
    form = formats(keys)
    hidden, vocabulary = keys.integer("hidden_size"), keys.integer("vocab_size")
    word = keys.optional_integer("word_embed_proj_dim") or hidden
    inner, bias = keys.integer("ffn_dim"), keys.flag("enable_bias")
    before, affine = keys.flag("do_layer_norm_before"), keys.flag("layer_norm_elementwise_affine")
    tied = keys.flag("tie_word_embeddings")

    def layer(index: int) -> Block:
        at = f"model.decoder.layers.{index}"
        start = ("attention_norm",) if before else ()
        attention: list[Part] = [
            *(
                _linear(q, f"{at}.self_attn.{q}_proj", hidden, hidden, form, bias, after=start)
                for q in ("q", "k", "v")
            ),
            _attention(keys, form, after=("q", "k", "v")),
            _linear("o", f"{at}.self_attn.out_proj", hidden, hidden, form, bias, shard="row"),
            _add("attention_add", hidden, form),
        ]
        mlp: list[Part] = [
            _linear("fc1", f"{at}.fc1", hidden, inner, form, bias),
            _activation(keys, inner, form),
            _linear("fc2", f"{at}.fc2", inner, hidden, form, bias, shard="row"),
            _add("mlp_add", hidden, form),
        ]
        first = _norm("attention_norm", f"{at}.self_attn_layer_norm", hidden, form, affine)
        second = _norm("mlp_norm", f"{at}.final_layer_norm", hidden, form, affine)
        if before:
            return Block(name=f"layers.{index}", parts=(first, *attention, second, *mlp))
        return Block(name=f"layers.{index}", parts=(*attention, first, *mlp, second))

    entries = keys.integer("max_position_embeddings") + _OPT_POSITION_OFFSET
    at = "model.decoder"
    lookup: list[Part] = [
        Embedding(name="embed", path=f"{at}.embed_tokens", entries=vocabulary, width=word, **form)
    ]
    head: list[Part] = []
    if before and not keys.flag("_remove_final_layer_norm"):
        head.append(_norm("norm", f"{at}.final_layer_norm", hidden, form, affine))
    if word != hidden:
        project_in, project_out = f"{at}.project_in", f"{at}.project_out"
        lookup.append(_linear("project_in", project_in, word, hidden, form, False, shard=None))
        head.append(_linear("project_out", project_out, hidden, word, form, False, shard=None))
    embedded = lookup[-1].name
    lookup += [
        Embedding(
            name="positions", path=f"{at}.embed_positions", entries=entries, width=hidden, after=(),
            **form,
        ),
        _add("positions_add", hidden, form, after=(embedded, "positions")),
    ]  # fmt: skip
    head.append(_lm_head(word, vocabulary, tied, form))
    return (
        Block(name="embedding", parts=tuple(lookup)),
        *(layer(index) for index in range(keys.integer("num_hidden_layers"))),
        Block(name="head", parts=tuple(head)),
    )


def _attention(keys: Keys, form: dict[str, Any], after: tuple[str, ...] | None = None) -> Attention:
    heads = keys.integer("num_attention_heads")
    return Attention(
        name="attention", heads=heads, kv_heads=heads,
        head_dim=keys.multiple("hidden_size", "num_attention_heads"),
        kv_format=form["activation_format"], after=after, **form,
    )  # fmt: skip


def _activation(keys: Keys, width: int, form: dict[str, Any]) -> Elementwise:
    function = keys.text("activation_function")
    return Elementwise(
        name="activation", function=function, width=width,
        flops_per_element=activation_flops(function), **form,
    )  # fmt: skip


def _linear(
    name: str, path: str, inputs: int, outputs: int, form: dict[str, Any], bias: bool = True, *,
    shard: Any = "column", after: tuple[str, ...] | None = None,
) -> Linear:  # fmt: skip
    return Linear(
        name=name, path=path, inputs=inputs, outputs=outputs, bias=bias, shard=shard, after=after,
        **form,
    )  # fmt: skip


def _norm(name: str, path: str, width: int, form: dict[str, Any], affine: bool = True) -> Norm:
    return Norm(name=name, path=path, width=width, weight=affine, bias=affine, **form)


def _add(
    name: str, width: int, form: dict[str, Any], after: tuple[str, ...] | None = None
) -> Elementwise:
    return Elementwise(name=name, function="add", width=width, reads=2, after=after, **form)


def _lm_head(inputs: int, vocabulary: int, tied: bool, form: dict[str, Any]) -> Linear:
    return Linear(
        name="lm_head", path="lm_head", rows="logits", inputs=inputs, outputs=vocabulary, tied=tied,
        shard="column", **form,
    )  # fmt: skip
