"""Sparsity rows, modes of known mixtures, thresholds, and the honest fallback."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact
from thinkv.calibration import Calibration, CalibrationSettings, fit, model_hash
from thinkv.density import find_modes
from thinkv.sparsity import row_sparsity, streamed_sparsity
from thinkv.thoughts import Thought, thought_of


def mixture(centres: list[float], seed: int, n: int = 400, sigma: float = 0.03) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(c, sigma, n) for c in centres])


@pytest.mark.parametrize("centres", [[0.5], [0.2, 0.7], [0.2, 0.5, 0.8], [0.1, 0.35, 0.6, 0.85]])
def test_the_modes_of_known_mixtures_are_found(centres: list[float]) -> None:
    modes = find_modes(mixture(centres, 1))
    assert modes.peaks == pytest.approx(centres, abs=0.03)
    between = [(a + b) / 2 for a, b in itertools.pairwise(centres)]
    assert modes.valleys == pytest.approx(between, abs=0.06)


def test_constant_values_have_one_mode_and_peaks_at_the_border_count() -> None:
    assert find_modes(np.full(50, 0.25)).peaks == (0.25,)
    rng = np.random.default_rng(0)
    border = np.concatenate([rng.uniform(0.97, 1.0, 300), rng.uniform(0, 0.03, 300)])
    assert len(find_modes(border, 0.02).peaks) == 2


def test_a_bump_without_prominence_is_no_mode() -> None:
    values = np.concatenate([mixture([0.5], 1, 5000, 0.05), mixture([0.8], 2, 20, 0.01)])
    assert len(find_modes(values, 0.02, prominence=0.05).peaks) == 1
    assert len(find_modes(values, 0.02, prominence=0.001).peaks) == 2


def test_a_row_counts_past_positions_below_one_percent_of_its_maximum() -> None:
    weights = torch.tensor([0.90, 0.0089, 0.0091, 0.082])  # 1 % of the maximum is 0.009
    scores = weights.log()[None, None, None]
    assert row_sparsity(scores).item() == 0.25
    future = torch.cat([scores, torch.full((1, 1, 1, 4), -torch.inf)], -1)
    assert row_sparsity(future).item() == 0.25  # what a query does not see is not counted


def test_grouped_heads_give_the_largest_logit_before_the_softmax() -> None:
    scores = torch.zeros(1, 2, 1, 4)
    scores[0, 0, 0, 0] = scores[0, 1, 0, 1] = 10.0
    # The largest logits are (10, 10, 0, 0): half of the row is far below 1 % of the maximum.
    assert row_sparsity(scores).item() == 0.5
    scores[0, 1, 0, 1] = 0.0
    assert row_sparsity(scores).item() == 0.75
    assert row_sparsity(scores, "mean").item() == 0.0  # the flat head lifts the average


@pytest.mark.parametrize("head_reduce", ["max-logit", "mean"])
def test_streaming_over_key_blocks_gives_the_rows_of_the_whole_matrix(head_reduce: str) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(6, 10, 8) * 3, torch.randn(2, 40, 8)
    scores = q.unflatten(0, (2, 3)) @ k[:, None].transpose(2, 3)
    scores = scores.masked_fill(torch.ones(10, 40, dtype=torch.bool).triu(31), -torch.inf)
    whole = row_sparsity(scores, head_reduce)  # type: ignore[arg-type]
    streamed = streamed_sparsity(q, k, 1.0, 30, head_reduce, block=7)  # type: ignore[arg-type]
    assert torch.equal(streamed, whole)


def prompts(layers: int, trimodal: int, count: int = 3) -> list[dict[int, np.ndarray]]:
    """Rows where the first `trimodal` layers have modes 0.2, 0.5, 0.8 and the others one."""
    return [
        {
            layer: mixture([0.2, 0.5, 0.8] if layer < trimodal else [0.9], 10 * prompt + layer)
            for layer in range(layers)
        }
        for prompt in range(count)
    ]


def test_thresholds_are_the_valleys_averaged_over_prompts_and_layers() -> None:
    found = fit(prompts(6, 6), CalibrationSettings(), "m", "h")
    assert found.status == "ok" and len(found.layers) == 4
    assert found.thresholds == pytest.approx((0.35, 0.65), abs=0.03)
    assert found.shares == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=0.02)
    low, high = found.thresholds or (0, 0)
    assert thought_of(low - 1e-9, found.thresholds) == Thought.EXECUTION
    assert thought_of(low, found.thresholds) == Thought.REASONING
    assert thought_of(high - 1e-9, found.thresholds) == Thought.REASONING
    assert thought_of(high, found.thresholds) == Thought.TRANSITION


def test_too_few_trimodal_layers_fall_back_to_one_type_and_say_so() -> None:
    found = fit(prompts(6, 3), CalibrationSettings(), "m", "h")
    assert (found.status, found.thresholds, found.layers) == ("fallback", None, ())
    assert "3 of 6 layers have 3 modes" in found.reason
    assert {thought_of(s, found.thresholds) for s in (0.0, 0.5, 1.0)} == {Thought.REASONING}
    assert [one.modes[0] for one in found.per_layer] == [3, 3, 3, 1, 1, 1]


def test_agreement_decides_how_many_prompts_must_be_trimodal() -> None:
    rows = prompts(4, 4)
    rows[0] = prompts(4, 0, 1)[0]
    assert fit(rows, CalibrationSettings(), "m", "h").status == "fallback"
    assert fit(rows, CalibrationSettings(agreement=0.6), "m", "h").status == "ok"


def test_an_artefact_survives_its_file_and_serves_no_other_model(
    tmp_path: Path, tiny: ModelArtifact
) -> None:
    assert tiny.live is not None
    module = tiny.live.module
    found = fit(prompts(4, 4), CalibrationSettings(), "tiny", model_hash(module))
    found.save(tmp_path / "calibration.json")
    again = Calibration.load(tmp_path / "calibration.json")
    assert again == found
    again.require(model_hash(module))
    with torch.no_grad():
        module.model.norm.weight[0] += 1
    with pytest.raises(InputError, match="made for tiny"):
        again.require(model_hash(module))


def test_a_file_that_is_no_calibration_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        Calibration.load(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text('{"status": "ok"}')
    with pytest.raises(InputError, match=r"bad\.json is no calibration"):
        Calibration.load(tmp_path / "bad.json")


def test_traces_that_are_too_short_are_refused() -> None:
    with pytest.raises(InputError, match="more than 128 tokens"):
        fit([{0: np.zeros(0)}], CalibrationSettings(), "m", "h")
