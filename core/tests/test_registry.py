"""The registry: names, parameters as strict as JSON, components built or refused in words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from example_plugins import install

from crosslayer.catalogue import packages
from crosslayer.component import Command, Component
from crosslayer.discovery import discover
from crosslayer.errors import ComponentError, DependencyError, InputError
from crosslayer.parameters import ParameterErrors
from crosslayer.registry import KINDS, Failure, PluginFailed, Registry

SCALE = ("model_transform", "example-scale")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The core and two example plugins."""
    monkeypatch.syspath_prepend(
        str(install(tmp_path, "example-good", "example-missing-dependency"))
    )
    before = set(sys.modules)
    yield discover(only=["example-good", "example-missing-dependency"], strict=True)
    for name in set(sys.modules) - before:
        if "example" in name:
            del sys.modules[name]


def problems(
    registry: Registry, values: dict[str, Any], use: str = "example-scale"
) -> dict[Any, str]:
    """Key path -> message of everything that is wrong with the values."""
    with pytest.raises(ParameterErrors) as raised:
        registry.parameters("model_transform", use, values)
    assert str(raised.value).startswith("model transform 'example-scale': ")
    return dict(raised.value.problems)


def test_the_kinds_are_those_of_the_hooks(registry: Registry) -> None:
    assert KINDS == (
        "model_transform",
        "serving_policy",
        "simulator",
        "accelerator_model",
        "model",
        "evaluator",
    )
    with pytest.raises(InputError, match="did you mean 'model_transform'"):
        registry.components("model_transforms")


def test_an_unknown_name_names_the_nearest_of_its_kind(registry: Registry) -> None:
    with pytest.raises(
        InputError, match="no model transform 'exampel-scale'; did you mean 'example-scale'"
    ):
        registry.get("model_transform", "exampel-scale")


def test_a_name_of_another_kind_says_which_kind_it_is(registry: Registry) -> None:
    with pytest.raises(
        InputError, match="no simulator 'roofline': 'roofline' is an accelerator model"
    ):
        registry.get("simulator", "roofline")


def test_a_name_of_a_package_that_is_not_loaded_says_where_it_is(registry: Registry) -> None:
    package = packages()[0]
    kind, (name, *_) = next(iter(package.kinds.items()))
    with pytest.raises(
        InputError,
        match=f"package {package.name}, which is not .*(from {package.path} of|is installed, but)",
    ) as raised:
        registry.get(kind, name)
    assert raised.value.exit_code == 2
    with pytest.raises(InputError, match=package.name):
        registry.find(name)


def test_a_name_of_a_package_that_failed_to_load_says_why() -> None:
    package = packages()[0]
    kind, (name, *_) = next(iter(package.kinds.items()))
    failure = Failure(package.name, package.name, "0.1.0", "import", "RuntimeError: broken")
    with pytest.raises(PluginFailed, match=r"failed at import: RuntimeError: broken") as raised:
        Registry(failures=[failure]).get(kind, name)
    assert raised.value.exit_code == 3


def test_failures_are_mentioned_where_they_may_be_the_reason() -> None:
    failure = Failure("example-x", "example-x", "1", "import", "RuntimeError")
    with pytest.raises(InputError, match=r"failed to load: example-x; see `crosslayer plugins`"):
        Registry(failures=[failure]).get("simulator", "example-sim")


def test_a_preset_is_part_of_the_name_and_sets_the_parameter(registry: Registry) -> None:
    found = registry.parameters("model_transform", "example-scale:half", {"factor": 2})
    assert found is not None
    assert (found.preset, found.factor) == ("half", 2.0)  # type: ignore[attr-defined]
    same = registry.parameters("model_transform", "example-scale:half", {"preset": "half"})
    assert same.preset == "half"  # type: ignore[union-attr]


def test_an_unknown_preset_names_the_nearest(registry: Registry) -> None:
    with pytest.raises(InputError, match="has no preset 'halve'; did you mean 'half'"):
        registry.get("model_transform", "example-scale:halve")
    with pytest.raises(InputError, match="has no preset 'half'; it has no presets"):
        registry.get("model_transform", "example-plain:half")


