"""Energy and area of gates and memories: what every figure of the accelerator stands on.

Gates: NAND2 capacitance and area, XOR2 and flip-flop ratios as in zigzag-dse 3.9.1
(zigzag/hardware/architecture/imc_unit.py), 28 nm, 0.9 V, and as there C V^2 for adders and
flip-flops, half of it for the AND of a multiplier.
Memories: Horowitz, ISSCC 2014, 1.1 (45 nm): 64 bits from a 32 KB SRAM 20 pJ, from DRAM 1.3 to 2.6
nJ, of which the lower end is taken. Counts of gates are ours: a full adder is two XOR2 and three
NAND2, a 2:1 selector three NAND2 a bit, an 8-bit multiplier 64 AND and 56 full adders.
"""

from __future__ import annotations

VOLTS = 0.9
NAND2_F = 0.7e-15
NAND2_MM2 = 0.614e-6
XOR2_ENERGY, XOR2_AREA = 1.5, 2.4  # of a NAND2
FLIPFLOP_ENERGY, FLIPFLOP_AREA = 3.0, 6.0

AND_J = 0.5 * NAND2_F * VOLTS**2

GATE_J = NAND2_F * VOLTS**2
ADDER_J = (2 * XOR2_ENERGY + 3) * GATE_J  # a bit
ADDER_MM2 = (2 * XOR2_AREA + 3) * NAND2_MM2
SELECT_J, SELECT_MM2 = 3 * GATE_J, 3 * NAND2_MM2  # 2:1, a bit
# Equal or not, a bit: an XOR2 and its share of what joins the bits.
COMPARE_J, COMPARE_MM2 = (XOR2_ENERGY + 1) * GATE_J, (XOR2_AREA + 1) * NAND2_MM2
REGISTER_J, REGISTER_MM2 = FLIPFLOP_ENERGY * GATE_J, FLIPFLOP_AREA * NAND2_MM2  # a bit
MULTIPLIER_J = 64 * AND_J + 56 * ADDER_J  # 8 x 8 bits
MULTIPLIER_MM2 = 64 * NAND2_MM2 + 56 * ADDER_MM2
SRAM_CELL_MM2 = NAND2_MM2 / 4  # a bit: of the order of 28 nm cells, an assumption

SRAM_J_PER_BYTE = 20e-12 / 8
DRAM_J_PER_BYTE = 1.3e-9 / 8

SOURCE = (
    "gates: zigzag-dse 3.9.1 imc_unit.py (28 nm, 0.9 V); memories: Horowitz, ISSCC 2014 (45 nm); "
    "gate counts and leakage: assumptions of flow-flexcim"
)
