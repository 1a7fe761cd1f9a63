"""The Verilog of the macro against the functional simulator: totals and cycles; it synthesises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from crosslayer.contracts.sparsity import NMSparsity
from flow_flexcim.flexcim.cost import macro_of, tiling
from flow_flexcim.flexcim.functional import passes_of_a_tile, simulate
from flow_flexcim.flexcim.macro import kept_places
from flow_flexcim.flexcim.params import FlexCiMParams

RTL = Path(__file__).resolve().parents[1] / "rtl"
S, R, C, P, W, LS, LR, LP = 4, 4, 4, 4, 8, 2, 2, 2
PARAMS = FlexCiMParams(sub_macros=S, rows=R, columns=C, pairs=P, macros=1)


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing, which the Verilog tests need: apt-get install {package}")
    return found


def field(values: np.ndarray, bits: int) -> int:
    """Values side by side, the first lowest."""
    word = 0
    for i, value in enumerate(values.ravel().tolist()):
        word |= (int(value) & ((1 << bits) - 1)) << (bits * i)
    return word


def lines(weight: np.ndarray, x: np.ndarray, pattern: NMSparsity) -> list[int]:
    """Inputs of one tile, a line a cycle: R writes, then the passes of each token. A sub-macro is
    routed to any selector, and the idle bank is written all the while.
    """
    tile = tiling(pattern, PARAMS)
    assert not isinstance(tile, str)
    slots, m = tile.place.slots, tile.place.m
    per_row = S // slots  # groups in a row
    places = kept_places(weight != 0, tile.place, macro_of(PARAMS))  # [C, groups, slots]
    stored = np.take_along_axis(weight.reshape(C, -1, m), np.maximum(places, 0), axis=2)
    stored = np.where(places >= 0, stored, 0)

    def by_row(a: np.ndarray) -> np.ndarray:  # [..., groups, slots] -> [..., R, S]
        return a.reshape(*a.shape[:-2], R, S)

    cells = by_row(np.where(places >= 0, places, 0))
    weights = by_row(stored)
    fields = [5, LR, S * C * (W + LP + 1), R * S * P * 2 * W, R * S * LP, R * S * LS, R * S * LP]
    starts = np.cumsum([0, *fields]).tolist()

    def line(control: int, row: int = 0, **parts: int) -> int:
        names = ("words", "sets", "pick", "route", "presented", "on")
        word = control | row << 5
        for name, start in zip(names, starts[2:], strict=True):
            word |= parts.get(name, 0) << start
        return word

    found = []
    for row in range(R):
        words = (
            (weights[:, row] & 0xFF) << (LP + 1) | (cells[:, row] % 2) << LP | cells[:, row] // 2
        )
        found.append(line(1, row, words=field(words.T, W + LP + 1)))  # [S, C]
    turns = list(passes_of_a_tile(places))
    rng = np.random.default_rng(0)
    route = rng.permuted(np.tile(np.arange(S), (R, 1)), axis=1)  # [R, S]: each one's selector
    served = np.argsort(route, axis=1)  # the sub-macro that a selector serves

    def by_selector(a: np.ndarray) -> np.ndarray:  # [R, S, ...] by sub-macro
        return np.take_along_axis(a, served.reshape(R, S, *[1] * (a.ndim - 2)), axis=1)

    for token in x:
        pairs = np.zeros((R * per_row, P, 2), dtype=np.int64)
        pairs[:, : m // 2] = token.reshape(-1, m // 2, 2)
        sets = by_selector(np.repeat(pairs.reshape(R, per_row, P, 2), slots, axis=1))
        for turn, (presented, on) in enumerate(turns):
            control = 1 | 2 | 4 | (turn == 0) << 3 | (turn == len(turns) - 1) << 4
            now = by_row(presented)
            other = field(rng.integers(0, 1 << (W + LP + 1), (S, C)), W + LP + 1)
            found.append(
                line(
                    control, len(found) % R, words=other, sets=field(sets, W),
                    pick=field(by_selector(now), LP), route=field(route, LS),
                    presented=field(now, LP), on=field(by_row(on.astype(np.int64)), 1),
                )
            )  # fmt: skip
    return found


@pytest.mark.parametrize("text", ["1:4", "2:4", "1:8", "2:8", "4:8"])
def test_the_verilog_gives_the_simulators_totals_in_its_cycles(text: str, tmp_path: Path) -> None:
    iverilog = tool("iverilog", "iverilog")
    pattern = NMSparsity.parse(text)
    tile = tiling(pattern, PARAMS)
    assert not isinstance(tile, str)
    rng = np.random.default_rng(3)
    mask = pattern.mask(rng.random((C, tile.inputs)))
    weight = np.where(mask, rng.integers(-128, 128, mask.shape), 0).astype(np.int8)
    x = rng.integers(-128, 128, (5, tile.inputs)).astype(np.int8)
    run = simulate(weight, x, pattern, PARAMS)

    played = lines(weight.astype(np.int64), x.astype(np.int64), pattern)
    (tmp_path / "inputs.hex").write_text("\n".join(f"{line:x}" for line in played))
    program = tmp_path / "bench"
    build = [iverilog, "-g2012", f"-Pbench.CYCLES={len(played)}", "-o", str(program)]
    subprocess.run([*build, str(RTL / "bench.v"), str(RTL / "macro.v")], check=True)
    said = subprocess.run([str(program)], cwd=tmp_path, check=True, capture_output=True, text=True)
    rows = np.array([line.split() for line in said.stdout.splitlines()], dtype=np.int64)
    assert (rows[:, 1:] == run.result).all()
    passes = int(run.passes.max())
    # Written in R cycles; then a pass a cycle and the pipeline: what `schedule` says of one tile.
    assert rows[:, 0].tolist() == [R + passes * (i + 1) + tile.pipeline - 1 for i in range(5)]
    if 5 * passes >= R:
        assert run.cycles == R + 5 * passes + tile.pipeline


@pytest.mark.parametrize("unit", ["distribution", "column", "merging"])
def test_each_unit_alone_agrees_with_python_cycle_by_cycle(unit: str, tmp_path: Path) -> None:
    tool("iverilog", "iverilog")
    from cocotb_tools.runner import get_runner
    from find_libpython import find_libpython

    if find_libpython() is None:
        version = "{}.{}".format(*sys.version_info)
        pytest.skip(f"cocotb needs Python's shared library: apt-get install libpython{version}")
    runner = get_runner("icarus")
    runner.build(
        sources=[RTL / "macro.v"], hdl_toplevel=unit, build_dir=tmp_path, build_args=["-g2012"],
        timescale=("1ns", "1ps"),
    )  # fmt: skip
    results = runner.test(
        test_module="rtl_units", hdl_toplevel=unit, testcase=unit, build_dir=tmp_path,
        test_dir=tmp_path, results_xml=str(tmp_path / "results.xml"),
        extra_env={"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )  # fmt: skip
    ran = ElementTree.parse(results).getroot()
    assert len(list(ran.iter("testcase"))) >= 1
    assert not list(ran.iter("failure")) and not list(ran.iter("error"))


def test_the_verilog_synthesises() -> None:
    yosys = tool("yosys", "yosys")
    script = "read_verilog -sv macro.v; synth -top macro; check -assert"  # a path may have spaces
    done = subprocess.run([yosys, "-q", "-p", script], cwd=RTL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
