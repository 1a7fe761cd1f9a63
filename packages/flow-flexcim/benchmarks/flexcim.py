"""FlexCiM beside its baselines: ratios ideal and with conflicts, density, streaming, sensitivity.

`python benchmarks/flexcim.py [--live] [--figures]` prints the README's tables. Every number is
modelled, except that with --live the passes of SmolLM2's tiles are counted on masks of its real
weights (Wanda, 512 calibration tokens), and one block is run through the functional simulator.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from figures import Panels, Point, draw

from crosslayer.contracts.model import Linear, ModelSpec
from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.models.presets import preset_config
from flow_flexcim import Flow, FlowParams
from flow_flexcim.flexcim.accelerator import FlexCiM
from flow_flexcim.flexcim.cost import area_mm2
from flow_flexcim.flexcim.functional import simulate
from flow_flexcim.flexcim.layers import totals
from flow_flexcim.flexcim.params import FlexCiMParams
from flow_flexcim.flexcim.technology import Technology

CHIP = {"as_int8": True, "macros": 64}
SHARING = ("ideal", "per_cell_gating", "column_gating")
BASELINES = ("dense", "fixed-2to4", "systolic")
PAIR = ("fixed-2to4", "flexible")
GAINS = ("time, fixed 2:4 over FlexCiM", "energy, fixed 2:4 over FlexCiM")
GEOMETRY: dict[str, tuple[float, ...]] = {
    "macros": (32, 128),
    "rows": (16, 64),
    "columns": (16, 64),
    "sub_macros": (2, 8),
    "pairs": (8,),
    "write_rows": (2, 4, 8, 32),
    "input_cycles": (8,),
    "clock_hz": (133e6, 532e6),
}


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


CASES = [(tokens, sharing) for tokens in (1, 512) for sharing in SHARING[:2]]
TITLES = [
    f"{tokens} token{'s' * (tokens > 1)}, {sharing.removesuffix('_gating').replace('_', ' ')}"
    for tokens, sharing in CASES
]


def density(name: str) -> Panels:
    """Gain over the fixed 2:4 engine by sparsity, with mixes of the patterns that are mapped."""
    spec = spec_of(name)
    print(f"\n{name}, over fixed 2:4, weights on chip: time / energy")
    print(f"| sparsity | {' | '.join(TITLES)} |\n|{'---|' * (len(CASES) + 1)}")
    panels: dict[str, dict[str, list[Point]]] = {what: {} for what in GAINS}
    for sparsity in (0.5, 0.5625, 0.625, 0.6875, 0.75, 0.8125, 0.875):
        one = pruned(spec, sparsity)
        cells = []
        for title, (tokens, sharing) in zip(TITLES, CASES, strict=True):
            fixed = totals(one, chip(preset="fixed-2to4"), tokens)
            mine = totals(one, chip(select_sharing=sharing), tokens)
            gains = fixed[0] / mine[0], fixed[1] / mine[1]
            cells.append("{:.2f} / {:.2f}".format(*gains))
            for what, gain in zip(GAINS, gains, strict=True):
                panels[what].setdefault(title, []).append((100 * sparsity, gain, None))
        print(f"| {sparsity:g} | {' | '.join(cells)} |")
    return panels


def streaming(name: str) -> Panels:
    """Weights from DRAM: gain over the fixed 2:4 engine by bandwidth, and where it turns."""
    spec = pruned(spec_of(name), 0.75, "2:8")

    def gain(tokens: int, sharing: str, bandwidth: float | None, at: int = 0) -> float:
        how: dict[str, object] = {"select_sharing": sharing}
        if bandwidth:
            how |= {"weights": "streamed", "dram_bytes_per_s": bandwidth}
        mine = totals(spec, chip(**how), tokens)
        return totals(spec, chip(preset="fixed-2to4", **how), tokens)[at] / mine[at]

    print(f"\n{name}, 2:8, over fixed 2:4: time / energy")
    print(f"| DRAM, GB/s | {' | '.join(TITLES)} |\n|{'---|' * (len(CASES) + 1)}")
    for bandwidth in (None, 6.4e12, 1.6e12, 4e11, 1e11, 25.6e9, 6.4e9):
        cells = [f"{gain(*c, bandwidth):.2f} / {gain(*c, bandwidth, 1):.2f}" for c in CASES]
        print(f"| {f'{bandwidth / 1e9:g}' if bandwidth else 'on chip'} | {' | '.join(cells)} |")
    turns = []
    for case in CASES:
        from_chip, from_dram = gain(*case, None), gain(*case, 1e6)
        middle = (from_chip * from_dram) ** 0.5
        low, high = 1e6, 1e14  # bytes/s; the gain goes one way between them
        for _ in range(60):
            half = (low * high) ** 0.5
            on_dram_side = (gain(*case, half) > middle) == (from_dram > from_chip)
            low, high = (half, high) if on_dram_side else (low, half)
        turns.append(f"{from_chip:.2f} to {from_dram:.2f} at {low / 1e9:.0f}")
    print(f"| half-way | {' | '.join(turns)} |")
    points = [10 ** (0.1 * i) for i in range(7, 39)]  # GB/s
    return {
        what: {
            title: [(x, gain(*case, x * 1e9, at), None) for x in points]
            for title, case in zip(TITLES, CASES, strict=True)
        }
        for at, what in enumerate(GAINS)
    }


def sensitivity(name: str) -> None:
    """Each constant and each parameter of the chip halved and doubled: what FlexCiM gains then."""
    spec = pruned(spec_of(name), 0.75, "2:8")

    def ratios(weights: str, tokens: int, **values: object) -> tuple[float, float]:
        mine = totals(spec, chip(weights=weights, **values), tokens)
        other = totals(spec, chip(preset="fixed-2to4", weights=weights, **values), tokens)
        return other[0] / mine[0], other[1] / mine[1]

    def area(**values: object) -> float:
        fixed, mine = (sum(area_mm2(chip(preset=p, **values)).values()) for p in PAIR)
        return fixed / mine

    print(f"\n{name}, 2:8, per cell gating, streamed: fixed 2:4 over FlexCiM, constant x 0.5, x 2")
    print("| constant | energy, 1 token | energy, 512 tokens | area |\n|---|---|---|---|")
    now = [f"{ratios('streamed', tokens)[1]:.2f}" for tokens in (1, 512)]
    print(f"| as they are | {' | '.join(now)} | {area():.2f} |")
    for constant in dataclasses.fields(Technology):
        changed = [{constant.name: float(constant.default) * f} for f in (0.5, 2.0)]  # type: ignore[arg-type]
        cells = [
            ", ".join(f"{ratios('streamed', tokens, constants=c)[1]:.2f}" for c in changed)
            for tokens in (1, 512)
        ]
        areas = ", ".join(f"{area(constants=c):.2f}" for c in changed)
        print(f"| {constant.name} | {' | '.join(cells)} | {areas} |")
    print(f"\n{name}, 2:8, per cell gating, on chip: fixed 2:4 over FlexCiM, time / energy")
    print("| chip | 1 token | 512 tokens | area |\n|---|---|---|---|")
    chips = [("as it is", {})]
    chips += [(f"{key} = {v:g}", {key: v}) for key, values in GEOMETRY.items() for v in values]
    for title, values in chips:
        cells = [
            "{:.2f} / {:.2f}".format(*ratios("on_chip", tokens, **values)) for tokens in (1, 512)
        ]
        print(f"| {title} | {' | '.join(cells)} | {area(**values):.2f} |")


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
    start = time.process_time()
    spec = pruned(spec_of("llama-3.1-8b"), 0.75)
    middle = time.process_time()
    totals(spec, chip(), 512)
    priced, planned = time.process_time() - middle, middle - start
    print(f"\nllama-3.1-8b: spec and plan {planned:.3f} s, pricing {priced:.3f} s of CPU time")


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
    parser.add_argument("--figures", action="store_true", help="draw figures/flexcim-*.svg too")
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
    by_sparsity = density("llama-3.1-8b")
    by_bandwidth = streaming("llama-3.1-8b")
    sensitivity("llama-3.1-8b")
    areas()
    pricing()
    if asked.figures:
        model = "FlexCiM's and the fixed engine's analytical models, Llama-3.1-8B, flexcim.py"
        title = "Gain by sparsity, weights on chip"
        draw("flexcim-density", title, "weights removed, %", by_sparsity, "modelled", model)
        title = "Gain of 2:8 with weights streamed from DRAM"
        draw("flexcim-streaming", title, "DRAM, GB/s", by_bandwidth, "modelled", model)


if __name__ == "__main__":
    main()
