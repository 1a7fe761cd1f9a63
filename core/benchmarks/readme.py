"""The generated sections of the README beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).with_name("README.md")


def write_section(name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME: ... -->` and `<!-- NAME: end -->` in the README."""
    whole = README.read_text(encoding="utf-8")
    start = whole.index("-->\n", whole.index(f"<!-- {name}: generated")) + len("-->\n")
    end = whole.index(f"<!-- {name}: end -->")
    README.write_text(f"{whole[:start]}\n{text.strip()}\n\n{whole[end:]}", encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; every column but the first is aligned to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "--:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)
