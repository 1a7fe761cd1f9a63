"""The simulator `flexcim-layers`: what it shows of a stack, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TINY

from crosslayer.accelerators.params import RooflineParams
from crosslayer.accelerators.roofline import Roofline
from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.report import Report
from crosslayer.kinds import Instance, ModelArtifact, RunContext, Stack
from crosslayer.pricing import with_fallback
from crosslayer.testing import BoundCheck, checks_for
from flow_flexcim import Flow, FlowParams
from flow_flexcim.flexcim.accelerator import FlexCiM
from flow_flexcim.flexcim.layers import linears, totals
from flow_flexcim.flexcim.params import FlexCiMParams, LayersParams
from flow_flexcim.flexcim.simulator import FlexCiMLayers

CHIP = FlexCiMParams(as_int8=True, macros=2)


@pytest.mark.parametrize("check", checks_for("flexcim-layers"), ids=str)
def test_flexcim_layers_passes_the_check(check: BoundCheck) -> None:
    check()


def shown(tmp_path: Path, *instances: Instance, tokens: int = 8) -> Report:
    simulator = FlexCiMLayers(LayersParams(tokens=tokens))
    return simulator.simulate(Stack(instances), None, RunContext(seed=0, output=tmp_path))


def test_a_live_models_real_masks_and_parts_of_energy_are_shown_layer_by_layer(
    tiny: ModelArtifact, text: str, tmp_path: Path
) -> None:
    params = FlowParams(
        plan="uniform", pattern="2:8", hardware="flexcim", calibration_text=text,
        calibration_tokens=64, window_tokens=32,
    )  # fmt: skip
    model = Flow(params).transform(tiny, RunContext(seed=0, output=tmp_path))
    roofline = Roofline(RooflineParams(preset="jetson-tx2"))
    machine = with_fallback((FlexCiM(CHIP), roofline))
    report = shown(tmp_path, Instance("a", model, machine))
    table = report.table("flexcim_layers")
    names = [column.name for column in table.columns]
    assert {"passes", "utilisation", "cells", "trees", "select", "loading"} <= set(names)
    by_layer = {row[0]: dict(zip(names, row, strict=True)) for row in table.rows}
    assert by_layer["down"]["masks"] == "real" and by_layer["lm_head"]["masks"] == "any"
    assert 1 < by_layer["down"]["passes"] <= 4  # type: ignore[operator]
    seconds, joules = totals(model.spec, CHIP, 8)
    assert report.metric("linears_time_s").value == pytest.approx(seconds)
    assert report.metric("linears_energy_j").value == pytest.approx(joules)
    assert len(report.table("flexcim_presets").rows) == 4


def test_instances_have_tables_of_their_own_and_others_are_named(tmp_path: Path) -> None:
    spec = ModelSpec.from_hf_config(TINY, name="shapes")

    def planned(**values: object) -> ModelArtifact:
        params = FlowParams.model_validate({"plan": "uniform", **values})
        return Flow(params).transform(ModelArtifact(spec), RunContext(seed=0, output=tmp_path))

    report = shown(
        tmp_path,
        Instance("a", planned(pattern="4:8"), FlexCiM(CHIP)),
        Instance("b", planned(pattern="8:16"), FlexCiM(CHIP)),
        Instance("c", planned(pattern="4:8"), Roofline(RooflineParams(preset="jetson-tx2"))),
    )
    assert {table.name for table in report.tables} == {"flexcim_layers_a", "flexcim_presets_a"}
    names = {metric.name for metric in report.metrics}
    # The second is refused and has no fallback; the third's accelerator tells no energy.
    assert names == {"linears_time_s_a", "linears_energy_j_a", "linears_time_s_c"}
    refused, elsewhere = report.notes
    assert refused.startswith("b: flexcim:flexible: 8:16 needs 8 activation pairs")
    assert elsewhere == "c: it is not on flexcim, so it has no layer table."


def test_many_tokens_reach_many_experts_and_all_of_them_the_head() -> None:
    more = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    spec = ModelSpec.from_hf_config(TINY | more, name="experts")

    def found(tokens: int) -> dict[str, tuple[float, float]]:
        return {op.name: (op.m, op.groups) for op, _ in linears(spec, tokens)}

    one, many = found(1), found(64)
    expert = next(name for name in one if name.endswith("down"))
    assert one[expert] == (2, 2)
    assert many[expert] == (128, pytest.approx(8, abs=1e-6))
    assert many["lm_head"] == (64, 1)
