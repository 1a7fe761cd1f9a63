"""From the data of a pipeline file to its tables, with every problem of form located."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from crosslayer.errors import nearest
from crosslayer.pipeline import schema
from crosslayer.pipeline.source import Problem, Source, key_text
from crosslayer.pipeline.toml_lines import KeyPath
from crosslayer.pipeline.workload import Workload

# Table, class, whether it is written once, several times ([[...]]), or either.
TABLES: dict[str, tuple[type[BaseModel], str]] = {
    "pipeline": (schema.About, "once"),
    "model": (schema.Model, "either"),
    "transform": (schema.Transform, "several"),
    "accelerator": (schema.Accelerator, "either"),
    "instance": (schema.Instance, "several"),
    "backend": (schema.Backend, "several"),
    "pool": (schema.Members, "once"),
    "policy": (schema.Policy, "once"),
    "network": (schema.Network, "once"),
    "workload": (Workload, "once"),
    "simulate": (schema.Simulate, "several"),
}
KNOWN = (
    *TABLES,
    "evaluate",
    "lock",
)  # [lock] is what a lock file adds; it says nothing that a run needs

Found = dict[KeyPath, Any]


def read_tables(source: Source) -> tuple[Found, list[Problem]]:
    """Every table that is well formed, by its key path, and the problems of the others."""
    found: Found = {}
    problems = list(_no_numbers(source, source.document, ()))
    for name, value in source.document.items():
        if name not in KNOWN:
            what = "table" if isinstance(value, dict | list) else "key"
            problems.append(
                source.problem((name,), f"unknown {what} {name!r}; {nearest(name, KNOWN)}")
            )
        elif name == "evaluate":
            problems += _evaluate(source, value, found)
        elif name == "lock":
            found[("lock",)] = value if isinstance(value, dict) else {}
        else:
            problems += _table(source, name, value, found)
    if not {"model", "backend"} & source.document.keys():
        problems.append(
            source.problem((), "there is no [model] table; a pipeline starts with a model")
        )
    return found, problems


def _table(source: Source, name: str, value: Any, found: Found) -> Iterator[Problem]:
    cls, times = TABLES[name]
    if isinstance(value, dict):
        if times == "several":
            yield source.problem((name,), f"[{name}] is written [[{name}]]: there may be several")
        items: list[tuple[KeyPath, Any, str]] = [((name,), value, f"[{name}]")]
    elif isinstance(value, list) and times != "once":
        items = [((name, i), item, f"[[{name}]]") for i, item in enumerate(value)]
        if not items:
            yield source.problem((name,), f"{name!r} is empty; leave it out")
    else:
        way = f"[{name}]" if times != "several" else f"[[{name}]]"
        yield source.problem((name,), f"{name!r} must be a table, not {value!r}; write {way}")
        return
    for path, item, header in items:
        if not isinstance(item, dict):
            yield source.problem(path, f"{key_text(path)} must be a table, not {item!r}")
            continue
        try:
            found[path] = cls.model_validate(item)
        except ValidationError as error:
            yield from problems_of(source, cls, path, header, error)


def _evaluate(source: Source, value: Any, found: Found) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield source.problem(
            ("evaluate",), f"'evaluate' must be a table, not {value!r}; write [evaluate]"
        )
        return
    for use, params in value.items():
        path = ("evaluate", use)
        if isinstance(params, dict):
            found[path] = schema.Evaluate.model_construct(use=use, params=params)
        else:
            message = f"evaluate.{use} must be a table of its parameters, not {params!r}"
            message += f"; write {use} = {{}}"
            yield source.problem(path, message)


def problems_of(
    source: Source, cls: type[BaseModel], path: KeyPath, header: str, error: ValidationError
) -> Iterator[Problem]:
    """pydantic's errors as located sentences."""
    for item in error.errors(include_url=False):
        at = (*path, *item["loc"])
        kind, message = item["type"], str(item["msg"])
        if kind == "extra_forbidden":
            message = (
                f"unknown key {at[-1]!r} in {header}; {nearest(str(at[-1]), cls.model_fields)}"
            )
        elif kind == "missing":
            owner = header if at[:-1] == path else key_text(at[:-1])
            message = f"{owner} needs a {at[-1]!r} key"
        elif kind == "value_error":
            message = message.removeprefix("Value error, ")
            if not source.positions and at:  # made in Python: no line says where
                message = f"{key_text(at)}: {message}"
        else:
            message = message.replace("Input should be", "must be").replace("String should", "must")
            message = f"{key_text(at)} {message}, not {item['input']!r}"
        yield source.problem(at, message)


def _no_numbers(source: Source, value: Any, path: KeyPath) -> Iterator[Problem]:
    """Values that TOML has and a pipeline does not: nan, infinities, dates and times."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _no_numbers(source, inner, (*path, key))
    elif isinstance(value, float) and not math.isfinite(value):
        yield source.problem(path, f"{key_text(path)} must be a finite number, not {value}")
    elif not isinstance(value, str | int | float):
        yield source.problem(path, f"{key_text(path)} is a date or a time; a pipeline uses none")