def test_a_preset_that_contradicts_the_name_is_refused(registry: Registry) -> None:
    found = problems(registry, {"preset": "double"}, "example-scale:half")
    assert "contradicts the preset 'half'" in found[("preset",)]


def test_an_exact_name_with_a_colon_goes_before_a_preset() -> None:
    from crosslayer.registry import Origin, Registered

    origin = Origin("x", "x", "1", "x.py")
    plain = Component("bench", "A model", "", "x:Y", params="x:P", presets=("small",))
    exact = Component("bench:small", "Another model", "", "x:Z")
    both = Registry([Registered("model", one, origin) for one in (plain, exact)])
    assert both.get("model", "bench:small").component is exact
    assert both.find("bench:small") == (both.get("model", "bench:small"),)


def test_all_problems_are_reported_at_once_each_with_its_key(registry: Registry) -> None:
    found = problems(
        registry,
        {
            "factor": 9,
            "rounds": "3",
            "rounding": "odd",
            "factr": 1,
            "layers": [{"keep": 0.5}, {"kep": 1}, {"keep": 0}],
        },
    )
    assert found == {
        ("factor",): "9 must be less than or equal to 8",
        ("rounds",): '"3" must be a valid integer',
        ("rounding",): "\"odd\" must be 'even' or 'up'",
        ("factr",): "unknown key; did you mean 'factor'?",
        ("layers", 1, "kep"): "unknown key; did you mean 'keep'?",
        ("layers", 2, "keep"): "0 must be greater than 0",
    }


def test_a_whole_number_is_a_number_and_nothing_else_is_converted(registry: Registry) -> None:
    found = registry.parameters(*SCALE, {"factor": 2, "layers": [{"keep": 1}]})
    assert found is not None
    assert type(found.factor) is float  # type: ignore[attr-defined]
    wrong = {"factor": "2", "rounds": 2.0}
    assert set(problems(registry, wrong)) == {("factor",), ("rounds",)}
    assert set(problems(registry, {"rounds": True, "factor": False})) == {("factor",), ("rounds",)}
    assert set(problems(registry, {"factor": date(2026, 1, 1)})) == {("factor",)}
    assert set(problems(registry, {"factor": float("nan"), "rounds": 0})) == {
        ("factor",),
        ("rounds",),
    }


def test_the_branches_of_a_union_are_one_problem_at_the_key_itself(registry: Registry) -> None:
    found = problems(registry, {"target": [1]})
    assert list(found) == [("target",)]
    assert found[("target",)] == "[1] must be a valid integer or must be a valid string"


def test_a_required_key_is_named_with_its_meaning(registry: Registry) -> None:
    with pytest.raises(ParameterErrors) as raised:
        registry.parameters("accelerator_model", "roofline", {})
    ((key, message),) = raised.value.problems
    assert key == ("preset",)
    assert message.startswith("is required (text: ")


def test_a_component_without_parameters_takes_none(registry: Registry) -> None:
    assert registry.parameters("model_transform", "example-plain", {}) is None
    with pytest.raises(ParameterErrors, match="factor: takes no parameters"):
        registry.parameters("model_transform", "example-plain", {"factor": 1})


def test_the_schema_tells_type_default_bounds_and_meaning_of_every_parameter(
    registry: Registry,
) -> None:
    rows = {row.name: row for row in registry.schema(*SCALE)}
    assert list(rows) == [
        "factor",
        "rounds",
        "rounding",
        "layers",
        "layers.keep",
        "target",
        "preset",
    ]
    factor = rows["factor"]
    assert (factor.type, factor.required, factor.default, factor.bounds) == (
        "number",
        False,
        1.0,
        "> 0, <= 8",
    )
    assert factor.description == "What every weight is multiplied by."
    assert rows["rounding"].type == '"even" or "up"'
    assert rows["layers"].type == "list of table"
    assert rows["target"].type == "whole number or text"


