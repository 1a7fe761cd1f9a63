"""Dense digital compute-in-memory on one layer: `flexcim:dense` beside zigzag-dse's DIMC.

`python benchmarks/against_zigzag.py` in an environment with zigzag-dse 3.9.1, six and this package.
The layer is SmolLM2's q projection for 64 tokens. Both have an array of 128 inputs x 128 outputs,
8-bit operands and bit-serial inputs; each keeps its own constants for gates and memories.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path

import onnx
import zigzag
from onnx import TensorProto, helper
from zigzag.api import get_hardware_performance_zigzag_imc

from crosslayer.contracts.ops import Gemm
from flow_flexcim.flexcim.accelerator import FlexCiM
from flow_flexcim.flexcim.params import FlexCiMParams

M, K, N = 64, 576, 576


def main() -> None:
    """Run both and print a table."""
    logging.disable(logging.INFO)
    inputs = Path(zigzag.__file__).parent / "inputs"
    # zigzag writes what it found into the working directory
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        file = Path(folder, "gemm.onnx")
        onnx.save(_gemm(), file)
        energy, latency, clock, _, found = get_hardware_performance_zigzag_imc(
            str(file),
            str(inputs / "hardware" / "dimc.yaml"),
            str(inputs / "mapping" / "default_imc.yaml"),
        )
    layer = found[0][1][0][0]  # of the whole network's evaluation, its only layer's
    print(f"zigzag-dse: {layer.mac_energy_breakdown}, {layer.imc_area_breakdown}")

    params = FlexCiMParams(
        preset="dense", macros=1, columns=128, input_cycles=8, clock_hz=1e9 / clock,
        constants={"leakage_w_per_mm2": 0.0},
    )  # fmt: skip
    op = Gemm(m=M, k=K, n=N, weight_format="int8", activation_format="int8")
    cost = FlexCiM(params).estimate(op)
    detail = dict(cost.detail)
    mine = sum(detail[f"{part}_j"] for part in ("cells", "trees", "merge")) * 1e12
    mine_area = FlexCiM(params).describe().area_mm2
    print("| | zigzag-dse | flexcim:dense | ratio |\n|---|---|---|---|")
    for name, theirs, ours in (
        ("cycles of computing", layer.ideal_temporal_cycle, detail["cycles"]),
        ("cycles in all", latency, detail["cycles"]),
        ("energy of the array, uJ", layer.mac_energy / 1e6, mine / 1e6),
        ("energy with memories, uJ", energy / 1e6, (cost.joules or 0) * 1e6),
        ("area of the array, mm2", layer.imc_area, mine_area),
    ):
        print(f"| {name} | {theirs:.4g} | {ours:.4g} | {ours / theirs:.3g} |")


def _gemm() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [M, K])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [M, N])
    w = helper.make_tensor("w", TensorProto.FLOAT, [K, N], [0.0] * (K * N))
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="q")
    graph = helper.make_graph([node], "layer", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


if __name__ == "__main__":
    main()
