"""The transform on real weights: the first blocks of SmolLM2-135M, calibrated on real text."""

from __future__ import annotations

import pytest
from conftest import asset

from crosslayer.contracts.formats import NMSparsity, pack, unpack
from crosslayer.evaluators import nll_and_argmax
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.models.smollm2 import smollm2
from crosslayer.texts import token_windows
from flow_flexcim import Flow, FlowParams
from flow_flexcim.linears import decoder_linears

BLOCKS = 3


@pytest.fixture(scope="module")
def model() -> ModelArtifact:
    """SmolLM2 whose spec ends after BLOCKS decoder blocks: flow prunes what the spec names."""
    asset("wikipedia-sample")
    asset("smollm2-135m")
    whole = smollm2()
    return whole.replace(spec=whole.spec.replace(blocks=whole.spec.blocks[: BLOCKS + 1]))


@pytest.mark.network
def test_real_blocks_are_pruned_to_what_ships_at_a_small_loss(
    model: ModelArtifact, context: RunContext
) -> None:
    assert model.live is not None
    params = FlowParams(
        candidates=("3:8", "4:8", "5:8"), cost="outlier", calibration_tokens=128, window_tokens=64
    )
    result = Flow(params).transform(model, context)
    assert result.live is not None
    for block in decoder_linears(result.spec):
        for linear in block.linears:
            pattern = NMSparsity.parse(str(linear.sparsity))
            weight = result.live.module.get_submodule(str(linear.path)).weight.numpy()
            assert unpack(pack(weight, "bf16", pattern)).tobytes() == weight.tobytes()
    untouched = result.live.module.get_submodule(f"model.layers.{BLOCKS}.mlp.down_proj").weight
    assert (untouched == 0).float().mean() < 0.01

    windows = token_windows(model.live.tokenizer, "wikipedia-sample", "evaluation", 128, 64)
    dense, pruned = (nll_and_argmax(live, windows)[0].mean() for live in (model.live, result.live))
    # Far from both a model that was not changed and one that was destroyed (chance: 10.8 nats).
    assert dense + 0.01 < pruned < dense + 2
