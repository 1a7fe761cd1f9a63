"""The transform on small live models, on specs alone, and on what it must refuse."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from crosslayer.contracts.formats import NMSparsity, pack, unpack
from crosslayer.contracts.model import Linear, ModelSpec
from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.models.random_model import random_model
from flow_flexcim import Flow, FlowParams
from flow_flexcim.linears import BlockLinears, decoder_linears
from flow_flexcim.modules import live_linears, weight_of
from flow_flexcim.plan import level_plan, uniform_plan
from flow_flexcim.prune import calibrate, calibration_windows
from flow_flexcim.signals import block_signals
from flow_flexcim.wanda import keep_mask, scores


def flow(text: str, **values: Any) -> Flow:
    small = {
        "calibration_text": text, "calibration_tokens": 256, "window_tokens": 64, "cost": "outlier"
    }  # fmt: skip
    return Flow(FlowParams.model_validate(small | values))


def weights(model: ModelArtifact) -> dict[str, torch.Tensor]:
    assert model.live is not None
    return {name: value.detach().clone() for name, value in model.live.module.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a
    )


def metric(model: ModelArtifact, name: str) -> float:
    return next(found.value for found in model.metrics if found.name == name)


def test_live_weights_and_spec_say_the_same_and_nothing_else_changes(
    tiny: ModelArtifact, context: RunContext, text: str
) -> None:
    before = weights(tiny)
    result = flow(text, candidates=["1:4", "5:8", "8:16", "4:4"]).transform(tiny, context)
    assert same(before, weights(tiny)), "the input was changed"

    after = weights(result)
    pruned = {linear.path: linear for b in decoder_linears(result.spec) for linear in b.linears}
    assert len(pruned) == 21  # 3 blocks of q, k, v, o, gate, up, down
    kept = total = 0
    for name, value in after.items():
        path = name.removesuffix(".weight")
        if path not in pruned:
            assert torch.equal(value, before[name]), f"{name} is no block linear"
            continue
        assert ((value == before[name]) | (value == 0)).all(), "there is no weight update"
        density = 1.0
        if pruned[path].sparsity is not None:
            pattern = NMSparsity.parse(pruned[path].sparsity)
            pattern.check(value.numpy())
            density = pattern.density
        kept += value.numel() * density
        total += value.numel()
    assert metric(result, "flow_sparsity") == pytest.approx(1 - kept / total)
    assert metric(result, "flow_sparsity") >= 0.5
    assert result.spec.parameters == tiny.spec.parameters
    assert all(part.sparsity is None for _, part in result.spec.parts(Linear) if part.tied)


def test_the_mask_keeps_the_largest_scores_of_the_calibration_text(
    tiny: ModelArtifact, context: RunContext, text: str
) -> None:
    assert tiny.live is not None
    transform = flow(text, plan="uniform", pattern="2:4")
    windows = calibration_windows(tiny.live, transform.params, context)
    blocks = decoder_linears(tiny.spec)
    inputs = calibrate(tiny.live, blocks, windows, transform.params, context)
    result = transform.transform(tiny, context)
    assert result.live is not None
    path = "model.layers.1.mlp.down_proj"
    dense = tiny.live.module.get_submodule(path).weight
    keep = keep_mask(scores(dense, inputs[path].mean_square), NMSparsity(2, 4))
    assert torch.equal(result.live.module.get_submodule(path).weight, torch.where(keep, dense, 0.0))
    assert keep.float().mean() == 0.5
    assert not torch.equal(keep, keep_mask(dense.abs(), NMSparsity(2, 4))), "norms had no effect"


def test_sequential_masks_see_the_inputs_of_a_model_whose_earlier_blocks_are_pruned(
    tiny: ModelArtifact, context: RunContext, text: str
) -> None:
    assert tiny.live is not None
    transform = flow(text, plan="uniform", pattern="2:4", calibration_inputs="sequential")
    windows = calibration_windows(tiny.live, transform.params, context)
    blocks, pattern = decoder_linears(tiny.spec), NMSparsity(2, 4)
    result = transform.transform(tiny, context)
    assert result.live is not None
    after = live_linears(result.live.module, blocks)
    # The last block dense again, as it was when its inputs were looked at.
    before = live_linears(tiny.live.module, blocks)
    half = result.live.copy()
    for spec in blocks[2].linears:
        with torch.no_grad():
            live_linears(half.module, blocks)[str(spec.path)].weight.copy_(  # type: ignore[operator]
                before[str(spec.path)].weight
            )
    seen = calibrate(half, blocks, windows, transform.params, context)
    dense = calibrate(tiny.live, blocks, windows, transform.params, context)
    differ = 0
    for path in (str(spec.path) for spec in blocks[2].linears):
        weight = weight_of(before[path])
        keep = keep_mask(scores(weight, seen[path].mean_square), pattern)
        assert torch.equal(weight_of(after[path]), torch.where(keep, weight, 0.0))
        differ += int((keep != keep_mask(scores(weight, dense[path].mean_square), pattern)).sum())
    assert differ > 0


def test_magnitude_looks_at_no_input_in_its_mask_nor_in_its_signals(
    tiny: ModelArtifact, context: RunContext, text: str
) -> None:
    assert tiny.live is not None
    result = flow(text, plan="uniform", pattern="2:4", metric="magnitude").transform(tiny, context)
    assert result.live is not None
    blocks, pattern = decoder_linears(tiny.spec), NMSparsity(2, 4)
    before, after = (live_linears(m.module, blocks) for m in (tiny.live, result.live))
    for block, row in zip(blocks, result.tables[0].rows, strict=True):
        weights = [weight_of(before[str(spec.path)]).detach() for spec in block.linears]
        for spec, weight in zip(block.linears, weights, strict=True):
            keep = keep_mask(weight.abs(), pattern)
            assert torch.equal(weight_of(after[str(spec.path)]), torch.where(keep, weight, 0.0))
        ones = [torch.ones(weight.shape[1], dtype=torch.float64) for weight in weights]
        found = block_signals(weights, ones, [pattern], 5.0)
        assert row[3:] == (found.outlier_density, *found.dropped, *found.error)


def test_owl_takes_the_largest_m_of_patterns_that_keep_as_many(
    tiny: ModelArtifact, context: RunContext, text: str
) -> None:
    candidates = ["1:4", "2:4", "3:4", "2:8", "4:8", "6:8"]
    result = flow(text, plan="owl", candidates=candidates).transform(tiny, context)
    assert {str(row[1]).partition(":")[2] for row in result.tables[0].rows} == {"8"}


def test_the_file_holds_exactly_the_bytes_that_the_spec_says(
    context: RunContext, text: str
) -> None:
    model = random_model(TINY | {"attention_bias": True, "mlp_bias": True}, seed=2)
    result = flow(text, candidates=["3:8", "8:16", "4:4"]).transform(model, context)
    file = result.files["linears"]
    assert file.is_relative_to(context.output)
    raw = file.read_bytes()
    (header,) = struct.unpack("<Q", raw[:8])
    shipped = sum(block.weight_bytes for block in decoder_linears(result.spec))
    assert len(raw) - 8 - header == shipped == metric(result, "flow_weight_bytes")
    described = json.loads(json.loads(raw[8 : 8 + header])["__metadata__"]["flow"])
    for block in decoder_linears(result.spec):
        for linear in block.linears:
            weight = described["linears"][linear.path]["weight"]
            assert (weight["pattern"] or "4:4") == (linear.sparsity or "4:4")


def test_a_restored_model_is_the_pruned_one_bit_for_bit(
    context: RunContext, text: str, tmp_path: Path
) -> None:
    model = random_model(TINY | {"attention_bias": True}, seed=2)
    transform = flow(text, candidates=["3:8", "8:16", "4:4"], cost="recon")
    result = transform.transform(model, context)
    moved = tmp_path / "elsewhere.safetensors"
    result.files["linears"].rename(moved)
    again = transform.restore(
        random_model(TINY | {"attention_bias": True}, seed=2), {"linears": moved}, context
    )
    assert (again.spec, again.history) == (result.spec, result.history)
    assert same(weights(again), weights(result))


def test_a_file_of_another_model_is_refused(
    tiny: ModelArtifact, context: RunContext, text: str, tmp_path: Path
) -> None:
    transform = flow(text)
    result = transform.transform(tiny, context)
    deeper = random_model(TINY | {"num_hidden_layers": 4}, seed=1)
    with pytest.raises(InputError, match=r"lacks model\.layers\.3\.mlp\.down_proj and 6 others"):
        transform.restore(deeper, result.files, context)
    wider = random_model(TINY | {"intermediate_size": 192}, seed=1)
    with pytest.raises(InputError, match="which this model has not"):
        transform.restore(wider, result.files, context)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(result.files["linears"].read_bytes()[:100])
    with pytest.raises(InputError, match="is no safetensors file"):
        transform.restore(tiny, {"linears": broken}, context)
    with pytest.raises(InputError, match="was not given"):
        transform.restore(tiny, {}, context)


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_calibration(
    tiny: ModelArtifact, text: str, tmp_path: Path
) -> None:
    runs = [
        flow(text).transform(tiny, RunContext(seed=seed, output=tmp_path / str(i)))
        for i, seed in enumerate((5, 5, 6))
    ]
    files = [run.files["linears"].read_bytes() for run in runs]
    assert files[0] == files[1] != files[2]
    assert (runs[0].metrics, runs[0].tables) == (runs[1].metrics, runs[1].tables)


def test_the_table_and_the_figure_have_every_block_and_agree(
    tiny: ModelArtifact, context: RunContext, text: str
) -> None:
    result = flow(text, cost="recon").transform(tiny, context)
    (table,) = result.tables
    assert table.name == "flow_blocks"
    assert [row[0] for row in table.rows] == ["layers.0", "layers.1", "layers.2"]
    densities = [NMSparsity.parse(str(row[1])).density for row in table.rows]
    assert [row[2] for row in table.rows] == densities
    (figure,) = result.figures
    kept, density, shares = figure.panels
    assert sum(len(series.x) for series in kept.series) == 3
    assert density.series[0].y == tuple(densities)
    errors = next(series for series in shares.series if "error" in series.label)
    assert list(errors.y) == [row[5] for row in table.rows]
    assert all("cost recon" in m.note for m in result.metrics)


def test_only_what_looked_at_weights_text_or_buffers_is_called_measured(
    tiny: ModelArtifact, context: RunContext, text: str
) -> None:
    result = flow(text, cost="recon").transform(tiny, context)
    assert {m.name: m.provenance for m in result.metrics} == {
        "flow_sparsity": "modelled",
        "flow_weight_bytes": "measured",
        "flow_weight_bytes_before": "modelled",
        "flow_dropped_outlier_share": "measured",
        "flow_relative_output_error": "modelled",  # as if inputs were uncorrelated
    }
    assert all("seed 3" in m.source for m in result.metrics if m.provenance == "measured")
    columns = {column.name: column.provenance for column in result.tables[0].columns}
    assert columns["density"] == columns["relative output error"] == "modelled"
    assert columns["outlier density"] == columns["dropped outlier share"] == "measured"
    assert result.figures[0].provenance == "modelled"  # the weakest of what it shows


def test_the_cost_decides_the_plan(tiny: ModelArtifact, text: str, tmp_path: Path) -> None:
    # In the last block two weights of each eight carry nearly everything, so 2:8 costs it nothing.
    assert tiny.live is not None
    with torch.no_grad():
        for block in decoder_linears(tiny.spec)[2:]:
            for linear in block.linears:
                weight = tiny.live.module.get_submodule(str(linear.path)).weight
                weight[:, torch.arange(linear.inputs) % 8 >= 2] *= 2.0**-10
    context = RunContext(seed=0, output=tmp_path)
    result = flow(text, cost="recon", candidates=["2:8", "4:8", "6:8"]).transform(tiny, context)
    assert sorted(str(row[1]) for row in result.tables[0].rows[:2]) == ["4:8", "6:8"]
    assert result.tables[0].rows[2][1] == "2:8"
    uniform = flow(text, plan="uniform", pattern="4:8").transform(tiny, context)
    error = "flow_relative_output_error"
    assert metric(result, error) < metric(uniform, error)


def test_a_spec_alone_gets_the_uniform_pattern_and_modelled_numbers(context: RunContext) -> None:
    spec = ModelSpec.from_hf_config(TINY, name="shapes")
    result = Flow(FlowParams(sparsity=0.6)).transform(ModelArtifact(spec), context)
    assert {part.sparsity for _, part in result.spec.parts(Linear)} == {"6:16", None}
    assert metric(result, "flow_sparsity") == 0.625
    assert {m.provenance for m in result.metrics} == {"modelled"}
    assert all("Plan uniform 6:16" in m.note for m in result.metrics)
    assert not context.output.exists()
    saved = spec.weight_bytes - result.spec.weight_bytes
    before, after = (metric(result, f"flow_weight_bytes{end}") for end in ("_before", ""))
    assert saved == before - after
    assert (
        Flow(FlowParams(sparsity=0.6)).restore(ModelArtifact(spec), {}, context).spec == result.spec
    )


def test_a_spec_alone_is_not_refused_for_a_plan_that_only_a_mix_can_make() -> None:
    first, second = (
        BlockLinears(name, (Linear(name="l", path=name, outputs=8, inputs=inputs),), (1,))
        for name, inputs in (("a", 64), ("b", 36))
    )
    candidates = [NMSparsity(4, 16), NMSparsity(1, 12)]  # 16 divides 64 alone, 12 divides 36 alone
    with pytest.raises(InputError, match="no candidate"):
        uniform_plan([first, second], candidates, 0.5)
    assert level_plan([first, second], candidates, 0.5).patterns == tuple(candidates)
    with pytest.raises(InputError, match="out of reach"):
        level_plan([first, second], candidates, 0.95)


def test_experts_are_pruned_in_a_spec_and_their_router_is_not(context: RunContext) -> None:
    config = {
        **TINY,
        "model_type": "mixtral",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    }
    spec = ModelSpec.from_hf_config(config)
    params = FlowParams(plan="uniform", pattern="2:4")
    result = Flow(params).transform(ModelArtifact(spec), context)
    found = {part.name: part.sparsity for _, part in result.spec.parts(Linear)}
    assert found == dict.fromkeys(("q", "k", "v", "o", "gate_up", "down"), "2:4") | {
        "router": None,
        "lm_head": None,
    }
    attention, experts = 64 * (64 + 32 + 32 + 64), 4 * 3 * 64 * 128
    assert metric(result, "flow_weight_bytes_before") == 3 * (attention + experts) * 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {
                "model_type": "mixtral",
                "hidden_size": 64,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": 320,
                "num_local_experts": 2,
            },
            r"experts.* flow prunes torch.nn.Linear and Conv1D",
        ),
        ({**TINY, "intermediate_size": 132}, "block layers.0: none of the candidates"),
    ],
)
def test_models_that_it_cannot_prune_are_named(
    config: dict[str, Any], message: str, context: RunContext, text: str
) -> None:
    with pytest.raises(InputError, match=message):
        flow(text, candidates=["4:8"]).transform(random_model(config), context)


def test_a_weight_that_is_not_finite_is_located(
    tiny: ModelArtifact, context: RunContext, text: str
) -> None:
    assert tiny.live is not None
    with torch.no_grad():
        tiny.live.module.get_submodule("model.layers.2.mlp.up_proj").weight[7, 11] = float("nan")
    with pytest.raises(
        InputError, match=r"model\.layers\.2\.mlp\.up_proj: weight \[7, 11\] is nan"
    ):
        flow(text).transform(tiny, context)


def test_a_dead_input_channel_is_told_and_its_weights_go_first(
    tiny: ModelArtifact, context: RunContext, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert tiny.live is not None
    with torch.no_grad():
        tiny.live.module.get_submodule("model.layers.0.mlp.up_proj").weight[9] = 0
    with caplog.at_level(logging.WARNING, "crosslayer"):
        result = flow(text, sparsity=0.125, plan="uniform", pattern="7:8").transform(tiny, context)
    assert "model.layers.0.mlp.down_proj: 1 of 128 input channels (first: 9)" in caplog.text
    assert result.live is not None
    down = result.live.module.get_submodule("model.layers.0.mlp.down_proj").weight
    assert (down[:, 9] == 0).all() and (down[:, 8] != 0).all()


def test_windows_longer_than_the_model_reads_are_refused(context: RunContext, text: str) -> None:
    short = random_model(TINY | {"max_position_embeddings": 32})
    with pytest.raises(InputError, match="window_tokens = 64 is more than the 32 tokens"):
        flow(text).transform(short, context)


def test_values_that_the_format_cannot_hold_are_rounded_as_they_ship(
    tiny: ModelArtifact, context: RunContext, text: str
) -> None:
    # A model whose spec ships int8 while its live weights are still bf16.
    spec = tiny.spec.map_parts(
        lambda block, part: part.replace(weight_format="int8-g64") if part.path else part
    )
    result = flow(text, plan="uniform", pattern="2:4").transform(tiny.replace(spec=spec), context)
    assert result.live is not None
    weight = result.live.module.get_submodule("model.layers.0.self_attn.q_proj").weight.numpy()
    packed = pack(weight, "int8-g64", NMSparsity(2, 4))
    assert unpack(packed).tobytes() == weight.tobytes()
