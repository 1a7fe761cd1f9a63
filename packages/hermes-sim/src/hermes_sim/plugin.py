"""What this package adds to crosslayer."""

from __future__ import annotations

from crosslayer.component import Command, Component, hookimpl


@hookimpl
def crosslayer_simulators() -> list[Component]:
    """The simulator `hermes`."""
    return [
        Component(
            name="hermes",
            summary="Discrete-event simulation of multi-stage LLM serving (HERMES/MIST)",
            paper="arXiv:2504.09775",
            factory="hermes_sim.simulator:Hermes",
            params="hermes_sim.params:HermesParams",
        )
    ]


@hookimpl
def crosslayer_commands() -> list[Command]:
    """`crosslayer hermes`, also installed as `hermes-sim`."""
    return [
        Command(
            name="hermes",
            summary="Run, fit, validate and explain serving simulations.",
            app="hermes_sim.cli:app",
        )
    ]
