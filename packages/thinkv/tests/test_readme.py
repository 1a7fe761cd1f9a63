"""The README's Python runs as it stands, on a smaller model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crosslayer.kinds import ModelArtifact

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_python_of_the_readme_generates_through_the_cache(
    tiny: ModelArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert "live = smollm2().live\n" in code
    exec(code.replace("smollm2()", "tiny"), {"tiny": tiny})
    said = capsys.readouterr().out
    assert "'payload'" in said and "'scales'" in said
    physical, logical = map(int, said.splitlines()[-1].split())
    assert physical < 110 and logical >= 200
