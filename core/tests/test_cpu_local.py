"""The accelerator `cpu-local`: its prices, and its comparison with measured times.

Calibrations are written by hand; test_cpu_calibration.py measures.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_calibration import calibration

import crosslayer as cl
from crosslayer.accelerators import cpu_calibration
from crosslayer.accelerators.cpu_calibration import Curve, ProductGrid
from crosslayer.accelerators.cpu_local import CpuLocal
from crosslayer.accelerators.cpu_params import CpuLocalParams
from crosslayer.contracts import ops
from crosslayer.contracts.lowering import lower
from crosslayer.contracts.steps import StepShape
from crosslayer.discovery import discover
from crosslayer.errors import UnsupportedOp
from crosslayer.evaluators_params import StepTimeParams
from crosslayer.kinds import Instance, RunContext, Stack
from crosslayer.pipeline import check_file
from crosslayer.registry import Registry
from crosslayer.step_time import StepTime
from crosslayer.testing import checks_for

PIPELINE = Path(__file__).parents[2] / "pipelines" / "cpu-local.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    path.write_text(calibration().to_json())
    return path


@pytest.fixture
def cpu(file: Path) -> CpuLocal:
    return CpuLocal(CpuLocalParams(calibration_file=file))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def registry(cache: Path) -> Registry:
    return discover(only=())


# --- prices


def test_a_product_takes_the_calibrated_time_and_the_overhead_of_a_call(cpu: CpuLocal) -> None:
    at_one = cpu.estimate(ops.Gemm(m=1, k=1000, n=1000))
    assert at_one.seconds == pytest.approx(2e6 / 1e10 + 5e-6)
    assert at_one.flops == 2e6
    assert at_one.bytes == 4 * (1000 * 1000 + 1000 + 1000)  # fp32, whatever the spec ships
    at_64 = cpu.estimate(ops.Gemm(m=64, k=1000, n=1000))
    assert at_64.seconds == pytest.approx(128e6 / 1e11 + 5e-6)


def test_between_and_beyond_the_measured_shapes_time_follows_the_logarithm(cpu: CpuLocal) -> None:
    # 8 is half-way from 1 to 64 in log m: the geometric mean of 0.2 ms and 1.28 ms
    between = cpu.estimate(ops.Gemm(m=8, k=1000, n=1000)).seconds - 5e-6
    assert between == pytest.approx((2e-4 * 1.28e-3) ** 0.5)
    beyond = cpu.estimate(ops.Gemm(m=640, k=4000, n=1000)).seconds - 5e-6
    assert beyond == pytest.approx(40 * 1.28e-3)
    tiny = cpu.estimate(ops.Gemm(m=1, k=10, n=10)).seconds - 5e-6
    assert tiny == pytest.approx(2 * 100 / 1e10)


def test_each_expert_is_a_call_with_its_share_of_the_rows(cpu: CpuLocal) -> None:
    one = cpu.estimate(ops.Gemm(m=8, k=1000, n=1000)).seconds
    assert cpu.estimate(ops.Gemm(m=32, k=1000, n=1000, groups=4)).seconds == pytest.approx(4 * one)


def test_live_formats_price_fp32_and_dense_and_stored_ones_their_own_grid(file: Path) -> None:
    live = CpuLocal(CpuLocalParams(calibration_file=file))
    stored = CpuLocal(CpuLocalParams(calibration_file=file, formats="stored"))
    plain = ops.Gemm(m=1, k=1000, n=1000, weight_format="fp32", activation_format="fp32")
    pruned = replace(plain, weight_format="nvfp4", activation_format="bf16", sparsity="2:4")
    assert live.estimate(pruned) == live.estimate(plain) == stored.estimate(pruned)
    bf16 = replace(plain, weight_format="bf16", activation_format="bf16")
    assert live.estimate(bf16) == live.estimate(plain)
    assert stored.estimate(bf16).seconds == pytest.approx(1e-4 + 5e-6)
    assert stored.estimate(bf16).bytes == live.estimate(plain).bytes / 2


def test_decode_attention_follows_the_tokens_it_reads_whatever_their_format(cpu: CpuLocal) -> None:
    op = ops.Attention(
        sequences=1, queries=1, pairs=1000, kv_tokens=1000, kv_bytes=1000 * 1024, heads=8,
        kv_heads=2, head_dim=64, value_dim=64,
    )  # fmt: skip
    read = 1000 * 2 * 128 * 4
    expected = float(calibration().decode_attention.at(read))
    assert cpu.estimate(op).seconds == pytest.approx(expected)
    assert cpu.estimate(replace(op, kv_format="int4", kv_bytes=1000 * 128)) == cpu.estimate(op)


def test_noise_in_a_calibration_never_makes_more_work_cheaper(file: Path) -> None:
    noisy = ProductGrid(
        format="fp32", rows=(1, 4, 16), weights=(1e4, 1e6),
        seconds=((3e-5, 1e-5), (2e-5, 4e-4), (1e-5, 3e-4)),
    )  # fmt: skip
    shuffled = Curve(name="add", sizes=(1e3, 1e4, 1e6), seconds=(9e-6, 4e-6, 1e-4))
    others = tuple(c for c in calibration().elementwise if c.name != "add")
    file.write_text(calibration(products=(noisy,), elementwise=(*others, shuffled)).to_json())
    cpu = CpuLocal(CpuLocalParams(calibration_file=file))
    sizes = np.geomspace(1, 1e4, 60)
    for vary in ("m", "k"):
        columns: dict[str, Any] = {"m": 3.0, "k": 100.0, "n": 100.0}
        times = [cpu.estimate(ops.Gemm(**columns | {vary: x})).seconds for x in sizes]
        assert (np.diff(times) >= 0).all()
    table = ops.OpTable(ops.Elementwise, {"elements": sizes * 1e3, "kind": "add", "reads": 2})
    assert (np.diff(cpu.estimate_many(table).seconds) >= 0).all()


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (ops.Collective(payload_bytes=1e6, devices=2), "is one device"),
        (ops.CircularConvolution(vectors=4, dim=64), "an FFT decides"),
        (
            ops.Conv2d(
                positions=9,
                inputs=9,
                in_channels=8,
                out_channels=8,
                kernel_h=3,
                kernel_w=3,
                groups=8,
            ),
            "only 1-D ones",
        ),
        (ops.SelectiveScan(tokens=8, sequences=1, channels=64, state=16, heads=4), "in chunks"),
    ],
)
def test_what_eager_code_says_no_cost_of_is_refused(cpu: CpuLocal, op: ops.Op, reason: str) -> None:
    assert not cpu.supports(op)
    with pytest.raises(UnsupportedOp, match=f"cpu-local .*{reason}"):
        cpu.estimate(op)


def test_a_1d_grouped_convolution_takes_the_time_of_a_depthwise_one(cpu: CpuLocal) -> None:
    line = ops.Conv2d(
        positions=100, inputs=100, in_channels=64, out_channels=64, kernel_h=1, kernel_w=4,
        groups=64,
    )  # fmt: skip
    assert cpu.estimate(line).seconds == pytest.approx(2e-9 * 100 * 64 * 4)


@pytest.mark.parametrize("formats", ["live", "stored"])
def test_the_conformance_kit_passes(formats: str, file: Path, registry: Registry) -> None:
    parameters = {"calibration_file": str(file), "formats": formats}
    for check in checks_for("cpu-local", parameters=parameters, registry=registry):
        check()


# --- in a pipeline


def test_a_check_measures_nothing(registry: Registry, cache: Path) -> None:
    _, problems = check_file(PIPELINE, registry)
    assert [problem.exit_code for problem in problems] in ([], [3])  # 3: torch is not installed
    assert not cache.exists()


def test_another_calibration_is_another_estimate_and_the_same_one_the_same_report(
    registry: Registry, tmp_path: Path, file: Path
) -> None:
    def report() -> str:
        pipeline = cl.Pipeline(
            name="p", model={"use": "smollm2-135m", "live": False},
            accelerator={"use": "cpu-local", "calibration_file": str(file)},
        )  # fmt: skip
        done = cl.run(pipeline, registry=registry, runs_dir=tmp_path / "runs", threads=1)
        return (done.directory / "report.json").read_text()

    first = report()
    assert report() == first
    file.write_text(calibration(call_s=1e-3).to_json())
    assert report() != first


def test_a_calibration_in_the_cache_is_part_of_the_key_of_an_estimate(
    registry: Registry, tmp_path: Path
) -> None:
    def latency() -> float:
        pipeline = cl.Pipeline(
            name="p", model={"use": "smollm2-135m", "live": False}, accelerator="cpu-local"
        )
        done = cl.run(pipeline, registry=registry, runs_dir=tmp_path / "runs", threads=1)
        return done.metrics.value("decode_latency_per_token_s")

    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(cpu_calibration, "threads_now", lambda: 1)
        path = cpu_calibration.calibration_path(1, 10.0)
        cpu_calibration.write(path, calibration())
        before = latency()
        cpu_calibration.write(path, calibration(call_s=1e-3))
        assert latency() > before + 200e-3  # 211 products, a millisecond each


TINY = {
    "model_type": "llama", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}  # fmt: skip


def test_a_prefill_and_the_mean_of_the_decode_steps_are_what_is_timed_and_predicted(
    tmp_path: Path, cpu: CpuLocal
) -> None:
    pytest.importorskip("transformers")
    from crosslayer.models.random_model import random_model

    model = random_model(TINY)
    stack = Stack((Instance("i", model, cpu),))
    seconds = iter(range(1000))
    context = RunContext(0, tmp_path, clock=lambda: float(next(seconds)))  # a second a look
    timing = StepTime(StepTimeParams(prompt_tokens=16, output_tokens=4, repeats=3))
    report = timing.compare(timing.evaluate(stack, context), stack)
    prefill, decode = report.table("step_time").rows
    assert prefill[5:8] == (1.0, 1.0, 1.0)
    assert decode[5:8] == (0.25, 0.25, 0.25)

    def priced(*sequence: int) -> float:
        graph = lower(model.spec, StepShape.from_sequences(model.spec, [sequence]))  # type: ignore[list-item]
        return graph.total(lambda op: cpu.estimate(op).seconds)

    assert prefill[8] == pytest.approx(priced(16, 0, 0))
    steps = [priced(1, 16, generated) for generated in range(4)]
    assert decode[8] == pytest.approx(sum(steps) / 4)
    assert steps[0] < steps[3]


def test_measured_predicted_and_error_stand_side_by_side_outside_the_steady_report(
    registry: Registry, tmp_path: Path, file: Path
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from crosslayer.models.random_model import random_model

    folder = tmp_path / "tiny"
    model = random_model(TINY).live
    assert model is not None
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    assert torch is not None
    path = tmp_path / "p.toml"

    def run(accelerator: str) -> Any:
        path.write_text(
            f'[pipeline]\nname = "timed"\n[model]\nuse = "./tiny"\n[accelerator]\n{accelerator}\n'
            "[evaluate]\nstep-time = { prompt_tokens = 16, output_tokens = 2, repeats = 2 }\n"
        )
        return cl.run(path, registry=registry, runs_dir=tmp_path / "runs", threads=1)

    done = run(f'use = "cpu-local"\ncalibration_file = "{file.name}"')
    table = done.table("step_time")
    frame = [dict(zip((c.name for c in table.columns), row, strict=True)) for row in table.rows]
    assert [row["step"] for row in frame] == ["prefill", "decode"]
    for row in frame:
        assert row["best"] <= row["median"] <= row["worst"]
        assert row["error"] == pytest.approx(row["predicted"] / row["best"] - 1)
    metrics = done.metrics
    assert metrics["prefill_time_s"].provenance == "measured"
    assert metrics.value("prefill_time_s") == frame[0]["best"]
    assert metrics["prefill_time_predicted_s"].provenance == "modelled"
    assert frame[1]["predicted"] == metrics.value("decode_time_per_token_predicted_s")
    assert metrics.value("prefill_time_error") == frame[0]["error"]

    steady = json.loads((done.directory / "report.json").read_text())
    names = {metric["name"] for metric in steady["metrics"]}
    assert "prefill_time_predicted_s" in names  # a calibration and a model: repeatable
    assert not names & {"prefill_time_s", "prefill_time_error"}
    assert "step_time" not in {table["name"] for table in steady["tables"]}
    info = json.loads((done.directory / "run.json").read_text())
    assert [table["name"] for table in info["wall_clock_tables"]] == ["step_time"]
    page = (done.directory / "report.html").read_text()
    assert "predicted" in page and "wall clock" in page
    assert cl.load(done.directory).table("step_time") == table

    # another accelerator: what was measured stays, and nothing of this machine is predicted
    other = run('use = "roofline:a100-80g"')
    assert other.metrics["prefill_time_s"] == metrics["prefill_time_s"]
    assert [step.cached for step in other.steps if step.name == "evaluate step-time"] == [True]
    assert "prefill_time_predicted_s" not in other.metrics
    assert [column.name for column in other.table("step_time").columns][-1] == "worst"


def test_a_measurement_of_another_machine_is_not_taken_from_the_cache(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from crosslayer import execution
    from crosslayer.models.random_model import random_model

    model = random_model(TINY).live
    assert model is not None
    model.module.save_pretrained(tmp_path / "tiny")
    model.tokenizer.save_pretrained(tmp_path / "tiny")
    path = tmp_path / "p.toml"
    path.write_text(
        '[model]\nuse = "./tiny"\n[evaluate]\n'
        "step-time = { prompt_tokens = 4, output_tokens = 1, repeats = 1 }\n"
    )

    def cached() -> bool:
        done = cl.run(path, registry=registry, runs_dir=tmp_path / "runs", threads=1)
        return done.steps[-1].cached

    assert [cached(), cached()] == [False, True]
    monkeypatch.setattr(execution, "machine_facts", lambda: {"cpu": "another"})
    assert not cached()


def test_the_pipeline_of_the_repository_compares_a_real_model(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from real_assets import fetched

    fetched("smollm2-135m")
    text = PIPELINE.read_text()
    quick = text.replace('use = "cpu-local"', 'use = "cpu-local"\ncalibration_s = 1')
    quick = quick.replace("output_tokens = 8 }", "output_tokens = 2, repeats = 1 }")
    assert quick.count("\n") == text.count("\n") + 1 and "repeats = 1" in quick
    path = tmp_path / "quick.toml"
    path.write_text(quick)
    done = cl.run(path, registry=discover(only=()), runs_dir=tmp_path / "runs")
    for row in done.table("step_time").rows:
        measured, predicted, error = row[5], row[8], row[9]
        assert isinstance(measured, float) and isinstance(predicted, float)
        assert error == pytest.approx(predicted / measured - 1)
        assert predicted > 0
