"""FlexCiM beside its baselines: ratios ideal and with conflicts, density, streaming, sensitivity.

`python benchmarks/flexcim.py [--live]` prints the README's tables. Every number is modelled, except
that with --live the passes of SmolLM2's tiles are counted on masks of its real weights (Wanda, 512
calibration tokens), and one block is run through the functional simulator.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crosslayer.contracts.model import Linear, ModelSpec
from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.models.presets import preset_config
from flow_flexcim import Flow, FlowParams
from flow_flexcim.flexcim.accelerator import FlexCiM
from flow_flexcim.flexcim.cost import area_mm2
from flow_flexcim.flexcim.functional import simulate
from flow_flexcim.flexcim.layers import PARTS, totals
from flow_flexcim.flexcim.params import FlexCiMParams

CHIP = {"as_int8": True, "macros": 64}
SHARING = ("ideal", "per_cell_gating", "column_gating")
BASELINES = ("dense", "fixed-2to4", "systolic")


def chip(**values: object) -> FlexCiMParams:
    """The benchmark's chip with some parameters changed."""
    return FlexCiMParams.model_validate(CHIP | values)


def spec_of(name: str) -> ModelSpec:
    """A model by its shapes alone."""
    return ModelSpec.from_hf_config(preset_config(name), name=name)


