"""The other cost modes: OWL's allocation, the released solver's formula, probing; plan files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.contracts.model import Linear
from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.models.random_model import random_model
from crosslayer.progress import Progress as quiet
from flow_flexcim import Flow, FlowParams, planfile
from flow_flexcim.calibration import dense_inputs
from flow_flexcim.costs import options, owl_costs, released_costs
from flow_flexcim.linears import BlockLinears, decoder_linears, units
from flow_flexcim.modules import live_linears, weight_of
from flow_flexcim.plan import flow_plan, uniform_plan
from flow_flexcim.probe import Probe, _monotone, probe_costs, probed_patterns
from flow_flexcim.signals import released_locality
from flow_flexcim.wanda import scores

EIGHT = tuple(NMSparsity(n, 8) for n in range(1, 9))


def blocks(*sizes: int) -> list[BlockLinears]:
    return [
        BlockLinears(
            f"layers.{i}", (Linear(name="l", path=f"l{i}", outputs=size, inputs=16),), (1,), i
        )
        for i, size in enumerate(sizes)
    ]


def test_owl_gives_more_density_to_more_outliers_and_keeps_the_budget() -> None:
    found = blocks(8, 8, 8)
    costs = owl_costs(found, [EIGHT] * 3, [0.01, 0.02, 0.03], 0.5, 0.25)
    plan = flow_plan(options(found, [EIGHT] * 3, costs), 3 * 128, 0.5, 0.0)
    assert [p.n for p in plan.patterns] == [3, 4, 5]
    assert plan.sparsity == 0.5
    level = owl_costs(found, [EIGHT] * 3, [0.01] * 3, 0.5, 0.25)  # no spread, no difference
    assert flow_plan(options(found, [EIGHT] * 3, level), 384, 0.5).patterns == (EIGHT[3],) * 3


def test_the_released_cost_is_its_formula_with_counts_against_shares() -> None:
    patterns = tuple(map(NMSparsity.parse, ("2:4", "4:8", "8:8")))
    first, last = released_costs([patterns] * 2, [10.0, 30.0], [1e-5, 3e-5])
    # O = 0, D = 0: |N - 0| + 4 |M - 8|; O = 1, D = 1: |N - 8| + 4 |M - 0|.
    assert first == [2 + 16, 4 + 0, 8 + 0]
    assert last == [6 + 16, 4 + 32, 0 + 32]
    assert released_costs([patterns] * 2, [1.0, 1.0], [2.0, 2.0])[0] == first


@given(st.integers(0, 2**31), st.floats(0.5, 3))
def test_the_released_locality_is_the_mean_of_the_whole_distance_matrix(
    seed: int, multiple: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(6, 8, generator=generator) for _ in range(2)]
    ones = torch.ones(8, dtype=torch.float64)
    flat = torch.cat([scores(w, ones).reshape(-1) for w in weights])
    at = (flat > multiple * flat.mean()).nonzero().flatten()[:20].double()
    expected = 0.0 if len(at) < 2 else 1 / float((at[:, None] - at[None]).abs().mean())
    assert released_locality(weights, [ones] * 2, multiple, first=20) == pytest.approx(expected)


def test_probes_lie_at_half_and_whole_reach_on_either_side() -> None:
    def measured(patterns: tuple[NMSparsity, ...], base: int, center: float) -> list[int]:
        return [p.n for p in probed_patterns(patterns, patterns[base - 1], center, 0.25)]

    assert measured(EIGHT, 4, 0.5) == [2, 3, 5, 6]
    assert measured(EIGHT, 1, 0.125) == [2, 3]
    assert measured(EIGHT, 4, 0.375) == [1, 2, 3, 5]
    assert measured(EIGHT, 4, 0.125) == [1, 2, 3]
    assert measured(tuple(NMSparsity(n, 16) for n in range(1, 17)), 8, 0.5) == [4, 6, 10, 12]


def test_costs_that_rise_with_density_are_pooled() -> None:
    assert _monotone([3.0, 1.0, 2.0, 0.0]) == [3.0, 1.5, 1.5, 0.0]
    assert _monotone([0.0, 1.0, 2.0]) == [1.0, 1.0, 1.0]


def test_a_probe_is_the_loss_of_the_model_with_one_block_changed(tiny: ModelArtifact) -> None:
    assert tiny.live is not None
    found = decoder_linears(tiny.spec)
    windows = np.random.default_rng(0).integers(0, 256, (2, 24))
    linears = live_linears(tiny.live.module, found)
    inputs = dense_inputs(tiny.live.module, linears, windows, quiet())
    before = {path: weight_of(module).clone() for path, module in linears.items()}
    base = uniform_plan(found, EIGHT, 0.5).patterns
    offered, costs = probe_costs(
        tiny.live, found, [EIGHT] * 3, base, [0.375] * 3, inputs, windows, 0.25, quiet()
    )
    assert all(torch.equal(weight_of(linears[path]), before[path]) for path in linears)
    assert [[p.n for p in row] for row in offered] == [[1, 2, 3, 4, 5]] * 3

    def loss(ns: tuple[int, ...]) -> float:
        copy = tiny.live.copy()  # type: ignore[union-attr]
        for block, n in zip(found, ns, strict=True):
            for spec in block.linears:
                weight = weight_of(live_linears(copy.module, found)[str(spec.path)])
                score = scores(before[str(spec.path)], inputs[str(spec.path)].mean_square)
                with torch.no_grad():
                    weight.mul_(torch.from_numpy(NMSparsity(n, 8).mask(score.numpy())))
        with torch.inference_mode():
            ids = torch.from_numpy(windows)
            logits = copy.module(input_ids=ids).logits[:, :-1].flatten(0, 1)
            return float(torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()))

    raw = [loss((4, n, 4)) - loss((4, 4, 4)) for n in (1, 2, 3, 4, 5)]
    assert costs[1] == pytest.approx(_monotone(raw), abs=2e-6)


def test_what_was_probed_for_one_target_is_not_measured_again_for_the_next(
    tiny: ModelArtifact,
) -> None:
    assert tiny.live is not None
    found = decoder_linears(tiny.spec)
    windows = np.random.default_rng(0).integers(0, 256, (2, 24))
    linears = live_linears(tiny.live.module, found)
    inputs = dense_inputs(tiny.live.module, linears, windows, quiet())
    base = uniform_plan(found, EIGHT, 0.5).patterns
    known: dict[Probe, float] = {}
    counts = []
    for center in (0.5, 0.375):
        how = (inputs, windows, 0.25, quiet())
        shared = probe_costs(tiny.live, found, [EIGHT] * 3, base, [center] * 3, *how, known)
        assert shared == probe_costs(tiny.live, found, [EIGHT] * 3, base, [center] * 3, *how)
        counts.append(len(known))
    assert counts == [3 * 4, 3 * 5]  # of 1, 2, 3 and 5 of 8 only 1:8 is new
    known.update(dict.fromkeys(known, 0.25))
    _, costs = probe_costs(tiny.live, found, [EIGHT] * 3, base, [0.5] * 3, *how, known)
    assert costs[0][:2] == [0.25, 0.25]  # taken, not measured


def test_each_linear_has_its_own_pattern_where_that_is_asked(
    tiny: ModelArtifact, text: str, tmp_path: Path
) -> None:
    params = FlowParams(
        granularity="linear", cost="recon", candidates=("2:8", "4:8", "6:8"),
        calibration_text=text, calibration_tokens=128, window_tokens=64, dense_blocks=(0, -1),
        sparsity=0.2, tolerance=0.01,
    )  # fmt: skip
    result = Flow(params).transform(tiny, RunContext(seed=0, output=tmp_path))
    (table,) = result.tables
    assert len(table.rows) == 21
    assert {row[1] for row in table.rows if str(row[0]).startswith("layers.1.")} > {"2:8"}
    ends = [row[1] for row in table.rows if not str(row[0]).startswith("layers.1.")]
    assert set(ends) == {"1:1"}
    achieved = next(m.value for m in result.metrics if m.name == "flow_sparsity")
    assert abs(achieved - 0.2) <= 0.01
    again = Flow(params).restore(tiny, result.files, RunContext(seed=0, output=tmp_path))
    assert again.spec == result.spec
    whole = params.model_copy(update={"granularity": "block"})
    with pytest.raises(InputError, match=r"several patterns in layers\.1, .*granularity"):
        Flow(whole).restore(tiny, result.files, RunContext(seed=0, output=tmp_path))


def test_a_plan_survives_its_file_in_both_forms(tiny: ModelArtifact, tmp_path: Path) -> None:
    found = units(decoder_linears(tiny.spec), "block")
    plan = uniform_plan(found, EIGHT, 0.5)
    for name in ("plan.json", "plan.txt"):
        planfile.write(tmp_path / name, found, plan)
        assert planfile.read(tmp_path / name, found) == plan
        marked = tmp_path / f"marked-{name}"  # as some editors save it
        marked.write_text("\ufeff" + (tmp_path / name).read_text(), encoding="utf-8")
        assert planfile.read(marked, found) == plan
    params = FlowParams(plan_file=str(tmp_path / "plan.txt"))
    result = Flow(params).transform(tiny.replace(live=None), RunContext(seed=0, output=tmp_path))
    assert [row[1] for row in result.tables[0].rows] == ["4:8"] * 3
    assert not any("asked for" in metric.note for metric in result.metrics)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Layer 0: 4:8\nLayer 2: 4:8\n", "no pattern for layers.1"),
        ("Layer 0: 4:8\nLayer one: 4:8\n", "line 2: 'Layer one: 4:8' is not"),
        ("Layer 0: 4:8\nLayer 1: 4:8\nLayer 2: 4:8\nLayer 9: 4:8\n", "a pattern for Layer 9"),
        ("Layer 0: 4:8\nLayer 1: 4:7\nLayer 2: 4:8\n", "4:7 of layers.1 does not divide"),
        ("Layer 0: 4:8\nLayer 1: 4:8\nLayer 1: 2:8\n", "line 3: Layer 1 is there twice"),
        ('{"layers.0": "4:8", "layers.0": "2:8"}', "'layers.0' is there twice"),
        ("Layer 0: 9:8\nLayer 1: 4:8\nLayer 2: 4:8\n", "9:8"),
        ("{", "no JSON"),
        (json.dumps({"format": "other"}), "no plan of version 1"),
    ],
)
def test_a_plan_file_that_is_wrong_is_named(
    content: str, message: str, tiny: ModelArtifact, tmp_path: Path
) -> None:
    file = tmp_path / "plan"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        planfile.read(file, decoder_linears(tiny.spec))


def test_a_block_that_is_not_there_cannot_stay_dense() -> None:
    with pytest.raises(InputError, match=r"dense_blocks has 3, and the model has 3"):
        units(decoder_linears(random_model(TINY).spec), "block", (3,))


def test_ends_that_stay_dense_are_counted_and_the_others_make_up_for_them() -> None:
    found = units(blocks(8, 8, 8, 8), "block", (0, -1))
    plan = uniform_plan(found, EIGHT, 0.375)
    assert [str(p) for p in plan.patterns] == ["1:1", "2:8", "2:8", "1:1"]
    assert plan.sparsity == 0.375
    with pytest.raises(InputError, match=r"nearest reachable are 0\.4375"):
        uniform_plan(found, EIGHT, 0.5)
