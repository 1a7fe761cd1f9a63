"""Energy and area of gates and memories: what every figure of the accelerator stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Constant = Literal[
    "volts", "nand2_f", "nand2_mm2", "xor2_energy", "xor2_area", "flipflop_energy",
    "flipflop_area", "multiplier_adders", "sram_cell_nand2", "sram_j_per_byte", "dram_j_per_byte",
    "leakage_w_per_mm2",
]  # fmt: skip

SOURCE = (
    "gates: zigzag-dse 3.9.1 imc_unit.py (28 nm, 0.9 V); memories: Horowitz, ISSCC 2014 (45 nm); "
    "gate counts, the memory cell and leakage: assumptions of flow-flexcim"
)


@dataclass(frozen=True)
class Technology:
    """The constants, each of which `constants` of the accelerator may replace, and what follows.

    Gates: NAND2 capacitance and area, XOR2 and flip-flop as multiples of it, as in zigzag-dse 3.9.1
    (zigzag/hardware/architecture/imc_unit.py), and as there C V^2 for adders and flip-flops, half
    of it for the AND of a multiplier. Memories: Horowitz, ISSCC 2014, 1.1: 64 bits from a 32 KB
    SRAM 20 pJ, from DRAM 1.3 to 2.6 nJ, of which the lower end is taken. Counts of gates are ours:
    a full adder is two XOR2 and three NAND2, a 2:1 selector three NAND2 a bit, an 8-bit multiplier
    64 AND and 56 full adders.
    """

    volts: float = 0.9
    nand2_f: float = 0.7e-15
    nand2_mm2: float = 0.614e-6
    xor2_energy: float = 1.5  # of a NAND2
    xor2_area: float = 2.4
    flipflop_energy: float = 3.0
    flipflop_area: float = 6.0
    multiplier_adders: float = 56  # full adders of an 8 x 8 bit multiplier
    sram_cell_nand2: float = 0.25  # area of a memory bit, as in 28 nm cells: an assumption
    sram_j_per_byte: float = 20e-12 / 8
    dram_j_per_byte: float = 1.3e-9 / 8
    leakage_w_per_mm2: float = 0.01  # of the macros, an assumption

    @property
    def gate_j(self) -> float:
        """A NAND2 that switches."""
        return self.nand2_f * self.volts**2

    @property
    def adder_j(self) -> float:
        """A full adder, a bit."""
        return (2 * self.xor2_energy + 3) * self.gate_j

    @property
    def adder_mm2(self) -> float:
        """A full adder, a bit."""
        return (2 * self.xor2_area + 3) * self.nand2_mm2

    @property
    def select_j(self) -> float:
        """A 2:1 selector, a bit."""
        return 3 * self.gate_j

    @property
    def select_mm2(self) -> float:
        """A 2:1 selector, a bit."""
        return 3 * self.nand2_mm2

    @property
    def compare_j(self) -> float:
        """Equal or not, a bit: an XOR2 and its share of what joins the bits."""
        return (self.xor2_energy + 1) * self.gate_j

    @property
    def compare_mm2(self) -> float:
        """Equal or not, a bit."""
        return (self.xor2_area + 1) * self.nand2_mm2

    @property
    def register_j(self) -> float:
        """A flip-flop, a bit."""
        return self.flipflop_energy * self.gate_j

    @property
    def register_mm2(self) -> float:
        """A flip-flop, a bit."""
        return self.flipflop_area * self.nand2_mm2

    @property
    def multiplier_j(self) -> float:
        """8 x 8 bits."""
        return 64 * 0.5 * self.gate_j + self.multiplier_adders * self.adder_j

    @property
    def multiplier_mm2(self) -> float:
        """8 x 8 bits."""
        return 64 * self.nand2_mm2 + self.multiplier_adders * self.adder_mm2

    @property
    def sram_cell_mm2(self) -> float:
        """A bit of the macro's memory."""
        return self.sram_cell_nand2 * self.nand2_mm2
