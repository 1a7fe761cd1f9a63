"""Specs from config.json against the modules that transformers builds from the same dict."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hf_cases import CASES, PUBLISHED

from crosslayer.contracts.hf_config import MODEL_TYPES, spec_from_config, spec_from_directory
from crosslayer.contracts.hf_defaults import DEFAULTS
from crosslayer.contracts.model import (
    Attention,
    Conv,
    Elementwise,
    Embedding,
    Linear,
    ModelSpec,
    MoE,
    Norm,
    SelectiveScan,
)
from crosslayer.errors import InputError


@cache
def spec_of(case: str) -> ModelSpec:
    return ModelSpec.from_hf_config(CASES[case])


@cache
def live(case: str) -> Any:
    """The module of transformers on the meta device: shapes without storage."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    keys = {k: v for k, v in CASES[case].items() if k not in ("_source", "model_type")}
    config = transformers.AutoConfig.for_model(CASES[case]["model_type"], **keys)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@cache
def tensors_by_path(case: str) -> dict[str, dict[str, Any]]:
    """The tensors that each module holds itself, by the module's path; a bare tensor by its own."""
    found: dict[str, dict[str, Any]] = {}
    for name, tensor in live(case).named_parameters(remove_duplicate=False):
        found.setdefault(name.rpartition(".")[0], {})[name] = tensor
        if ".experts." in name:
            found[name] = {name: tensor}
    return found


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_parameters_equal_the_live_module(case: str) -> None:
    assert spec_of(case).parameters == live(case).num_parameters()


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_every_path_is_a_live_module_with_exactly_these_weights(case: str) -> None:
    spec, model = spec_of(case), live(case)
    seen: set[str] = set()
    experts = 1
    for _, part in spec.parts():
        if isinstance(part, MoE):
            experts = part.experts
            whole = sum(p.numel() for p in model.get_submodule(part.path).parameters())
            assert part.parameters == whole, part.path
            continue
        if part.path is None:
            assert part.parameters == 0, part.name
            continue
        tensors = tensors_by_path(case).get(part.path, {})
        stacked = experts if part.path in tensors else 1
        if not getattr(part, "tied", False):
            count = sum(tensor.numel() for tensor in tensors.values())
            assert stacked * part.parameters == count, part.path
            assert not seen & set(tensors), part.path
        seen |= set(tensors)
    assert seen == {name for name, _ in model.named_parameters(remove_duplicate=False)}


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_shapes_and_biases_are_those_of_the_live_tensors(case: str) -> None:
    spec = spec_of(case)
    for _, part in spec.parts(Linear, Embedding, Norm, Conv):
        tensors = tensors_by_path(case).get(part.path, {})
        weight = tensors.get(f"{part.path}.weight", tensors.get(part.path))
        assert (f"{part.path}.bias" in tensors) == getattr(part, "bias", False), part.path
        if isinstance(part, Linear):
            shape = tuple(weight.shape[-2:])
            if spec.family == "gpt2" and part.name != "lm_head":
                shape = shape[::-1]  # its Conv1D holds [inputs, outputs]
            assert shape == (part.outputs, part.inputs), part.path
        elif isinstance(part, Embedding):
            assert tuple(weight.shape) == (part.entries, part.width), part.path
        elif isinstance(part, Norm):
            assert (weight is not None) == part.weight, part.path
            assert weight is None or tuple(weight.shape) == (part.width,), part.path
        else:
            shape = (part.out_channels, part.in_channels // part.groups, part.kernel_w)
            assert tuple(weight.shape) == shape, part.path


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_a_tied_head_reads_the_embedding(case: str) -> None:
    model = live(case)
    (head,) = [part for _, part in spec_of(case).parts(Linear) if part.name == "lm_head"]
    assert head.tied == (model.lm_head.weight is model.get_input_embeddings().weight)
    assert head.rows == "logits"


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_heads_and_windows_are_those_of_the_live_attention(case: str) -> None:
    model = live(case)
    modules = [m for name, m in model.named_modules() if name.endswith((".self_attn", ".attn"))]
    parts = [part for _, part in spec_of(case).parts(Attention)]
    assert len(parts) == len(modules)
    for part, module in zip(parts, modules, strict=True):
        heads = model.config.num_attention_heads
        assert part.heads == heads
        assert part.kv_heads == getattr(model.config, "num_key_value_heads", heads)
        assert part.head_dim == module.head_dim
        shared = getattr(model.config, "sliding_window", None)  # Mistral and Phi-3 keep it there
        assert part.window == getattr(module, "sliding_window", shared)


@pytest.mark.torch
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    transformers = pytest.importorskip("transformers")
    kind = type(transformers.AutoConfig.for_model(model_type))
    theirs = {field.name: field.default for field in dataclasses.fields(kind)}
    for key, value in DEFAULTS[model_type].items():
        spelled = getattr(kind, "attribute_map", {}).get(key, key)
        spelled = key if key in theirs else spelled
        if key == "partial_rotary_factor":  # a key of its rope parameters
            assert transformers.AutoConfig.for_model(model_type).rope_parameters[key] == value
            continue
        assert theirs[spelled] == value, key


@pytest.mark.parametrize("case", PUBLISHED)
def test_totals_are_the_published_ones(case: str) -> None:
    assert spec_of(case).parameters == PUBLISHED[case]


def test_alternating_windows_start_with_a_window() -> None:
    windows = [part.window for _, part in spec_of("gemma2 defaults").parts(Attention)]
    assert windows == [4096, None] * 13
    assert len(spec_of("gemma2 defaults").attention_classes) == 2


def test_only_layers_from_max_window_layers_on_have_a_window() -> None:
    windows = [part.window for _, part in spec_of("qwen2 with late windows").parts(Attention)]
    assert windows == [None, None, None, 1024]


def test_a_window_that_is_switched_off_is_ignored() -> None:
    for model_type in ("qwen2", "qwen3", "qwen3_moe"):
        config = {"model_type": model_type, "sliding_window": 512, "use_sliding_window": False}
        assert {p.window for _, p in spec_from_config(config).parts(Attention)} == {None}


def test_queries_keys_and_values_start_from_the_norm_and_meet_in_attention() -> None:
    block = next(b for b in spec_of("qwen3 defaults").blocks if b.name == "layers.0")
    after = {part.name: part.after for part in block.parts}
    assert after["q"] == after["k"] == after["v"] == ("input_norm",)
    assert (after["q_norm"], after["k_norm"]) == (("q",), ("k",))
    assert after["rope"] == ("q_norm", "k_norm")
    assert after["attention"] == ("rope", "v")
    assert after["gate"] == after["up"] == ("mlp_norm",)
    assert after["silu_gate"] == ("gate", "up")


def test_tensor_parallel_cuts_pair_columns_with_rows() -> None:
    shards = {part.name: part.shard for _, part in spec_of("llama defaults").parts(Linear)}
    assert {name for name, cut in shards.items() if cut == "row"} == {"o", "down"}
    assert all(cut is not None for cut in shards.values())
    shards = {part.name: part.shard for _, part in spec_of("mamba defaults").parts(Linear)}
    assert shards["in_proj"] == shards["dt_proj"] == "column"
    assert shards["x_proj"] == shards["out_proj"] == "row"


def test_a_norm_before_or_after_the_sublayer_is_where_opt_has_it() -> None:
    def order(case: str) -> list[str]:
        block = next(b for b in spec_of(case).blocks if b.name == "layers.0")
        return [part.name for part in block.parts if part.name.endswith(("norm", "add"))]

    assert order("opt defaults") == ["attention_norm", "attention_add", "mlp_norm", "mlp_add"]
    assert order("facebook/opt-350m") == ["attention_add", "attention_norm", "mlp_add", "mlp_norm"]


def test_gemma2_caps_its_logits_unless_told_not_to() -> None:
    def caps(case: str) -> int:
        parts = spec_of(case).parts(Elementwise)
        return sum(part.function == "softcap" for _, part in parts)

    assert caps("gemma2 defaults") == 1
    assert caps("gemma2 untied with bias") == 0


def test_a_mamba2_state_is_channels_times_state_and_the_last_conv_inputs() -> None:
    # 64 layers: 8192 channels x 128 states in fp32, and 3 inputs of 8192 + 2 x 8 x 128 in bf16
    expected = 64 * (8192 * 128 * 4 + 3 * 10240 * 2)
    assert spec_of("mamba2 defaults").state_bytes == expected
    scans = [part for _, part in spec_of("mamba2 defaults").parts(SelectiveScan)]
    assert {part.heads for part in scans} == {128}
    assert {part.heads for _, part in spec_of("mamba defaults").parts(SelectiveScan)} == {None}


@pytest.mark.parametrize(
    ("keys", "form"),
    [
        ({}, "bf16"),
        ({"torch_dtype": "float16"}, "fp16"),
        ({"dtype": "float32", "torch_dtype": "float16"}, "fp32"),
        ({"dtype": "torch.bfloat16"}, "bf16"),
        ({"dtype": None}, "bf16"),
    ],
)
def test_dtype_gives_the_format_of_weights_and_cache(keys: dict[str, Any], form: str) -> None:
    spec = spec_from_config({"model_type": "llama", **keys})
    assert {(part.weight_format, part.activation_format) for _, part in spec.parts()} == {
        (form, form)
    }
    assert {part.kv_format for _, part in spec.parts(Attention)} == {form}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "lama"}, "unknown model_type 'lama'; did you mean 'llama'?"),
        ({"hidden_size": 4}, "model_type is None"),
        ({"model_type": 7}, "model_type is 7"),
        ({"model_type": "llama", "hidden_size": 4100}, "hidden_size is 4100, no multiple of num_a"),
        ({"model_type": "gpt2", "n_embd": 770}, "n_embd is 770, no multiple of n_head 12"),
        ({"model_type": "llama", "num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"model_type": "llama", "num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
        ({"model_type": "llama", "num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"model_type": "gpt2", "n_layer": "12"}, "n_layer is '12'"),
        ({"model_type": "llama", "vocab_size": None}, "vocab_size is null"),
        ({"model_type": "llama", "vocab_size": 0}, "vocab_size is 0"),
        ({"model_type": "llama", "num_key_value_heads": 5}, "num_key_value_heads is 5, which does"),
        (
            {"model_type": "llama", "attention_bias": "no"},
            "attention_bias is 'no'; it must be true",
        ),
        ({"model_type": "llama", "hidden_act": 3}, "hidden_act is 3"),
        (
            {"model_type": "gemma2", "layer_types": ["full_attention"]},
            "one type for each of the 26",
        ),
        ({"model_type": "gemma2", "num_hidden_layers": 1, "layer_types": ["x"]}, "has 'x'; use"),
        (
            {"model_type": "mixtral", "num_experts_per_tok": 9},
            "num_experts_per_tok is 9, more than",
        ),
        ({"model_type": "qwen3_moe", "mlp_only_layers": 3}, "mlp_only_layers is 3"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        ({"model_type": "mamba2", "num_heads": 64}, "num_heads is 64; num_heads * head_dim must"),
        ({"model_type": "mamba2", "n_groups": 3}, "n_groups is 3"),
        ({"model_type": "mamba", "time_step_rank": "big"}, "time_step_rank is 'big'"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention is true"),
        ({"model_type": "phi3", "partial_rotary_factor": 2}, "partial_rotary_factor is 2"),
        ({"model_type": "llama", "quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_what_makes_no_model_is_refused_by_key(config: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        spec_from_config(config)
    assert words in str(caught.value)


def test_something_else_than_a_table_is_refused() -> None:
    with pytest.raises(InputError, match="not list"):
        spec_from_config([])  # type: ignore[arg-type]


def test_a_directory_is_read_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CASES["smollm2-135m"]))
    spec = spec_from_directory(folder)
    assert (spec.name, spec.parameters) == ("my model", 134_515_008)


def test_a_broken_directory_is_located(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        spec_from_directory(tmp_path)
    with pytest.raises(InputError, match="nowhere: is no directory"):
        spec_from_directory(tmp_path / "nowhere")
    file = tmp_path / "config.json"
    file.write_text('{\n"model_type": }')
    with pytest.raises(InputError, match=r"config\.json:2: is not JSON"):
        spec_from_directory(tmp_path)
    file.write_text("[1]")
    with pytest.raises(InputError, match=r"config\.json: .*not list"):
        spec_from_directory(tmp_path)
    file.write_text('{"model_type": "lama"}')
    with pytest.raises(InputError, match=r"config\.json: .*did you mean 'llama'"):
        spec_from_directory(tmp_path)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        spec_from_directory(tmp_path)
