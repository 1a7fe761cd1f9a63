"""Whether gains survive each other: four runs of two factors, compared with arithmetic by hand.

4.3027 is the 0.975 quantile of Student's t with 2 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from run_directories import INPUTS, T2, metric, perplexity_run, write_run
from toy_runs import go, pipeline
from toy_runs import own_cache as own_cache  # a fixture

import crosslayer as cl
from crosslayer.compare_interaction import Interaction


def square(tmp_path: Path, values: Sequence[float], unit: str = "s", **more: Any) -> Interaction:
    runs = [
        write_run(tmp_path / f"r{i}", [metric("x", value, unit, **more)], inputs=inputs)
        for i, (value, inputs) in enumerate(zip(values, INPUTS, strict=True))
    ]
    (found,) = cl.compare(*runs).interactions
    (row,) = found.rows
    return row


# Milliseconds of neither, flow, thinkv, both; as factors 0.6 and 0.5, whose product is 0.3.
@pytest.mark.parametrize(
    ("both", "verdict", "sentence"),
    [
        (3.0, "none", "gains add up: as factors, 0.600× times 0.500× is 0.300×"),
        (4.5, "less", "gains overlap: 1.5 ms of 7 ms lost"),
        (
            5.5,
            "less",
            "gains overlap: 2.5 ms of 7 ms lost, together less than the better one alone",
        ),
        (11.0, "less", "gains cancel: together no gain, where they add up to 7 ms"),
        (2.0, "more", "gains reinforce each other: 1 ms on top of the 7 ms that they add up to"),
    ],
)
def test_gains_as_factors(tmp_path: Path, both: float, verdict: str, sentence: str) -> None:
    row = square(tmp_path, [value * 1e-3 for value in (10.0, 6.0, 5.0, both)])
    assert (row.scale, row.verdict, row.sentence) == ("factors", verdict, sentence)
    assert row.ratios == pytest.approx((0.6, 0.5, both / 10))
    assert row.effects == pytest.approx((-4e-3, -5e-3, (both - 10) * 1e-3))
    # (both - thinkv) - (flow - neither), and (both / thinkv) / (flow / neither)
    assert row.interaction == pytest.approx((both - 5 - (6 - 10)) * 1e-3)
    assert row.ratio_of_ratios == pytest.approx((both / 5) / 0.6)
    assert row.expected == pytest.approx(3e-3)


@pytest.mark.parametrize(
    ("values", "better", "sentence"),
    [
        ((0.5, 0.6, 0.65, 0.75), "higher", "gains add up"),
        ((0.5, 0.6, 0.65, 0.7), "higher", "gains overlap: 5 points of 25 points lost"),
        ((0.5, 0.4, 0.45, 0.2), "higher",
         "costs compound: 15 points on top of the 15 points that they add up to"),
        ((0.5, 0.4, 0.45, 0.4), "higher", "costs overlap: 5 points of 15 points saved"),
        ((0.5, 0.4, 0.7, 0.5), "higher",
         "together 10 points worse than the gain and the cost add up to"),
        ((0.5, 0.5, 0.7, 0.7), "higher",
         "only transform thinkv changes it, with or without transform flow"),
        ((0.5, 0.5, 0.5, 0.7), "higher",
         "gain only together: 20 points, and each alone changes nothing"),
        ((0.5, 0.5, 0.5, 0.5), "higher", "neither changes it"),
        ((0.5, 0.6, 0.6, 0.8), None, "together 10 points more than the effects add up to"),
    ],
)  # fmt: skip
def test_shares_add_up_as_differences(
    tmp_path: Path, values: Sequence[float], better: str | None, sentence: str
) -> None:
    row = square(tmp_path, values, "fraction", better=better)
    assert (row.scale, row.ratio_of_ratios, row.sentence) == ("differences", None, sentence)
    neither, a, b, both = values
    assert row.interaction == pytest.approx(both - a - b + neither)


def test_an_interaction_of_measured_numbers_without_interval_may_be_chance(tmp_path: Path) -> None:
    row = square(tmp_path, (10.0, 6.0, 5.0, 4.0), provenance="measured")
    assert row.sentence.endswith("; there is no interval, so this may be chance")


def perplexities(tmp_path: Path, extra: Sequence[float]) -> Interaction:
    """flow adds 0.1 nat a token, thinkv 0.3, both together 0.4 and `extra`, window by window."""
    base = (1.0, 2.0, 3.0)
    added: list[Sequence[float]] = [(0, 0, 0), (0.1,) * 3, (0.3,) * 3, [0.4 + e for e in extra]]
    runs = [
        perplexity_run(
            tmp_path / f"r{i}", [x + y for x, y in zip(base, more, strict=True)], inputs=inputs
        )
        for i, (more, inputs) in enumerate(zip(added, INPUTS, strict=True))
    ]
    return cl.compare(*runs).interactions[0].rows[0]


def test_costs_that_multiply_on_every_window_are_no_interaction(tmp_path: Path) -> None:
    row = perplexities(tmp_path, (0.0, 0.0, 0.0))
    assert row.ratio_of_ratios == pytest.approx(1.0)
    assert row.ratio_interval is not None
    assert (row.ratio_interval.low, row.ratio_interval.high) == pytest.approx((1.0, 1.0))
    assert row.verdict == "none beyond the interval"


def test_an_interaction_whose_interval_holds_nothing_is_none(tmp_path: Path) -> None:
    row = perplexities(tmp_path, (-0.04, 0.01, 0.06))  # mean 0.01, standard deviation 0.05
    half = T2 * 0.05 / math.sqrt(3)
    assert row.ratio_interval is not None
    found = (math.log(row.ratio_interval.low), math.log(row.ratio_interval.high))
    assert found == pytest.approx((0.01 - half, 0.01 + half), rel=1e-3)
    assert row.sentence == (
        "no interaction beyond the interval: together 0.892× to 1.14× of the product"
    )


def test_an_interaction_that_every_window_shows_is_one(tmp_path: Path) -> None:
    row = perplexities(tmp_path, (0.2, 0.25, 0.3))
    half = T2 * 0.05 / math.sqrt(3)
    assert row.ratio_of_ratios == pytest.approx(math.exp(0.25))
    assert row.ratio_interval is not None
    assert row.ratio_interval.how == "paired"
    assert row.ratio_interval.low == pytest.approx(math.exp(0.25 - half), rel=1e-4)
    assert row.verdict == "less"
    assert row.sentence.startswith("costs compound: ")


def test_four_unpaired_intervals_are_combined(tmp_path: Path) -> None:
    ends = [(9.0, 11.0), (5.0, 7.0), (4.0, 6.0), (2.0, 5.0)]
    values = (10.0, 6.0, 5.0, 3.0)
    runs = [
        write_run(
            tmp_path / f"r{i}",
            [metric("x", v, interval=e, confidence=0.95)],
            inputs=inputs,
        )
        for i, (v, e, inputs) in enumerate(zip(values, ends, INPUTS, strict=True))
    ]
    row = cl.compare(*runs).interactions[0].rows[0]
    found = row.interaction_interval
    assert found is not None
    # 2 = 3 - 5 - 6 + 10; below it 1 of each value, above it 1 of three and 2 of the last
    assert (found.low, found.high) == pytest.approx((2 - 2, 2 + math.sqrt(7)))
    assert row.verdict == "none beyond the interval"


def test_mixed_provenance_in_the_four_is_no_interaction(tmp_path: Path) -> None:
    runs = [
        write_run(
            tmp_path / f"r{i}",
            [metric("x", 1.0 + i, provenance="measured" if i == 3 else "modelled")],
            inputs=inputs,
        )
        for i, inputs in enumerate(INPUTS)
    ]
    row = cl.compare(*runs).interactions[0].rows[0]
    assert (row.verdict, row.interaction) == ("no comparison", None)
    assert row.sentence == "not a comparison: modelled against measured"


def test_a_square_is_found_whatever_the_order_and_beside_other_runs(tmp_path: Path) -> None:
    other = {"transform": [{"use": "flow", "sparsity": 0.7}]}
    runs = {
        name: write_run(tmp_path / name, [metric("x", 1.0)], inputs=inputs)
        for name, inputs in zip(
            ("none", "flow", "kv", "both", "more"), (*INPUTS, other), strict=True
        )
    }
    found = cl.compare(*(runs[name] for name in ("none", "both", "more", "kv", "flow")))
    (one,) = found.interactions
    assert one.runs == ("none", "flow", "kv", "both")
    assert [str(factor) for factor in (one.a, one.b)] == [
        "transform flow: without → with",
        "transform thinkv: without → with",
    ]
    assert cl.compare(runs["none"], runs["both"], runs["more"], runs["kv"]).interactions == ()
    turned = cl.compare(*runs.values(), baseline=runs["both"]).interactions[0]
    assert turned.runs == ("both", "kv", "flow", "none")
    assert str(turned.a) == "transform flow: with → without"


def test_three_levels_of_one_key_are_no_square(tmp_path: Path) -> None:
    runs = [
        write_run(
            tmp_path / f"r{i}", [metric("x", 1.0)], inputs={"transform": [{"use": "f", "s": i}]}
        )
        for i in range(4)
    ]
    assert cl.compare(*runs).interactions == ()


@pytest.mark.usefixtures("own_cache")
def test_four_real_runs_of_two_factors_are_a_square(tmp_path: Path) -> None:
    runs = []
    for pattern in ("2:4", "1:4"):
        for machine in ("small", "large"):
            text = f"""
                [pipeline]
                name = "{pattern} {machine}"
                [model]
                use = "toy"
                [[transform]]
                use = "prune"
                pattern = "{pattern}"
                [accelerator]
                use = "machine:{machine}"
            """
            runs.append(go(pipeline(tmp_path, text), tmp_path))
    in_memory = cl.compare(*runs)
    assert cl.compare(*(run.directory for run in runs)).inputs == in_memory.inputs
    (found,) = in_memory.interactions
    assert [factor.name for factor in (found.a, found.b)] == [
        "transform.prune.pattern",
        "accelerator.use",
    ]
    assert "accelerator.preset" in found.b.keys
    rows = {row.metric: row for row in found.rows}
    assert rows["weight_bytes"].sentence.startswith("only transform.prune.pattern changes it")
