"""The README's Python runs as it stands, and its pool file is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slm_mux.pool_file import read_pool

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_python_of_the_readme_prints_the_choice(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "one A 2/3 ('one', 'two')\n"


def test_the_pool_file_of_the_readme_is_read(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    pool = next(t for t in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[[member]]" in t)
    file = tmp_path / "pool.toml"
    file.write_text(pool, encoding="utf-8")
    found = read_pool(file)
    assert found.pools == {"cheap": ("qwen", "llama")}
    assert found.settings.accuracies == {"qwen": 0.71, "llama": 0.64}
