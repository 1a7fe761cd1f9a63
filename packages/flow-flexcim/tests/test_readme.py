"""The README's Python runs as it stands, on a smaller model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import asset

from crosslayer.kinds import ModelArtifact

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.network
def test_the_python_of_the_readme_prunes_a_model(
    tiny: ModelArtifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asset("wikipedia-sample")
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert "artifact = smollm2()\n" in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace("smollm2()", "tiny"), {"tiny": tiny})
    said = capsys.readouterr().out
    assert "flow_sparsity 0.5" in said
    assert "('layers.0', " in said
    assert (tmp_path / "out" / "flow-linears.safetensors").is_file()
