"""Checks of every component: listing is light, parameters are documented and strict, workers can
rebuild it.
"""

from __future__ import annotations

import json
from typing import Any

from crosslayer.errors import CrosslayerError
from crosslayer.parameters import ParameterErrors
from crosslayer.testing.kit import CheckFailed, Subject, check

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "matplotlib",
    "triton",
    "pandas",
    "pyarrow",
    "scipy",
    "mamba_ssm",
    "ray",
)


@check()
def listing_imports_nothing_heavy(subject: Subject) -> None:
    """Listing and describing must cost nothing, so that `crosslayer plugins` stays instant."""
    loaded = subject.in_worker(
        "registry = discover()\n"
        "registry.params_model(registry.get(given['kind'], given['use']))\n"
        "result = [name for name in given['heavy'] if name in sys.modules]",
        heavy=HEAVY,
    )
    if loaded:
        raise CheckFailed(
            f"listing it imports {', '.join(loaded)}; keep plugin.py and the params module "
            "free of heavy imports"
        )


@check()
def parameters_are_documented(subject: Subject) -> None:
    """Every parameter says what it means, and every number between which bounds it lies."""
    for parameter in subject.registry.schema(subject.kind, subject.use):
        if not parameter.description:
            raise CheckFailed(
                f"parameter {parameter.name} has no description; add one to its Field"
            )
        if "number" in parameter.type and not parameter.bounds:
            raise CheckFailed(
                f"parameter {parameter.name} has no bounds; add ge=, gt=, le= or lt= to its Field"
            )


@check()
def parameters_survive_json(subject: Subject) -> None:
    """What a lock file writes down gives the same parameters back."""
    given = _parameters(subject)
    if given is None:
        return
    written = json.loads(given.model_dump_json())
    again = subject.registry.parameters(subject.kind, subject.use, written)
    if again != given or type(again) is not type(given):
        raise CheckFailed(
            "parameters differ after a round trip through JSON; a validator may not be idempotent"
        )


@check()
def wrong_parameters_are_refused(subject: Subject) -> None:
    """An unknown key and text in place of a number give an error that names the key."""
    given = _parameters(subject)
    if given is None:
        return
    wrong: list[tuple[str, Any]] = [("no_such_parameter", 1)]
    wrong += [
        (parameter.name, "text")
        for parameter in subject.registry.schema(subject.kind, subject.use)
        if parameter.type in ("number", "whole number") and "." not in parameter.name
    ]
    values = json.loads(given.model_dump_json())
    for key, value in wrong:
        try:
            subject.registry.parameters(subject.kind, subject.use, values | {key: value})
        except ParameterErrors as error:
            if all(key not in map(str, path) for path, _ in error.problems):
                raise CheckFailed(
                    f"the error for {key} = {value!r} does not name the key: {error}"
                ) from error
        else:
            raise CheckFailed(
                f"{key} = {value!r} is accepted; set extra='forbid' and let no validator "
                "convert text"
            )


def _parameters(subject: Subject) -> Any:
    return subject.registry.parameters(subject.kind, subject.use, subject.parameters)


@check()
def a_worker_rebuilds_it(subject: Subject) -> None:
    """A sweep runs components in other processes, from their name and JSON parameters alone."""
    here = type(subject.build())
    try:
        there = subject.in_worker(
            "built = discover().build(given['kind'], given['use'], given['parameters'])\n"
            "result = type(built).__qualname__"
        )
    except CrosslayerError as error:
        raise CheckFailed(f"a new process cannot build it: {error}") from error
    if there != here.__qualname__:
        raise CheckFailed(f"a new process builds a {there}, this one a {here.__qualname__}")
