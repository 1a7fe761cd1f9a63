"""The calibration of `cpu-local`: what it times, what it keeps, and when it is good.

One calibration is measured here, and takes a second; the others are of a machine of known speed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_calibration import KnownKernels, calibration

from crosslayer.accelerators import cpu_calibration, cpu_measure
from crosslayer.accelerators.cpu_local import CpuLocal
from crosslayer.accelerators.cpu_params import CpuLocalParams
from crosslayer.contracts import ops
from crosslayer.errors import InputError
from crosslayer.progress import Progress


class Lines(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_calibration_is_measured_once_and_kept_for_this_machine(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_measure, "WILD", 1e9)  # other tests may run at the same time
    params, lines = CpuLocalParams(calibration_s=1), Lines()
    first = CpuLocal(params)
    assert "not calibrated yet" in first.describe().notes[0]
    assert not cache.exists()
    identity = first.identity(lines)
    assert "calibrating this CPU with" in lines.lines[0]
    assert "repeats differ by" in lines.lines[1]
    assert CpuLocal(params).identity(Lines()) == identity
    never = CpuLocal(CpuLocalParams(calibrate="never", calibration_s=1))
    assert never.identity(Lines()) == identity
    spec = never.describe()
    assert all("measured on " in part.source for part in (*spec.rates, *spec.memories))
    assert {rate.format for rate in spec.rates} >= {"fp32"}
    assert never.estimate(ops.Gemm(m=1, k=512, n=512)).seconds > 0


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CpuLocal:
    """Calibrated on KnownKernels."""
    machine = KnownKernels(1 << 28)
    monkeypatch.setattr(cpu_measure, "NumpyKernels", lambda pool_bytes: machine)
    found = cpu_measure.measure(1, library="numpy", clock=machine.clock)
    assert found.disagreement < 1e-6
    cpu_calibration.write(tmp_path / "known.json", found)
    return CpuLocal(CpuLocalParams(calibration_file=tmp_path / "known.json"))


def attention(new: int, cached: int) -> ops.Attention:
    """Of one sequence with the heads that are timed, twice as wide as they are many."""
    tokens = new + cached
    return ops.Attention(
        sequences=1, queries=new, pairs=new * cached + new * (new + 1) // 2, kv_tokens=tokens,
        kv_bytes=tokens * 512, heads=4, kv_heads=2, head_dim=128, value_dim=128,
        phase="decode" if cached else "prefill",
    )  # fmt: skip


def line(positions: int, groups: int) -> ops.Conv2d:
    return ops.Conv2d(
        positions=positions, inputs=positions, in_channels=512, out_channels=512, kernel_h=1,
        kernel_w=4, groups=groups,
    )  # fmt: skip


# Seconds by hand, of the times that toy_calibration says.
PRICES = {
    "product": (ops.Gemm(m=16, k=512, n=512), 5e-6 + 2 * 16 * 512 * 512 / 1e10, "compute"),
    "products of one row": (
        ops.Gemm(m=4, k=128, n=128, groups=4), 4 * (5e-6 + 2 * 128 * 128 / 1e10), "launch",
    ),
    "convolution": (line(64, 1), 5e-6 + 2 * 64 * 4 * 512 * 512 / 1e10, "compute"),
    "depthwise convolution": (line(512, 512), 1e-10 * 512 * 512 * 4, "memory"),
    "prefill": (attention(64, 0), 64 * 65 / 2 * 4 * (2 * 128 + 2 * 128) / 1e10, "compute"),
    "decode": (attention(1, 1023), 1024 * 2 * (128 + 128) * 4 / 1e10, "memory"),
    "scan": (  # four steps of two sequences
        ops.SelectiveScan(tokens=8, sequences=2, channels=2048, state=16),
        4 * 2 * 2048 * 16 * 1e-9, "compute",
    ),
    "norm": (ops.Elementwise(elements=1 << 14, kind="norm"), 3e-9 * 2**14, "compute"),
    "sum of two": (ops.Elementwise(elements=1 << 14, kind="add", reads=2), 1e-9 * 2**14, "memory"),
    "sum of four": (ops.Elementwise(elements=1 << 14, kind="add", reads=4), 2e-9 * 2**14, "memory"),
    "of no known kind": (ops.Elementwise(elements=1 << 14, kind="tanh"), 2e-9 * 2**14, "compute"),
}  # fmt: skip


@pytest.mark.parametrize("what", PRICES)
def test_on_a_machine_of_known_speed_an_op_takes_what_that_machine_takes(
    what: str, known: CpuLocal
) -> None:
    op, seconds, bound = PRICES[what]
    cost = known.estimate(op)
    assert cost.seconds == pytest.approx(seconds, rel=0.02)  # a call is timed on a tiny product
    assert cost.bound_by == bound


def test_bandwidths_and_rates_of_a_machine_of_known_speed_are_found(known: CpuLocal) -> None:
    spec = known.describe()
    assert [memory.bytes_per_s for memory in spec.memories] == pytest.approx([1e10, 1e10])
    assert spec.rates[0].flops_per_s == pytest.approx(1e10, rel=0.02)
    assert spec.launch_overhead_s == pytest.approx(5e-6, rel=0.02)


@pytest.mark.parametrize(("seconds", "slower"), [(1.0, 1), (10.0, 1), (10.0, 8), (10.0, 20)])
def test_a_calibration_ends_in_its_time_on_slow_machines_too(
    seconds: float, slower: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = KnownKernels(1 << 28)
    machine.rate, machine.bytes_per_s = 1e10 / slower, 1e10 / slower
    monkeypatch.setattr(cpu_measure, "NumpyKernels", lambda pool_bytes: machine)
    found = cpu_measure.measure(1, seconds, library="numpy", clock=machine.clock)
    assert found.took_s <= seconds


def test_repeats_that_disagree_are_told_and_not_stored(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cpu_measure, "measure", lambda threads, seconds: calibration(disagreement=0.9)
    )
    lines = Lines()
    cpu = CpuLocal()
    cpu.identity(lines)
    assert "repeats differ by 90%, something else is running" in lines.lines[-1]
    assert cpu.estimate(ops.Gemm(m=1, k=1000, n=1000)).seconds > 0
    assert not list((cache / "calibration").glob("*.json"))


def test_the_best_repeat_of_a_call_counts_and_the_median_says_how_far_repeats_disagree() -> None:
    spread, chosen = cpu_measure.settled(
        {("a",): [9.0, 1.0, 1.1], ("b",): [2.1, 2.0, 2.2], ("c",): [5.0]}
    )
    assert spread == pytest.approx(0.05)
    assert chosen == {("a",): 1.0, ("b",): 2.0, ("c",): 5.0}


def test_never_without_a_calibration_says_what_to_do(cache: Path) -> None:
    with pytest.raises(InputError, match="calibrate is 'never'; set it to 'auto'"):
        CpuLocal(CpuLocalParams(calibrate="never")).estimate(ops.Gemm(m=1, k=8, n=8))


def test_a_file_that_is_no_calibration_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text("{}")
    with pytest.raises(InputError, match=r"c\.json: is no calibration of a CPU"):
        CpuLocal(CpuLocalParams(calibration_file=path)).estimate(ops.Gemm(m=1, k=8, n=8))
    path.write_text(calibration(format=99).to_json())
    with pytest.raises(InputError, match="format 99, and this version reads"):
        CpuLocal(CpuLocalParams(calibration_file=path)).estimate(ops.Gemm(m=1, k=8, n=8))
