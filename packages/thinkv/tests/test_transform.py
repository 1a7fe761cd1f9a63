"""The transform: spec and live cache agree, what it reports is what is there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.models.random_model import random_model
from thinkv.calibration import CalibrationSettings, fit, model_hash
from thinkv.measure import read, text_tokens
from thinkv.params import ThinKVParams
from thinkv.transform import ThinKV

TEXT = str(Path(__file__).with_name("conformance_text.txt"))
QUICK = {"measure_text": TEXT, "measure_tokens": 480, "budget_tokens": 160}


def test_the_curve_agrees_with_the_live_cache_within_two_percent(
    tiny: ModelArtifact, context: RunContext
) -> None:
    result = ThinKV(ThinKVParams(**QUICK)).transform(tiny, context)  # type: ignore[arg-type]
    assert result.live is not None and result.live.chunk_tokens == 16
    ids = text_tokens(result.live.tokenizer, TEXT, "calibration", 480)
    _, series = read(result.live, ids)
    for tokens, stored in list(zip(series.tokens, series.bytes_, strict=True))[3:]:
        # The curve has half a buffer in it, which is empty between pieces of 16 tokens.
        expected = result.spec.kv_bytes(0, tokens) - 2 * 7.5 * 2 * 2 * 16 * 2
        assert expected == pytest.approx(stored, rel=0.02)
    by_name = {metric.name: metric for metric in result.metrics}
    assert by_name["thinkv_kv_bytes"].value == series.bytes_[-1]
    assert by_name["thinkv_kv_bytes"].provenance == "measured"
    assert by_name["thinkv_alive_tokens"].value <= 160
    assert by_name["thinkv_code_bits"].value == 4.0
    assert by_name["thinkv_stored_bits"].value > 4.5


def test_a_spec_alone_is_modelled_with_the_same_curve(
    tiny: ModelArtifact, context: RunContext
) -> None:
    transform = ThinKV(ThinKVParams(**QUICK))  # type: ignore[arg-type]
    alone = transform.transform(ModelArtifact(spec=tiny.spec), context)
    assert alone.live is None
    assert {metric.provenance for metric in alone.metrics} == {"modelled"}
    assert alone.spec == transform.transform(tiny, context).spec


def test_a_calibration_labels_thoughts_and_is_bound_to_its_model(
    tiny: ModelArtifact, context: RunContext, tmp_path: Path
) -> None:
    assert tiny.live is not None
    rng = np.random.default_rng(0)
    modes = np.concatenate([rng.normal(c, 0.02, 200) for c in (0.05, 0.2, 0.4)])
    found = fit(
        [{0: modes, 1: modes}], CalibrationSettings(layers=2), "tiny", model_hash(tiny.live.module)
    )
    found.save(tmp_path / "c.json")
    params = ThinKVParams(**QUICK, calibration=str(tmp_path / "c.json"))  # type: ignore[arg-type]
    result = ThinKV(params).transform(tiny, context)
    (table,) = [table for table in result.tables if table.name == "thinkv_segments"]
    assert [row[2] is None for row in table.rows] == [True, False, False, False][: len(table.rows)]
    assert "layers 0, 1" in result.metrics[0].note
    other = random_model({**tiny.live.module.config.to_dict(), "model_type": "llama"}, seed=9)
    with pytest.raises(InputError, match="made for tiny"):
        ThinKV(params).transform(other, context)


def test_the_input_keeps_its_attention_and_its_cache(
    tiny: ModelArtifact, context: RunContext
) -> None:
    assert tiny.live is not None
    ids = torch.arange(1, 40)[None]
    before = tiny.live.module(input_ids=ids).logits
    result = ThinKV(ThinKVParams(**QUICK)).transform(tiny, context)  # type: ignore[arg-type]
    assert result.live is not None
    assert tiny.live.module.config._attn_implementation == "sdpa"
    assert torch.equal(tiny.live.module(input_ids=ids).logits, before)
    assert torch.equal(result.live.module(input_ids=ids).logits, before)  # no cache, no change
    again = result.live.copy()
    assert type(again.new_cache()).__name__ == "MethodCache"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bits": "R2E4T4"}, "no fewer"),
        ({"bits": "R5E4T2"}, "R4E4T2"),
        ({"segment_tokens": 100}, "no multiple of 16"),
        ({"schedule": (8, 16)}, "must fall"),
        ({"label_window_tokens": 200}, "more than segment_tokens"),
        ({"budget_tokens": -1}, "greater than or equal to 0"),
        ({"budget": 2}, "budget"),
    ],
)
def test_parameters_that_make_no_cache_are_refused_with_the_reason(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ThinKVParams(**values)  # type: ignore[arg-type]


def test_a_budget_below_the_floor_is_reported(tiny: ModelArtifact, context: RunContext) -> None:
    params = ThinKVParams(**{**QUICK, "budget_tokens": 20})  # type: ignore[arg-type]
    result = ThinKV(params).transform(tiny, context)
    by_name = {metric.name: metric for metric in result.metrics}
    assert "was not reached" in by_name["thinkv_floor_tokens"].note
    assert by_name["thinkv_alive_tokens"].value == by_name["thinkv_floor_tokens"].value


def test_a_prompt_that_counts_leaves_less_of_the_budget(
    tiny: ModelArtifact, context: RunContext
) -> None:
    alive, unreachable = {}, {}
    for name, counts, budget in (("no", False, 160), ("yes", True, 400), ("below", True, 240)):
        values = {**QUICK, "prompt_tokens": 240, "budget_counts_prompt": counts}
        params = ThinKVParams(**{**values, "budget_tokens": budget})  # type: ignore[arg-type]
        for model in (tiny, ModelArtifact(spec=tiny.spec)):
            result = ThinKV(params).transform(model, context)
            by_name = {metric.name: metric for metric in result.metrics}
            unreachable[name] = "was not reached" in by_name["thinkv_floor_tokens"].note
            if model.live:
                alive[name] = by_name["thinkv_alive_tokens"].value
            assert unreachable[name] == (name == "below")
    assert alive["no"] == alive["yes"] <= 400


def test_the_result_is_restored_from_its_input(tiny: ModelArtifact, context: RunContext) -> None:
    transform = ThinKV(ThinKVParams(**QUICK))  # type: ignore[arg-type]
    result = transform.transform(tiny, context)
    restored = transform.restore(tiny, {}, dataclasses.replace(context))
    assert restored.spec == result.spec
    assert restored.live is not None and restored.live.chunk_tokens == 16
