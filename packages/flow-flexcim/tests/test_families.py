"""Random models of every covered family, pruned by every metric: correctness only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY

from crosslayer.contracts.formats import NMSparsity
from crosslayer.kinds import RunContext
from crosslayer.models.random_model import random_model
from crosslayer.progress import Progress
from flow_flexcim import Flow, FlowParams
from flow_flexcim.blockwise import Blockwise
from flow_flexcim.calibration import dense_inputs
from flow_flexcim.linears import decoder_linears
from flow_flexcim.modules import decoder_modules, live_linears, weight_of

SSM = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 320, "time_step_rank": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**TINY, "num_hidden_layers": 2},
    "opt": {
        "model_type": "opt", "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 320, "word_embed_proj_dim": 64,
        "max_position_embeddings": 256,
    },
    "gpt2": {
        "model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 320,
        "n_positions": 256, "bos_token_id": 1, "eos_token_id": 1,
    },
    "mamba": {"model_type": "mamba", **SSM},
    "falcon_mamba": {"model_type": "falcon_mamba", **SSM},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("metric", "how"),
    [("magnitude", "dense"), ("wanda", "sequential"), ("sparsegpt", "sequential")],
)
def test_each_family_is_pruned_to_its_patterns_by_each_metric(
    family: str, metric: str, how: str, text: str, tmp_path: Path
) -> None:
    model = random_model(FAMILIES[family], seed=1)
    params = FlowParams.model_validate(
        {
            "metric": metric,
            "calibration_inputs": how,
            "calibration_text": text,
            "calibration_tokens": 128,
            "window_tokens": 64,
            "candidates": ("1:4", "2:4", "3:4"),
            "cost": "recon",
        }
    )
    result = Flow(params).transform(model, RunContext(seed=0, output=tmp_path))
    assert result.live is not None and model.live is not None
    blocks = decoder_linears(result.spec)
    live = live_linears(result.live.module, blocks)
    before = live_linears(model.live.module, blocks)
    moved = 0
    for block in blocks:
        for linear in block.linears:
            path = str(linear.path)
            weight, original = weight_of(live[path]), weight_of(before[path])
            NMSparsity.parse(str(linear.sparsity)).check(weight.numpy())
            kept = weight != 0
            moved += int((weight[kept] != original[kept]).sum())
    assert (moved > 0) == (metric == "sparsegpt"), "only SparseGPT changes what stays"
    again = Flow(params).restore(model, result.files, RunContext(seed=0, output=tmp_path))
    assert again.live is not None
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        a, b = (m.module(input_ids=ids).logits for m in (result.live, again.live))
    assert torch.equal(a, b)
    assert torch.isfinite(a).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_has_second_moments_over_its_mean_squares(family: str) -> None:
    model = random_model(FAMILIES[family], seed=1)
    assert model.live is not None
    blocks = decoder_linears(model.spec)
    linears = live_linears(model.live.module, blocks)
    windows = np.arange(64, dtype=np.int64).reshape(2, 32)
    found = dense_inputs(model.live.module, linears, windows, Progress(), products=True)
    for path, linear in linears.items():
        products = found[path].products
        assert products is not None
        assert products.shape == (weight_of(linear).shape[1],) * 2
        torch.testing.assert_close(
            products.diagonal().double(), found[path].mean_square, rtol=1e-4, atol=1e-12
        )
    if family == "llama":
        q, k = (found[f"model.layers.0.self_attn.{name}_proj"].products for name in "qk")
        assert q is k, "one input, one matrix"


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba"])
def test_the_inputs_of_a_projection_that_is_not_called_are_those_it_multiplies(family: str) -> None:
    # dt_proj's weight is used without a call; what it multiplies is the start of x_proj's output,
    # which Falcon-Mamba normalises.
    model = random_model(FAMILIES[family], seed=1)
    assert model.live is not None
    linears = live_linears(model.live.module, decoder_linears(model.spec))
    path = next(path for path in linears if "layers.1." in path and path.endswith("dt_proj"))
    x_proj = linears[path.replace("dt_proj", "x_proj")]
    seen: list[torch.Tensor] = []
    handle = x_proj.register_forward_hook(lambda _, __, output: seen.append(output))
    windows = np.arange(64, dtype=np.int64).reshape(2, 32)
    found = dense_inputs(model.live.module, linears, windows, Progress())[path].mean_square
    handle.remove()
    step = torch.cat(seen, dim=1)[0, :, : SSM["time_step_rank"]].double()
    if family == "falcon_mamba":
        step = step * (step.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    torch.testing.assert_close(found, step.square().mean(0), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_from_a_later_block_equals_the_whole_run(family: str) -> None:
    model = random_model(FAMILIES[family], seed=1)
    assert model.live is not None
    blocks = decoder_linears(model.spec)
    modules = decoder_modules(model.live.module, blocks)
    runner = Blockwise(model.live.module, modules, np.arange(96, dtype=np.int64).reshape(2, 48))
    whole = runner.nll(keep=True)
    assert torch.equal(runner.nll(start=1), whole)
    weight = weight_of(live_linears(model.live.module, blocks)[str(blocks[1].linears[0].path)])
    with torch.no_grad():
        weight.mul_(0.5)
    changed = runner.nll(start=1)
    assert not torch.equal(changed, whole)
    assert torch.equal(changed, runner.nll())
    for run in runner.runs(1):
        run()
    assert not any("forward" in vars(module) for module in modules)
    assert not any(module._forward_hooks for module in modules)
