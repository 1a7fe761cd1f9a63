"""What differs between the inputs of runs, from their lock files, and which four of them are a
two-by-two design.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from crosslayer.results import Run

# Where there is one, its keys carry no name: another model is then another `model.use`.
_SINGLE = ("model", "accelerator", "instance")
ABSENT = None  # a key that a run does not have

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Changed:
    """A key whose value differs between the runs; `values` in their order, None where absent."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Factor:
    """One of the two things in which runs of a two-by-two design differ.

    keys: every input that goes with it. before, after: what its main key says, in the baseline and
    changed.
    """

    name: str
    before: str
    after: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.before} → {self.after}"


@dataclass(frozen=True)
class Square:
    """Four runs by their places: the baseline, a alone, b alone, and both."""

    a: Factor
    b: Factor
    runs: tuple[int, int, int, int]


def inputs_of(run: Run) -> dict[str, Any]:
    """The lock file, flat: "transform.flow.sparsity" to 0.5. Without the run's name and [lock].

    Tables of a list are called by their name, else by what they use; paths of files are made ones
    from the working directory, with the beginning of the content's hash.
    """
    document = tomllib.loads(run.lock)
    files = document.pop("lock", {}).get("files", {})
    document.get("pipeline", {}).pop("name", None)
    flat: dict[str, Any] = {}
    for table, value in document.items():
        if isinstance(value, list) and len(value) == 1 and table in _SINGLE:
            value = value[0]
        flat |= _flat(table, value, run.directory, files)
    return flat


def _flat(
    key: str, value: Any, folder: Path, files: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner, folder, files)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        seen: dict[str, int] = {}
        for number, item in enumerate(value, start=1):
            name = str(item.get("name") or item.get("use") or number).partition(":")[0]
            seen[name] = seen.get(name, 0) + 1
            name += f"#{seen[name]}" if seen[name] > 1 else ""
            yield from _flat(f"{key}.{name}", item, folder, files)
    elif isinstance(value, list):
        yield key, json.dumps(value, ensure_ascii=False)
    elif isinstance(value, str) and value.startswith("../"):
        path = os.path.relpath(os.path.normpath(folder.absolute() / value))
        yield key, f"{path} (sha256 {files[value][:12]})" if value in files else path
    else:
        yield key, value


def changed(every: Sequence[Inputs]) -> tuple[Changed, ...]:
    """The keys whose values are not all equal, in the order of the files."""
    keys = dict.fromkeys(key for inputs in every for key in inputs)
    rows = (Changed(key, tuple(inputs.get(key, ABSENT) for inputs in every)) for key in keys)
    return tuple(row for row in rows if any(value != row.values[0] for value in row.values))


def order_of_transforms(runs: Sequence[Run]) -> tuple[Changed, ...]:
    """A row if two runs apply the same transforms in another order, which no key shows."""
    orders = []
    for run in runs:
        flat = dict.fromkeys(key.split(".")[1] for key in inputs_of(run) if _is_transform(key))
        orders.append(list(flat))
    for one, other in combinations(orders, 2):
        if [name for name in one if name in other] != [name for name in other if name in one]:
            return (Changed("order of transforms", tuple(", ".join(o) for o in orders)),)
    return ()


def surroundings_of(run: Run) -> dict[str, Any]:
    """What is no input and may still move a number: versions, threads, machine, git revision."""
    names = ("versions", "threads", "machine")
    flat = [
        pair for name in names for pair in _flat(name, run.info.get(name, {}), run.directory, {})
    ]
    revision = tomllib.loads(run.lock).get("lock", {}).get("git_revision")
    return dict(flat) | ({"git revision": revision} if revision else {})


def squares(every: Sequence[Inputs]) -> tuple[Square, ...]:
    """Each two-by-two design that the first run is the baseline of: one run differs from it in some
    keys, one in other keys, and one in exactly these together.
    """
    changes = [_changes(every[0], inputs) for inputs in every]
    order = list(dict.fromkeys(key for inputs in every for key in inputs))
    found = []
    for a, b in combinations(range(1, len(every)), 2):
        one, other = changes[a], changes[b]
        if not one or not other or one.keys() & other.keys():
            continue
        both = next((i for i, change in enumerate(changes) if change == {**one, **other}), None)
        if both is None:
            continue
        if min(map(order.index, one)) > min(map(order.index, other)):
            a, b, one, other = b, a, other, one
        factors = (_factor(every[0], one, order), _factor(every[0], other, order))
        found.append(Square(*factors, (0, a, b, both)))
    return tuple(found)


def _changes(base: Inputs, inputs: Inputs) -> dict[str, Any]:
    keys = {*base, *inputs}
    pairs = ((key, base.get(key, ABSENT), inputs.get(key, ABSENT)) for key in keys)
    return {key: after for key, before, after in pairs if before != after}


def _factor(base: Inputs, change: Mapping[str, Any], order: Sequence[str]) -> Factor:
    keys = sorted(change, key=order.index)
    main = next((key for key in keys if key.endswith(".use")), keys[0])
    before, after = base.get(main, ABSENT), change[main]
    if _is_transform(main) and main.endswith(".use") and (before is ABSENT or after is ABSENT):
        gone = [key.removesuffix(".use") for key in keys if key.endswith(".use")]
        if len(gone) == 1:
            states = ("without", "with") if before is ABSENT else ("with", "without")
            return Factor(gone[0].replace(".", " ", 1), states[0], states[1], tuple(keys))
        removed = _names(gone, lambda key: f"{key}.use" in base)
        added = _names(gone, lambda key: change[f"{key}.use"] is not ABSENT)
        return Factor("transform", removed, added, tuple(keys))
    return Factor(main, shown_value(before), shown_value(after), tuple(keys))


def _names(keys: Sequence[str], wanted: Any) -> str:
    return ", ".join(key.removeprefix("transform.") for key in keys if wanted(key)) or "none"


def _is_transform(key: str) -> bool:
    return key.startswith("transform.")


def shown_value(value: Any) -> str:
    """A value of a lock file as text."""
    if value is ABSENT:
        return "absent"
    return str(value).lower() if isinstance(value, bool) else str(value)
