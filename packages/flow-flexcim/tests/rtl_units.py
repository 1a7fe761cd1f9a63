"""Runs inside Icarus, by cocotb: each unit of the macro alone, driven at random from Python.

`test_rtl.py` starts it and says which unit is the top level; it is no test module of pytest's.
"""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

S, R, P, W, LS, LR, LP = 4, 4, 4, 8, 2, 2, 2
WS = 2 * W + LR  # of a column's sum


def word(values: Any, bits: int) -> int:
    """Values side by side, the first lowest."""
    mask = (1 << bits) - 1
    return sum((int(v) & mask) << (bits * i) for i, v in enumerate(np.ravel(values)))


@cocotb.test()
async def distribution(dut: Any) -> None:
    """Every sub-macro gets the pair that the selector it is routed to picks from its own set."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        sets = rng.integers(0, 1 << 2 * W, (S, P))
        pick, route = rng.integers(0, P, S), rng.integers(0, S, S)
        dut.sets.value = word(sets, 2 * W)
        dut.pick.value, dut.route.value = word(pick, LP), word(route, LS)
        await Timer(1, "ns")
        assert int(dut.lines.value) == word([sets[s, pick[s]] for s in route], 2 * W)


@cocotb.test()
async def column(dut: Any) -> None:
    """A column sums its weights times the chosen elements of the pairs that they wait for, while
    its other bank is written; a row that is off adds nothing.
    """
    rng = np.random.default_rng(1)
    cocotb.start_soon(Clock(dut.clk, 2, "ns").start())
    banks = np.zeros((2, R, 3), dtype=np.int64)  # weight, element, pair
    dut.write.value, dut.on.value = 1, 0
    for bank in (0, 1):
        for row in range(R):
            banks[bank, row] = _cell(rng)
            _write(dut, bank, row, banks[bank, row])
            await FallingEdge(dut.clk)
    for _ in range(200):
        bank, row = (int(v) for v in rng.integers(0, (2, R)))
        x = rng.integers(-128, 128, (R, 2))
        presented, on = rng.integers(0, P, R), rng.integers(0, 2, R)
        dut.bank.value = bank
        dut.lines.value, dut.on.value = word(x, W), word(on, 1)
        dut.presented.value = word(presented, LP)
        new = _cell(rng)
        _write(dut, 1 - bank, row, new)
        await FallingEdge(dut.clk)
        weight, element, pair = banks[bank].T
        fires = (on == 1) & (pair == presented)
        assert dut.sum.value.to_signed() == (weight * x[np.arange(R), element])[fires].sum()
        banks[1 - bank, row] = new


@cocotb.test()
async def merging(dut: Any) -> None:
    """A total adds the sub-macros' sums over a token's passes and rests while none is valid."""
    rng = np.random.default_rng(2)
    cocotb.start_soon(Clock(dut.clk, 2, "ns").start())
    total = 0
    for step in range(300):
        largest = (1 << (WS - 1)) - 1
        sums = rng.choice([-largest - 1, largest, *rng.integers(-1000, 1000, 4)], S)
        valid, first = (
            int(rng.integers(0, 2)) or int(step == 0),
            int(rng.random() < 0.2 or step == 0),
        )
        dut.valid.value, dut.first.value, dut.sums.value = valid, first, word(sums, WS)
        await FallingEdge(dut.clk)
        if valid:
            total = int(sums.sum()) + (0 if first else total)
        assert dut.total.value.to_signed() == total


def _cell(rng: np.random.Generator) -> tuple[int, int, int]:
    return int(rng.integers(-128, 128)), int(rng.integers(0, 2)), int(rng.integers(0, P))


def _write(dut: Any, bank: int, row: int, cell: Any) -> None:
    weight, element, pair = (int(v) for v in cell)
    dut.into.value, dut.row.value = bank, row
    dut.word.value = (weight & 0xFF) << (LP + 1) | element << LP | pair
