"""ci/check_imports.py: which imports run at import time, and the rules for import-linter."""

from __future__ import annotations

import ast
import configparser
from pathlib import Path

import pytest

from catalogue import Package, read_catalogue
from check_imports import early_imports, imports_at_import_time, linter_config


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch.nn as nn, json", ["json", "torch"]),
        ("from torch import nn", ["torch"]),
        ("from . import torch", []),
        ("def f():\n    import torch", []),
        ("class A:\n    import torch\n    def f(self):\n        import json", ["torch"]),
        ("try:\n    import torch\nexcept ImportError:\n    import json", ["json", "torch"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", ["typing"]),
        ("import typing as t\nif t.TYPE_CHECKING:\n    import torch\nelse:\n    import json",
         ["json", "typing"]),
    ],
)  # fmt: skip
def test_only_what_runs_at_import_counts(source: str, names: list[str]) -> None:
    found = imports_at_import_time(ast.parse(source))
    assert sorted(name for _, name in found) == names


def test_an_early_import_is_named_with_its_line(clone: Path) -> None:
    assert early_imports(clone, read_catalogue(clone)) == []
    core = clone / "core/src/crosslayer/too_early.py"
    core.write_text('"""Too early."""\n\nimport torch\n', encoding="utf-8")
    plugin = clone / "packages/flow-flexcim/src/flow_flexcim/plugin.py"
    plugin.write_text("import numpy\n", encoding="utf-8")
    first, second = early_imports(clone, read_catalogue(clone))
    assert first.startswith("core/src/crosslayer/too_early.py:3: torch is imported")
    assert second.startswith("packages/flow-flexcim/src/flow_flexcim/plugin.py:1: numpy")


def test_the_rules_follow_the_catalogue() -> None:
    one, two = (Package(name=name, path="", module=name) for name in ("alpha", "beta"))
    rules = configparser.ConfigParser()
    rules.read_string(linter_config([one, two], ["contracts", "errors", "runner"]))
    assert rules["importlinter"]["root_packages"].split() == ["crosslayer", "alpha", "beta"]
    assert rules["importlinter:contract:0"]["forbidden_modules"].split() == ["alpha", "beta"]
    banned = rules["importlinter:contract:1"]["forbidden_modules"].split()
    assert banned == ["crosslayer.runner", "torch", "transformers"]
    assert rules["importlinter:contract:independent"]["modules"].split() == ["alpha", "beta"]
