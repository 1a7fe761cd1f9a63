"""CPU time of planning and pruning SmolLM2-135M against one calibration pass.

`python benchmarks/speed.py` prints, for each cost that runs no model, the ratio of plan + Wanda
prune (packed as it ships) to one pass of 2,048 calibration tokens. CPU time, one thread.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from crosslayer.kinds import RunContext
from crosslayer.models.smollm2 import smollm2
from flow_flexcim.linears import decoder_linears
from flow_flexcim.params import FlowParams
from flow_flexcim.planning import make_plan
from flow_flexcim.prune import calibrate, calibration_windows, prune


def main() -> None:
    """Measure and print the table."""
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    model = smollm2()
    assert model.live is not None
    context = RunContext(0, Path())
    params = FlowParams()
    blocks = decoder_linears(model.spec)
    windows = calibration_windows(model.live, params, context)
    # Once on one block first: what is imported and built on first use is in no figure.
    some = calibrate(model.live, blocks[:1], windows[:1], params, context)
    first_block = FlowParams.model_validate({"cost": "outlier"})
    plan, _ = make_plan(model.live, blocks[:1], some, windows, first_block, context)
    prune(model.live, blocks[:1], plan.patterns, some, windows, first_block, context)
    start = time.process_time()
    inputs = calibrate(model.live, blocks, windows, params, context)
    one = time.process_time() - start
    print(f"calibration pass: {one:.1f} s\n\n| cost | plan, s | prune, s | of a pass |")
    print("|---|---|---|---|")
    for cost in ("outlier", "recon"):
        params = FlowParams.model_validate({"cost": cost})
        start = time.process_time()
        plan, _ = make_plan(model.live, blocks, inputs, windows, params, context)
        middle = time.process_time()
        prune(model.live, blocks, plan.patterns, inputs, windows, params, context)
        end = time.process_time()
        first, second = middle - start, end - middle
        print(f"| {cost} | {first:.1f} | {second:.1f} | {(first + second) / one:.2f} |")


if __name__ == "__main__":
    main()