def pruned(spec: ModelSpec, sparsity: float, pattern: str | None = None) -> ModelSpec:
    """The spec pruned without weights, by one pattern or a level mix that both engines run."""
    values: dict[str, object] = {"sparsity": sparsity, "hardware": "flexcim"}
    if pattern:
        values |= {"plan": "uniform", "pattern": pattern}
    else:
        values |= {"candidates": ["2:4", "2:8", "1:8"], "tolerance": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        flow = Flow(FlowParams.model_validate(values))
        return flow.transform(ModelArtifact(spec), RunContext(0, Path(folder))).spec


def ratios(specs: dict[str, Callable[[str], ModelSpec]]) -> None:
    """Time and energy of each baseline over FlexCiM's, for uniform patterns."""
    print("\n| model | pattern | tokens | select | dense | fixed 2:4 | systolic |")
    print("|---|---|---|---|---|---|---|")
    for name, make in specs.items():
        for pattern in ("2:4", "4:8", "2:8"):
            spec = make(pattern)
            for tokens in (1, 512):
                for sharing in SHARING:
                    mine = totals(spec, chip(select_sharing=sharing), tokens)
                    cells = []
                    for preset in BASELINES:
                        other = totals(spec, chip(preset=preset), tokens)
                        cells.append(f"{other[0] / mine[0]:.2f} / {other[1] / mine[1]:.2f}")
                    print(f"| {name} | {pattern} | {tokens} | {sharing} | {' | '.join(cells)} |")


def density(name: str) -> None:
    """Gain over the fixed 2:4 engine by sparsity, with mixes of the patterns that are mapped."""
    spec = spec_of(name)
    print(f"\n{name}, over fixed 2:4, weights on chip: time / energy")
    print("| sparsity | 1 token, ideal | 1 token, per cell | 512 tokens, ideal | per cell |")
    print("|---|---|---|---|---|")
    for sparsity in (0.5, 0.5625, 0.625, 0.6875, 0.75, 0.8125, 0.875):
        one = pruned(spec, sparsity)
        cells = []
        for tokens in (1, 512):
            fixed = totals(one, chip(preset="fixed-2to4"), tokens)
            for sharing in SHARING[:2]:
                mine = totals(one, chip(select_sharing=sharing), tokens)
                cells.append(f"{fixed[0] / mine[0]:.2f} / {fixed[1] / mine[1]:.2f}")
        print(f"| {sparsity:g} | {' | '.join(cells)} |")


def streaming(name: str) -> None:
    """One token, weights from DRAM of falling bandwidth: time of the baselines over FlexCiM's."""
    spec = pruned(spec_of(name), 0.75, "2:8")
    print(f"\n{name}, 2:8, 1 token, ideal select: time over FlexCiM's, dense and fixed 2:4")
    print("| DRAM, GB/s | dense | fixed 2:4 | dense, energy | fixed 2:4, energy |")
    print("|---|---|---|---|---|")
    for bandwidth in (None, 6.4e12, 1.6e12, 4e11, 1e11, 25.6e9):
        how: dict[str, object] = {"select_sharing": "ideal"}
        if bandwidth:
            how |= {"weights": "streamed", "dram_bytes_per_s": bandwidth}
        mine = totals(spec, chip(**how), 1)
        others = [totals(spec, chip(preset=preset, **how), 1) for preset in BASELINES[:2]]
        cells = [f"{other[at] / mine[at]:.2f}" for at in (0, 1) for other in others]
        print(f"| {f'{bandwidth / 1e9:g}' if bandwidth else 'on chip'} | {' | '.join(cells)} |")


def sensitivity(name: str) -> None:
    """Each constant halved and doubled: energy of the fixed 2:4 engine over FlexCiM's."""
    spec = pruned(spec_of(name), 0.75, "2:8")

    def ratio(tokens: int, **values: object) -> float:
        mine = totals(spec, chip(**values), tokens)[1]
        return totals(spec, chip(preset="fixed-2to4", **values), tokens)[1] / mine

    print(f"\n{name}, 2:8, per cell gating: energy of fixed 2:4 over FlexCiM's")
    print("| constant | 1 token: x 0.5, x 1, x 2 | 512 tokens: x 0.5, x 1, x 2 |\n|---|---|---|")
    for part in PARTS:
        cells = []
        for tokens in (1, 512):
            found = [
                ratio(tokens, weights="streamed", energy_scale={part: f}) for f in (0.5, 1.0, 2.0)
            ]
            cells.append(", ".join(f"{value:.2f}" for value in found))
        print(f"| {part} | {' | '.join(cells)} |")
    for tokens in (1, 512):
        found = [ratio(tokens, weights="streamed", leakage_w_per_mm2=0.01 * f) for f in (0.5, 1, 2)]
        print(f"| leakage, {tokens} tokens | {', '.join(f'{value:.2f}' for value in found)} | |")


def areas() -> None:
    """Area by part of each preset."""
    print("\n| preset | area, mm2 | parts |\n|---|---|---|")
    for title, params in (
        *((preset, chip(preset=preset)) for preset in ("flexible", *BASELINES)),
        ("flexible, select ideal", chip(select_sharing="ideal")),
    ):
        parts = area_mm2(params)
        listed = ", ".join(f"{key} {value:.2f}" for key, value in parts.items())
        print(f"| {title} | {sum(parts.values()):.1f} | {listed} |")


def pricing() -> None:
    """CPU time of pricing a whole model that has no weights."""
    spec = pruned(spec_of("llama-3.1-8b"), 0.75)
    start = time.process_time()
    totals(spec, chip(), 512)
    print(f"\npricing llama-3.1-8b: {time.process_time() - start:.2f} s of CPU time")


def live() -> Callable[[str], ModelSpec]:
    """SmolLM2 pruned for real: its spec has the passes of its masks. Prints them, and checks the
    functional simulator on its first block."""
    from crosslayer.models.smollm2 import smollm2

    artifact = smollm2()

    def make(pattern: str) -> ModelSpec:
        values = {
            "plan": "uniform", "pattern": pattern, "hardware": "flexcim",
            "sparsity": 1 - NMSparsity.parse(pattern).density, "calibration_tokens": 512,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            flow = Flow(FlowParams.model_validate(values))
            result = flow.transform(artifact, RunContext(0, Path(folder)))
        linears = [part for _, part in result.spec.parts(Linear) if part.annotations]
        for how in ("per_cell_gating", "column_gating"):
            found = [dict(part.annotations)[f"flexcim.{how}.4x32x32"] for part in linears]
            print(f"{pattern}, {how}: {np.mean(found):.2f} passes a tile on real masks")
        assert result.live is not None
        rng, error = np.random.default_rng(0), 0
        for part in linears[:7]:
            weight = result.live.module.get_submodule(str(part.path)).weight.detach().numpy()
            scaled = np.rint(weight / np.abs(weight).max() * 127).astype(np.int8)
            x = rng.integers(-128, 128, (4, weight.shape[1])).astype(np.int8)
            run = simulate(scaled, x, NMSparsity.parse(pattern), chip())
            exact = x.astype(np.int64) @ scaled.astype(np.int64).T
            error = max(error, int(np.abs(run.result - exact).max()))
        print(f"{pattern}: largest error of the simulator on a block: {error}")
        return result.spec

    return make


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="SmolLM2 with its real masks")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    specs: dict[str, Callable[[str], ModelSpec]] = {}
    names = ("llama-3.1-8b", "mamba-2.8b", *(() if asked.live else ("smollm2-135m",)))
    for name in names:
        spec = spec_of(name)
        specs[name] = lambda pattern, spec=spec: pruned(  # type: ignore[misc]
            spec, 1 - NMSparsity.parse(pattern).density, pattern
        )
    if asked.live:
        specs["smollm2-135m"] = live()
    print(f"chip: {FlexCiM(chip()).describe().rates[0].flops_per_s / 1e12:.1f} dense TOP/s")
    ratios(specs)
    density("llama-3.1-8b")
    streaming("llama-3.1-8b")
    sensitivity("llama-3.1-8b")
    areas()
    pricing()


if __name__ == "__main__":
    main()
