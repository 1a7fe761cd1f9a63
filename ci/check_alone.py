"""check_alone.py MODULE ...: fails when another package of the catalogue can be imported."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from catalogue import CORE, GROUP, Package, read_catalogue


def intruders(wanted: Sequence[str], packages: Sequence[Package]) -> list[str]:
    """Modules of ours that are importable though not wanted, and wanted ones that are not."""
    found = []
    for package in packages:
        there = find_spec(package.module) is not None
        if there != (package.module in wanted):
            found.append(f"{package.module} is {'' if there else 'not '}importable here")
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.module.partition(".")[0] not in wanted:
            found.append(f"the entry point {point.name} = {point.value} is installed here")
    return found


def main() -> None:
    """Print what is wrong and exit 1, or say nothing."""
    problems = intruders(sys.argv[1:], (CORE, *read_catalogue()))
    for problem in problems:
        print(f"ci/check_alone.py: {problem}; {', '.join(sys.argv[1:])} should be alone.")
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
