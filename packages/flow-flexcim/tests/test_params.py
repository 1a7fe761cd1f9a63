"""Parameters: what is refused, and that they load nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from flow_flexcim.params import FlowParams


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsity": 0.0}, "greater than 0"),
        ({"sparsity": 1.0}, "less than 1"),
        ({"candidates": []}, "at least 1 item"),
        ({"candidates": ["2:4", "5:4"]}, "5:4"),
        ({"candidates": ["half"]}, "'half' is not n:m"),
        ({"candidates": ["1:128"]}, "M is at most 64"),
        ({"pattern": "2:4"}, 'is for plan = "uniform"'),
        ({"plan": "uniform", "pattern": "6:8"}, r"removes 0\.25, less than sparsity = 0\.5"),
        (
            {"plan": "uniform", "pattern": "3:8", "hardware": "flexcim"},
            'pattern = "3:8" has no N that is a power of two',
        ),
        ({"calibration_tokens": 64}, "window_tokens = 256 is more than"),
        ({"outlier_multiple": 0}, "greater than 0"),
        ({"sparcity": 0.5}, "Extra inputs"),
    ],
)
def test_what_makes_no_plan_is_refused_with_its_reason(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        FlowParams.model_validate(values)


def test_patterns_are_written_one_way_and_named_once() -> None:
    params = FlowParams(candidates=("2:4", " 2 : 4 ", "4:8"))
    assert params.candidates == ("2:4", "4:8")
    assert FlowParams.model_validate_json(params.model_dump_json()) == params


def test_the_default_candidates_are_every_n_of_4_8_and_16() -> None:
    candidates = FlowParams().candidates
    assert len(candidates) == len(set(candidates)) == 3 + 7 + 15 + 1
    assert {"1:4", "3:8", "15:16", "4:4"} <= set(candidates)


def test_plugin_and_parameters_import_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, flow_flexcim.plugin, flow_flexcim.params\n"
        "flow_flexcim.plugin.crosslayer_model_transforms()\n"
        "print(sorted({'numpy', 'torch', 'safetensors', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
