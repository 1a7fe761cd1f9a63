"""What `crosslayer compare` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crosslayer.cli_listing import print_json
from crosslayer.errors import InputError


def compare(
    runs: Sequence[str], baseline: str | None, html: Path | None, runs_dir: Path, as_json: bool
) -> None:
    """Compare runs; print tables or JSON, and write the page if it is wanted."""
    from crosslayer.comparison import compare as compare_runs
    from crosslayer.render.comparison import text_lines

    found = compare_runs(*runs, baseline=baseline, runs_dir=runs_dir)
    if html is not None:
        try:
            html.write_text(found.to_html(), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{html}: cannot be written: {error.strerror}") from error
    if as_json:
        print_json(found.to_dict())
        return
    for line in text_lines(found):
        print(line)
    if html is not None:
        print(f"page: {html}")
