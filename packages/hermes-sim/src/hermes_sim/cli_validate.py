"""What `hermes-sim validate` prints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from crosslayer.cli_listing import print_json
from crosslayer.contracts.report import Figure, Panel, Series
from hermes_sim.validation import Validation, validate


def show(
    run: Path, profile: Path, model: str | None, kv_blocks: int | None,
    link: tuple[float, float] | None, network: Path | None, figure: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Validate and print."""
    found = validate(run, profile, model=model, kv_blocks=kv_blocks, link=link, network=network)
    if figure is not None:
        from crosslayer.traces.drawing import write_svg

        write_svg(distributions(found), figure)
    if as_json:
        print_json(as_data(found))
        return
    print("told to the simulator: " + ", ".join(f"{k} {v}" for k, v in found.facts.items()))
    print(f"{'metric':<22}{'recorded':>12}{'simulated':>12}{'error':>9}")
    for row in found.rows:
        error = "-" if row.error is None else f"{row.error:+.1%}"
        values = f"{row.recorded:>12.5g}{row.simulated:>12.5g}{error:>9}"
        print(f"{row.metric:<22}{values}  {row.unit}")
    replayed = found.replayed
    print(f"iterations {found.iterations}, of which extrapolated {replayed.beyond}")
    print(f"preemptions {replayed.preemptions}")
    print(f"requests not finished {len(replayed.calls) - int(replayed.calls.finished.sum())}")
    for note in found.notes:
        print(f"note: {note}")


def as_data(found: Validation) -> dict[str, Any]:
    """The same for programs."""
    return {
        "facts": dict(found.facts),
        "metrics": [asdict(row) | {"error": row.error} for row in found.rows],
        "iterations": found.iterations,
        "extrapolated_steps": found.replayed.beyond,
        "preemptions": found.replayed.preemptions,
        "unfinished": len(found.replayed.calls) - int(found.replayed.calls.finished.sum()),
        "notes": list(found.notes),
    }


def distributions(found: Validation) -> tuple[Figure, ...]:
    """Recorded and simulated distributions of TTFT and end-to-end time."""
    shares = np.arange(101)
    run, calls = found.run, found.replayed.calls
    made = []
    for name, title, recorded in (
        ("ttft", "Time to first token", run.first_token_s - run.arrival_s),
        ("e2e", "End-to-end time", run.last_token_s - run.arrival_s),
    ):
        series = tuple(
            Series(
                label=label,
                x=tuple(np.percentile(values, shares).tolist()),
                y=tuple((shares / 100).tolist()),
            )
            for label, values in (("recorded", recorded), ("simulated", calls.latency(name)))
        )
        made.append(
            Figure(
                name=name,
                title=f"{title}: share of requests",
                x_label="seconds",
                panels=(Panel(series=series, y_label="share of requests"),),
                provenance="modelled",
                source=f"{found.facts['profile']}; recorded: {found.facts['engine']}",
            )
        )
    return tuple(made)
