"""Plans as files: JSON of our own, and the text that FLOW's released solver writes.

JSON: {"format": "flow-flexcim plan", "version": 1, "patterns": {unit: "N:M", ...}}, in order. The
released text has a line `Layer i: N:M` for each decoder block, N kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError, nearest
from flow_flexcim.linears import DENSE, BlockLinears
from flow_flexcim.plan import Plan, kept_weights

FORMAT, VERSION = "flow-flexcim plan", 1
_LINE = re.compile(r"Layer (\d+): *(\d+:\d+)")


def prepare(file: Path, blocks: Sequence[BlockLinears]) -> None:
    """Make the file's folder. InputError where a plan of these blocks cannot be written there: a
    plan can take minutes, so this is asked before it is made.
    """
    if file.suffix == ".txt" and len({block.index for block in blocks}) < len(blocks):
        raise InputError(f"{file}: the released text has one pattern a block; write .json")
    if file.is_dir():
        raise InputError(f"{file} is a folder; name a file, such as {file / 'plan.json'}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from None


def write(file: Path, blocks: Sequence[BlockLinears], plan: Plan) -> None:
    """The plan as JSON, or as the released text where the name ends in .txt (one unit a block).

    InputError for a place that cannot be written.
    """
    prepare(file, blocks)
    pairs = list(zip(blocks, plan.patterns, strict=True))
    if file.suffix == ".txt":
        text = "".join(f"Layer {block.index}: {pattern}\n" for block, pattern in pairs)
    else:
        patterns = {block.name: str(pattern) for block, pattern in pairs}
        head = {"format": FORMAT, "version": VERSION, "patterns": patterns}
        text = json.dumps(head, indent=2) + "\n"
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from None


def read(file: Path, blocks: Sequence[BlockLinears]) -> Plan:
    """The plan of a file for these blocks. InputError for a missing file, a hole, an unknown unit,
    a pattern that does not fit, one that prunes a block which dense_blocks leaves dense.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"plan_file {file} cannot be read: {error}") from None
    found = _json(file, text) if text.lstrip().startswith("{") else _released(file, text, blocks)
    names = [block.name for block in blocks]
    missing = [name for name in names if name not in found]
    strange = [name for name in found if name not in names]
    if strange:
        raise InputError(f"{file} has a pattern for {strange[0]}; {nearest(strange[0], names)}")
    if missing:
        raise InputError(
            f"{file} has no pattern for {missing[0]}"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
            + '; it must name every block, or every linear with granularity = "linear"'
        )
    patterns = tuple(NMSparsity.parse(found[name]) for name in names)
    for block, pattern in zip(blocks, patterns, strict=True):
        if not block.fits(pattern):
            inputs = sorted({linear.inputs for linear in block.linears})
            raise InputError(f"{file}: {pattern} of {block.name} does not divide inputs {inputs}")
        if block.dense and pattern.n < pattern.m:
            raise InputError(
                f"{file} has {pattern} for {block.name}, which dense_blocks leaves dense"
            )
    patterns = tuple(DENSE if p.n == p.m else p for p in patterns)
    kept = sum(kept_weights(b, p) for b, p in zip(blocks, patterns, strict=True))
    return Plan(patterns, kept, sum(block.weights for block in blocks))


def _json(file: Path, text: str) -> dict[str, str]:
    try:
        head = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise InputError(f"plan_file {file} is no JSON that can be read: {error}") from None
    if (head.get("format"), head.get("version")) != (FORMAT, VERSION):
        raise InputError(f"{file} is no plan of version {VERSION} of {FORMAT!r}")
    patterns = head.get("patterns")
    if not isinstance(patterns, dict) or not all(isinstance(v, str) for v in patterns.values()):
        raise InputError(f"{file}: patterns must be a table of names and N:M")
    return patterns


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are there once each; ValueError names one that is not."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _released(file: Path, text: str, blocks: Sequence[BlockLinears]) -> dict[str, str]:
    by_index = {block.index: block.name for block in blocks}
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InputError(f"{file}, line {number}: {line.strip()!r} is not 'Layer i: N:M'")
        index = int(match[1])
        name = by_index.get(index, f"Layer {index}")
        if name in found:
            raise InputError(f"{file}, line {number}: Layer {index} is there twice")
        found[name] = match[2]
    return found
