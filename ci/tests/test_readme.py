"""The README's commands are the two that CI takes from it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def test_the_readme_has_exactly_two_commands(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)
    commands = [block.strip() for language, block in blocks if not language]
    assert commands == ["./ci/nox -s demo", "./ci/nox -s tests"]
    assert all(language == "toml" for language, _ in blocks if language)


def test_ci_reads_the_same_commands_from_the_readme(root: Path) -> None:
    (script,) = re.findall(r"< <\((awk .*) README\.md\)", (root / ".ci/run").read_text("utf-8"))
    found = subprocess.run(
        ["bash", "-c", f"{script} README.md"], cwd=root, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines() == ["./ci/nox -s demo", "./ci/nox -s tests"]


def test_the_readme_says_whose_the_names_on_the_index_are(root: Path) -> None:
    text = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    assert "`fpx` and `nsflow` on the public Python index are other people's projects" in text


def test_links_within_the_repository_lead_somewhere(root: Path) -> None:
    for document in [*root.glob("*.md"), root / "core/README.md", *root.glob("packages/*/*.md")]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)", text):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_page_for_coding_agents_is_short_and_starts_with_commands(root: Path) -> None:
    lines = (root / "AGENTS.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert lines[0] == "# Commands"
