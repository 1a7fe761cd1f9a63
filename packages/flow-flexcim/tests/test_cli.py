"""The commands, through the core's command line: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY

from crosslayer.cli import main
from crosslayer.contracts.model import ModelSpec
from crosslayer.models.presets import preset_config
from crosslayer.models.random_model import random_model
from flow_flexcim.flexcim.layers import layer_table, preset_table, totals
from flow_flexcim.flexcim.params import FlexCiMParams
from flow_flexcim.linears import decoder_linears, pruned_spec, units
from flow_flexcim.plan import uniform_plan

MODEL = "llama-3.1-8b"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["flow-flexcim", *arguments])
    return int(end.value.code or 0)


def test_plan_writes_a_plan_that_prune_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    sets = ("--set", "sparsity=0.75", "--set", "hardware=flexcim")
    assert call("plan", MODEL, "--out", str(file), *sets) == 0
    assert "sparsity 0.75 of 6979321856 weights" in capsys.readouterr().out
    assert set(json.loads(file.read_text())["patterns"].values()) == {"2:8"}
    assert call("prune", MODEL, "--out", str(tmp_path), "--set", f"plan_file={file}") == 0
    assert "flow_sparsity                            0.75" in capsys.readouterr().out
    dense = ("--set", f"plan_file={file}", "--set", "dense_blocks=[0]")
    assert call("prune", MODEL, "--out", str(tmp_path), *dense) == 2
    assert "has 2:8 for layers.0, which dense_blocks leaves dense" in capsys.readouterr().err


def test_simulate_prints_every_layer_and_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    sets = ("--set", "sparsity=0.75", "--set", "hardware=flexcim", "--chip", "macros=16")
    assert call("simulate", "mamba-2.8b", *sets, "--tokens", "4") == 0
    said = capsys.readouterr().out
    for word in ("in_proj", "dt_proj", "2:8", "fixed-2to4", "systolic", "modelled"):
        assert word in said


def test_a_place_that_cannot_be_written_is_named_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    # The sparsity is out of reach, which planning would say: the place comes first.
    sets = ("--set", "sparsity=0.99")
    for command, out, message in (
        ("plan", tmp_path, "is a folder; name a file, such as"),
        ("plan", file / "plan.json", "cannot be written: "),
        ("prune", file, "cannot be written: File exists; name a folder"),
        ("report", file, "cannot be written: File exists; name a folder"),
    ):
        assert call(command, MODEL, "--out", str(out), *sets) == 2
        assert message in capsys.readouterr().err
    linear = (*sets, "--set", "granularity=linear")
    assert call("plan", MODEL, "--out", str(tmp_path / "plan.txt"), *linear) == 2
    assert "one pattern a block; write .json" in capsys.readouterr().err
    assert file.read_text() == "kept" and sorted(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("simulate", MODEL, "--set", "sparsty=0.5"), "did you mean 'sparsity'"),
        (("simulate", MODEL, "--set", "sparsity"), "no KEY=VALUE"),
        (("plan", "llama-3.1-9b", "--out", "x.json"), "llama-3.1-8b"),
        (("eval", MODEL, "--pruned", "."), "nothing to evaluate"),
        (("simulate", MODEL, "--set", "sparsity=0.5"), "8:16 needs 8 activation pairs"),
        (("simulate", MODEL, "--chip", "as_int8=false"), "8-bit integers, not bf16; quantize"),
        (("simulate", MODEL, "--pruned", "."), "add --set hardware=flexcim"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    assert message in capsys.readouterr().err


def pruned(sparsity: float) -> ModelSpec:
    spec = ModelSpec.from_hf_config(preset_config(MODEL), name=MODEL)
    blocks = units(decoder_linears(spec), "block")
    from crosslayer.contracts.sparsity import NMSparsity

    plan = uniform_plan(blocks, [NMSparsity(n, 8) for n in (1, 2, 4)], sparsity)
    return pruned_spec(spec, blocks, plan.patterns)


def test_the_rows_of_the_tables_add_up_to_the_totals() -> None:
    spec, params = pruned(0.75), FlexCiMParams(as_int8=True)
    table = layer_table(spec, params, 8)
    seconds, joules = totals(spec, params, 8)
    assert sum(row[9] for row in table.rows) == pytest.approx(seconds)  # type: ignore[misc]
    assert sum(row[10] for row in table.rows) == pytest.approx(joules)  # type: ignore[misc]
    assert sum(int(row[4]) for row in table.rows) == 32 * 7 + 1  # type: ignore[arg-type]
    for row in table.rows:  # energy, then its parts, leakage last
        assert sum(row[11:]) == pytest.approx(row[10]) and row[-1] > 0  # type: ignore[arg-type,operator]
    presets = preset_table(spec, params, 8)
    assert presets.rows[0][:3] == ("flexible", seconds, joules)


def test_a_report_reads_from_here_and_leaves_a_pipeline_of_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = ("--set", "sparsity=0.75", "--set", "hardware=flexcim")
    assert call("plan", MODEL, "--out", "plan.json", *sets) == 0
    report = ("report", MODEL, "--out", "out", "--set", "plan_file=plan.json")
    assert call(*report) == 0  # the plan is beside us, the pipeline file in out
    assert "flow_sparsity                            0.75" in capsys.readouterr().out
    run = json.loads((tmp_path / "out" / "flow-flexcim" / "report.json").read_text())
    assert {"flexcim_layers", "flexcim_presets"} <= {table["name"] for table in run["tables"]}
    file = tmp_path / "out" / "pipeline.toml"
    file.write_text("# mine")
    assert call(*report) == 2
    assert "pipeline.toml is not one that `report` wrote" in capsys.readouterr().err
    assert file.read_text() == "# mine"


def test_a_model_in_a_folder_is_pruned_and_what_was_written_is_evaluated(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_model(TINY, seed=1)
    assert model.live is not None
    folder = tmp_path / "model"
    model.live.module.save_pretrained(folder)
    model.live.tokenizer.save_pretrained(folder)
    sets = [
        *("--set", "plan=uniform", "--set", "pattern=2:4", "--set", f"calibration_text={text}"),
        *("--set", "calibration_tokens=64", "--set", "window_tokens=32"),
        *("--set", "hardware=flexcim"),
    ]
    out = tmp_path / "out"
    assert call("prune", str(folder), "--out", str(out), *sets) == 0
    said = capsys.readouterr().out
    assert "flow_weight_bytes" in said and "measured" in said
    assert (out / "flow-linears.safetensors").is_file() and (out / "flow-plan.json").is_file()
    arguments = ("--pruned", str(out), "--text", text, "--tokens", "512")
    assert call("eval", str(folder), *arguments, *sets) == 0
    said = capsys.readouterr().out
    assert "perplexity_original" in said and "nll_difference" in said
    assert call("simulate", str(folder), *sets) == 0
    assert " random " in capsys.readouterr().out
    assert call("simulate", str(folder), "--pruned", str(out), *sets) == 0
    assert " real " in capsys.readouterr().out
    assert call("eval", str(folder), "--pruned", str(tmp_path), *sets) == 2
    assert "write it by `flow-flexcim prune" in capsys.readouterr().err
