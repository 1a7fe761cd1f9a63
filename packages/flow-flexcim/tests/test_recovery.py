"""Masked fine-tuning: patterns stay, the loss falls, its cost is told, it repeats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crosslayer.contracts.formats import NMSparsity, pack, unpack
from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact, RunContext
from flow_flexcim import Flow, FlowParams
from flow_flexcim.linears import decoder_linears

PATTERN = NMSparsity(2, 4)


def recovered(
    model: ModelArtifact, text: str, folder: Path, steps: int, tokens: int | None = None
) -> ModelArtifact:
    params = FlowParams(
        plan="uniform", pattern="2:4", calibration_text=text, calibration_tokens=256,
        window_tokens=64, recovery_steps=steps, recovery_tokens=tokens, recovery_rate=1e-2,
        dense_blocks=(0,), sparsity=0.3,
    )  # fmt: skip
    return Flow(params).transform(model, RunContext(seed=0, output=folder))


def test_recovery_keeps_the_patterns_lowers_the_loss_and_says_what_it_cost(
    tiny: ModelArtifact, text: str, tmp_path: Path
) -> None:
    result = recovered(tiny, text, tmp_path / "a", 40)
    plain = recovered(tiny, text, tmp_path / "b", 0)
    assert result.live is not None and plain.live is not None
    found = {metric.name: metric for metric in result.metrics}
    assert found["flow_recovery_tokens"].value == 40 * 64
    assert found["flow_recovery_s"].wall_clock and found["flow_recovery_s"].value > 0
    first, last = (found[f"flow_recovery_loss_{end}"].value for end in ("first", "last"))
    assert last < first - 0.5
    assert all(found[name].provenance == "measured" for name in found if "recovery" in name)
    for block in decoder_linears(result.spec)[1:]:
        for linear in block.linears:
            weight = result.live.module.get_submodule(str(linear.path)).weight.detach()
            before = plain.live.module.get_submodule(str(linear.path)).weight
            PATTERN.check(weight.numpy())
            assert ((weight != 0) <= (before != 0)).all(), "a pruned weight came back"
            assert not torch.equal(weight, before)
            shipped = unpack(pack(weight.numpy(), "bf16", PATTERN))
            assert shipped.tobytes() == weight.numpy().tobytes()
    embeddings = "model.embed_tokens"
    assert torch.equal(
        result.live.module.get_submodule(embeddings).weight,
        tiny.live.module.get_submodule(embeddings).weight,  # type: ignore[union-attr]
    )
    assert all(parameter.grad is None for parameter in result.live.module.parameters())


def test_recovery_repeats_with_its_seed(tiny: ModelArtifact, text: str, tmp_path: Path) -> None:
    files = [
        recovered(tiny, text, tmp_path / name, 3).files["linears"].read_bytes() for name in "ab"
    ]
    assert files[0] == files[1]
    assert files[0] != recovered(tiny, text, tmp_path / "c", 4).files["linears"].read_bytes()


def test_recovery_reads_as_many_windows_as_it_is_given(
    tiny: ModelArtifact, text: str, tmp_path: Path
) -> None:
    def linears(name: str, tokens: int | None) -> bytes:
        result = recovered(tiny, text, tmp_path / name, 4, tokens)
        return result.files["linears"].read_bytes()

    as_calibration = linears("a", None)
    assert as_calibration == linears("b", 256)
    assert as_calibration != linears("c", 64)  # one window four times


def test_a_text_that_is_too_short_to_learn_from_is_refused_before_the_long_work(
    tiny: ModelArtifact, text: str, tmp_path: Path
) -> None:
    assert tiny.live is not None
    with torch.no_grad():  # which planning would refuse
        tiny.live.module.get_submodule("model.layers.2.mlp.up_proj").weight[7, 11] = float("nan")
    with pytest.raises(InputError, match="windows of 64 tokens"):
        recovered(tiny, text, tmp_path, 4, 1 << 20)


def test_a_spec_alone_is_told_that_nothing_is_fine_tuned(
    tiny: ModelArtifact, text: str, tmp_path: Path
) -> None:
    result = recovered(tiny.replace(live=None), text, tmp_path, 3)
    assert all("Without weights nothing is fine-tuned." in m.note for m in result.metrics)


def test_without_steps_nothing_of_it_is_reported(
    tiny: ModelArtifact, text: str, tmp_path: Path
) -> None:
    result = recovered(tiny, text, tmp_path, 0)
    assert not any("recovery" in metric.name for metric in result.metrics)
    with pytest.raises(ValueError, match="recovery_steps"):
        FlowParams(recovery_steps=-1)
