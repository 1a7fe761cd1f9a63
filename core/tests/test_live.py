"""Live models: opened late, copied whole, exactly the stored values; SmolLM2 as published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from live_cases import FAMILIES, LLAMA  # noqa: E402
from real_assets import fetched  # noqa: E402

from crosslayer.contracts.model import Linear, ModelSpec  # noqa: E402
from crosslayer.errors import InputError  # noqa: E402
from crosslayer.live import TransformersModel  # noqa: E402
from crosslayer.models.directory import open_directory  # noqa: E402
from crosslayer.models.gguf_llama import convert_llama  # noqa: E402
from crosslayer.models.live_params import LiveParams  # noqa: E402
from crosslayer.models.random_model import random_model  # noqa: E402
from crosslayer.models.smollm2 import converted, smollm2  # noqa: E402
from crosslayer.progress import Progress  # noqa: E402

pytestmark = pytest.mark.torch


def same_weights(a: Any, b: Any) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def held_by_bf16(module: Any) -> bool:
    return all(torch.equal(p, p.bfloat16().float()) for p in module.parameters())


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config["model_type"])
def test_a_random_model_is_seeded_and_its_weights_are_bf16_values(config: dict[str, Any]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (random_model(config, seed).live for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert same_weights(first.module, again.module)
    assert not same_weights(first.module, other.module)
    assert held_by_bf16(first.module)
    assert torch.equal(torch.rand(1), expected), "global randomness was used"
    assert sum(p.numel() for p in first.module.parameters()) == random_model(config).spec.parameters


def test_the_byte_tokenizer_gives_every_byte_back() -> None:
    live = random_model(LLAMA).live
    assert live is not None
    text = "".join(map(chr, range(0x180))) + "日本\n\t 12  x"
    ids = live.tokenizer(text)["input_ids"]
    assert ids == list(text.encode())
    assert live.tokenizer.decode(ids) == text


def test_nothing_is_opened_before_it_is_used() -> None:
    opened = []

    def module() -> Any:
        opened.append("module")
        return torch.nn.Linear(2, 2)

    def tokenizer() -> str:
        opened.append("tokenizer")
        return "tokenizer"

    live = TransformersModel(module, tokenizer)
    copy = live.copy()
    assert opened == []
    assert live.module is live.module
    assert opened == ["module"]
    assert copy.module is not live.module
    assert live.tokenizer == "tokenizer"
    assert not live.module.training
    assert not any(p.requires_grad for p in live.module.parameters())


def test_the_spec_alone_needs_no_torch() -> None:
    program = (
        "import sys\n"
        "from crosslayer.models.smollm2 import smollm2\n"
        "from crosslayer.models.live_params import LiveParams\n"
        "assert smollm2(LiveParams(live=False)).spec.parameters == 134515008\n"
        "assert not {'torch', 'transformers', 'gguf'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_copy_is_independent_and_tied_weights_stay_tied() -> None:
    live = random_model(LLAMA).live
    assert live is not None
    before = {name: value.clone() for name, value in live.module.state_dict().items()}
    copy = live.copy()
    assert same_weights(copy.module, live.module)
    with torch.no_grad():
        for parameter in copy.module.parameters():
            parameter.add_(1)
    assert all(torch.equal(live.module.state_dict()[name], before[name]) for name in before)
    assert copy.module.lm_head.weight is copy.module.model.embed_tokens.weight


def test_a_cache_given_by_a_transform_serves_the_module_of_the_copy_too() -> None:
    live = random_model(LLAMA).live
    assert isinstance(live, TransformersModel)
    changed = live.with_module(
        live.copy().module, new_cache=lambda module: [module], chunk_tokens=4
    )
    copy = changed.copy()
    assert changed.new_cache() == [changed.module]
    assert copy.new_cache() == [copy.module]
    assert copy.module is not changed.module
    assert (copy.chunk_tokens, live.chunk_tokens) == (4, None)
    assert type(live.new_cache()).__name__ == "DynamicCache"


def save(folder: Path, dtype: Any = None) -> Any:
    """A random Llama saved as a Hugging Face directory; returns its module as saved."""
    live = random_model(LLAMA).live
    assert live is not None
    module = live.copy().module.to(dtype or torch.bfloat16)
    module.save_pretrained(folder)
    live.tokenizer.save_pretrained(folder)
    return module


@pytest.mark.parametrize(
    "dtype, name", [("bfloat16", "bf16"), ("float16", "fp16"), ("float32", "fp32")]
)
def test_a_directory_opens_with_exactly_the_stored_values_and_says_their_format(
    tmp_path: Path, dtype: str, name: str
) -> None:
    module = save(tmp_path / "model", getattr(torch, dtype))
    artifact = open_directory(tmp_path / "model")
    assert artifact.live is not None
    assert artifact.live.module.dtype == torch.float32
    assert same_weights(artifact.live.module, module.float())
    assert artifact.live.module.lm_head.weight is artifact.live.module.model.embed_tokens.weight
    assert {part.weight_format for _, part in artifact.spec.parts(Linear)} == {name}
    assert artifact.spec.weight_bytes == artifact.spec.parameters * {"fp32": 4}.get(name, 2)
    assert artifact.live.tokenizer("ab")["input_ids"] == [97, 98]


def test_each_part_has_the_format_its_tensor_is_stored_in(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors[name] = tensors[name].float()
    save_file(tensors, file, metadata={"format": "pt"})
    spec = open_directory(tmp_path / "model", live=False).spec
    wide = [part.path for _, part in spec.parts(Linear) if part.weight_format == "fp32"]
    assert wide == ["model.layers.1.self_attn.q_proj"]


def test_the_identity_of_a_directory_changes_with_its_weights(tmp_path: Path) -> None:
    save(tmp_path / "model")
    first = TransformersModel.from_directory(tmp_path / "model").identity
    assert first == TransformersModel.from_directory(tmp_path / "model").identity
    save(tmp_path / "model", torch.float32)
    assert first != TransformersModel.from_directory(tmp_path / "model").identity


def test_pickled_weights_are_refused_and_never_opened(tmp_path: Path) -> None:
    save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no \*\.safetensors weights.*live = false"):
        open_directory(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"not opened")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle"):
        open_directory(tmp_path / "model")
    assert open_directory(tmp_path / "model", live=False).live is None


@pytest.mark.parametrize(
    "content, message",
    [
        (b"short", "not a safetensors file"),
        ((2**40).to_bytes(8, "little") + b"{}", "longer than the file"),
        (None, "stored as F8_E4M3, but only F32, BF16 and F16"),
    ],
)
def test_weights_that_cannot_be_opened_are_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    save(tmp_path / "model")
    if content is None:
        header = json.dumps(
            {"w": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}
        ).encode()
        content = len(header).to_bytes(8, "little") + header + b"\0"
    (tmp_path / "model" / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_directory(tmp_path / "model")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        open_directory(tmp_path / "nowhere")


def test_a_gguf_file_becomes_the_same_model_with_rotary_rows_in_place(tmp_path: Path) -> None:
    module = random_model(LLAMA | {"rope_theta": 5000.0}, seed=3).live
    assert module is not None
    write_gguf(tmp_path / "tiny.gguf", module.module)
    convert_llama(tmp_path / "tiny.gguf", tmp_path / "model", Progress())
    live = open_directory(tmp_path / "model").live
    assert live is not None
    assert same_weights(live.module, module.module)
    assert live.module.config.rope_parameters["rope_theta"] == 5000.0
    assert live.module.config.rms_norm_eps == 1e-6
    ids = live.tokenizer("ab 12")["input_ids"]
    assert [live.tokenizer.convert_ids_to_tokens(i) for i in ids] == ["ab", "Ġ", "1", "2"]


def write_gguf(file: Path, module: Any) -> None:
    """The module as llama.cpp's converter would write it, in fp32."""
    from gguf import GGUFWriter

    config = module.config
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    tokens = ["<end>", "a", "b", "ab", "Ġ", "1", "2", "12", "Ġ1"]
    tokens += [f"<{i}>" for i in range(len(tokens), config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b", "1 2", "Ġ 1"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id):
        add(0)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, parameter in module.named_parameters():
        values = parameter.numpy()
        path = name.removesuffix(".weight").removeprefix("model.")
        if path.startswith("layers."):
            _, number, part = path.split(".", 2)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = len(values) // config.head_dim
                halves = values.reshape(heads, 2, config.head_dim // 2, -1)
                values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
            path = f"blk.{number}.{names[part]}"
        else:
            path = {"embed_tokens": "token_embd", "norm": "output_norm"}[path]
        writer.add_tensor(f"{path}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def real() -> Any:
    fetched("smollm2-135m")
    return smollm2(LiveParams(), Progress())


@pytest.mark.network
def test_smollm2_is_exactly_its_dequantised_weights_rounded_to_bf16(real: Any) -> None:
    from gguf import GGUFReader, dequantize

    module = real.live.module
    assert module.dtype == torch.float32
    assert held_by_bf16(module)
    assert sum(p.numel() for p in module.parameters()) == real.spec.parameters == 134_515_008
    assert real.spec.weight_bytes == 2 * 134_515_008
    tensors = {tensor.name: tensor for tensor in GGUFReader(fetched("smollm2-135m")).tensors}
    for name, path in {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
    }.items():
        exact = dequantize(tensors[name].data, tensors[name].tensor_type)
        # To the nearest 8-bit significand, ties to even, on the bits of the float32.
        bits = np.ascontiguousarray(exact, dtype=np.float32).view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32)
        stored = module.get_parameter(path).numpy().view(np.uint32)
        assert np.array_equal(stored, rounded.reshape(stored.shape))


@pytest.mark.network
def test_smollm2_converted_has_the_shapes_that_ship_as_data(real: Any) -> None:
    spec: ModelSpec = open_directory(converted(Progress()), live=False).spec
    assert spec.replace(name=real.spec.name, source=real.spec.source) == real.spec


@pytest.mark.network
def test_smollm2_reads_numbers_digit_by_digit(real: Any) -> None:
    # The ids that llama.cpp gives; transformers' own GGUF reader joins the digits.
    ids = real.live.tokenizer("x 1234567890 and 42.")["input_ids"]
    assert ids[1:] == [216, 33, 34, 35, 36, 37, 38, 39, 40, 41, 32, 284, 216, 36, 34, 30]


@pytest.mark.network
def test_smollm2_knows_what_comes_next(real: Any) -> None:
    ids = real.live.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        best = real.live.module(ids).logits[0, -1].argmax().item()
    assert real.live.tokenizer.decode([best]) == " Paris"
