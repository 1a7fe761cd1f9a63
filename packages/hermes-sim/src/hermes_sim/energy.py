"""Joules of a simulation: of the steps of clients, of their idling, of servers of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crosslayer.contracts.report import Cell, Column, Table
from hermes_sim.client import Client
from hermes_sim.params import HermesParams

Parts = list[tuple[str, float | None]]


def energy_parts(
    clients: Sequence[Client], params: HermesParams, span_s: float, stage_ns: Mapping[str, int]
) -> Parts:
    """(what, joules) of everything that has an energy: None where steps have no figure for it.

    span_s: the simulation's. stage_ns: for how long servers of each stage served.
    """
    parts: Parts = [(f"{client.name}: steps", client.joules) for client in clients]
    if params.idle_watts is not None:
        for client in clients:
            idle = max(0.0, span_s - client.busy_ns / 1e9)
            joules = params.idle_watts * client.site.devices * idle
            parts.append((f"{client.name}: idle", joules))
    for name, spent in stage_ns.items():
        stage = params.stages.get(name)
        if stage is not None and stage.watts is not None:
            parts.append((f"stage {name}", stage.watts * spent / 1e9))
    return parts


def total_joules(parts: Parts) -> float | None:
    """Joules of all parts; None if those of one are not known."""
    known = [joules for _, joules in parts if joules is not None]
    return sum(known) if len(known) == len(parts) else None


def energy_table(parts: Parts, tokens: int) -> Table | None:
    """Each part, its share, and what it comes to for each output token; None of nothing known."""
    if all(joules is None for _, joules in parts):
        return None
    whole = total_joules(parts)
    rows: list[tuple[Cell, ...]] = [
        (
            name, joules,
            joules / whole if joules is not None and whole else None,
            joules / tokens if joules is not None and tokens else None,
        )
        for name, joules in parts
    ]  # fmt: skip
    return Table(
        name="energy",
        title="Where the energy goes",
        columns=(
            Column(name="part"),
            Column(name="energy", unit="J", provenance="modelled"),
            Column(name="share", unit="fraction", provenance="modelled"),
            Column(name="per output token", unit="J/token", provenance="modelled"),
        ),
        rows=tuple(rows),
        note="Empty where an accelerator has no figure; stages without watts are not in it.",
    )