def test_bounds_are_written_in_full_and_long_defaults_are_cut() -> None:
    from pydantic import BaseModel, Field

    from crosslayer.parameters import describe

    class Params(BaseModel):
        count: int = Field(1, ge=1, le=16_777_216, description="A")
        share: float = Field(0.5, gt=1e-9, lt=2.0, description="B")
        names: tuple[str, ...] = Field(tuple("abcdefghijklmnopqrstuvwxyz"), description="C")
        file: Path = Field(description="D")

    count, share, names, file = describe(Params)
    assert count.bounds == ">= 1, <= 16777216"
    assert share.bounds == "> 1e-09, < 2"
    assert len(names.default) == 26
    assert names.default_text.endswith("...") and len(names.default_text) == 60
    assert (file.type, file.default_text) == ("path", "required")


def test_defaults_are_json_values_with_the_preset_of_the_name(registry: Registry) -> None:
    found = registry.default_parameters("model_transform", "example-scale:double")
    assert found["factor"] == 1.0
    assert found["layers"] == []
    assert found["preset"] == "double"
    assert "preset" not in registry.default_parameters("accelerator_model", "roofline")


def test_a_component_is_built_from_its_validated_parameters(registry: Registry) -> None:
    built: Any = registry.build(*SCALE, {"factor": 3})
    assert built.params.factor == 3.0
    assert type(registry.build("model_transform", "example-plain", {})).__name__ == "Plain"


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        (
            "example-says-needs",
            DependencyError,
            "model transform 'example-says-needs' needs the module 'a_library_that_is_not_there', "
            "which is not installed: python -m pip install the-library",
        ),
        (
            "example-needs",
            DependencyError,
            "model transform 'example-needs' needs the module 'a_library_that_is_not_there', "
            "which is not installed: python -m pip install a_library_that_is_not_there",
        ),
        (
            "example-no-factory",
            DependencyError,
            "model transform 'example-no-factory': there is no module "
            "'example_missing_dependency.gone' (example_missing_dependency.gone:X)",
        ),
        (
            "example-fails",
            ComponentError,
            "model transform 'example-fails' could not be built: ValueError: no device found",
        ),
    ],
)
def test_what_cannot_be_built_is_named_with_the_reason(
    registry: Registry, name: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as raised:
        registry.build("model_transform", name, {})
    assert str(raised.value) == sentence


def test_every_preset_of_the_roofline_can_be_built(registry: Registry) -> None:
    presets = registry.get("accelerator_model", "roofline").component.presets
    assert "a100-80g" in presets
    for preset in presets:
        built: Any = registry.build("accelerator_model", f"roofline:{preset}", {})
        assert built.describe().name == f"roofline:{preset}"


def test_every_spec_preset_can_be_built_and_the_live_model_is_no_preset(registry: Registry) -> None:
    from crosslayer.models.presets import preset_names

    others = ("smollm2-135m", "directory")
    names = [name for name in registry.components("model") if name not in others]
    assert tuple(names) == preset_names()
    built: Any = registry.build("model", "llama-3.1-8b", {"dtype": "fp16"})
    assert built.live is None
    assert built.spec.name == "llama-3.1-8b"


def test_every_parameter_of_the_core_is_described(registry: Registry) -> None:
    for kind in KINDS:
        for name, found in registry.components(kind).items():
            if found.distribution == "crosslayer":
                for row in registry.schema(kind, name):
                    assert row.description, f"{name}.{row.name}"


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "Two Words"},
        {"name": "a:b:c"},
        {"name": "-a"},
        {"summary": "two\nlines"},
        {"summary": ""},
        {"factory": "package.module"},
        {"factory": "package module:Name"},
        {"params": "P"},
        {"presets": ["a"]},
        {"presets": ("a",)},
        {"needs": "torch"},
        {"install": None},
        {"paper": None},
    ],
)
def test_a_malformed_descriptor_is_refused(fields: dict[str, Any]) -> None:
    good: dict[str, Any] = {"name": "a", "summary": "A thing", "paper": "", "factory": "a.b:C"}
    Component(**good)
    with pytest.raises(DependencyError):
        Component(**good | fields)


def test_a_malformed_command_is_refused() -> None:
    Command("hello-world", "Says hello", "a.b:app")
    for name, app in (("hello:world", "a.b:app"), ("hello", "a.b")):
        with pytest.raises(DependencyError):
            Command(name, "Says hello", app)
