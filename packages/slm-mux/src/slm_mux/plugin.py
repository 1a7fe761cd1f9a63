"""What this package adds to crosslayer."""

from __future__ import annotations

from crosslayer.component import Command, Component, hookimpl

PAPER = "arXiv:2510.05077"


@hookimpl
def crosslayer_serving_policies() -> list[Component]:
    """The policy `slm-mux`."""
    return [
        Component(
            name="slm-mux",
            summary="Several models, k samples each; the most self-consistent answers (SLM-MUX)",
            paper=PAPER,
            factory="slm_mux.policy:SLMMux",
            params="slm_mux.params:SLMMuxParams",
        )
    ]


@hookimpl
def crosslayer_models() -> list[Component]:
    """The live family, a preset a member."""
    return [
        Component(
            name="slm-mux-family",
            summary="Transformers of 0.2 million parameters, trained on arithmetic mixtures",
            paper="",
            factory="slm_mux.family:family",
            params="slm_mux.family:FamilyParams",
            presets=("sums", "digits", "remainders", "carryless"),
            needs=("torch", "transformers"),
        )
    ]


@hookimpl
def crosslayer_commands() -> list[Command]:
    """`crosslayer slm-mux ...`, the same as the console script."""
    return [
        Command(
            name="slm-mux",
            summary="Ask, serve, record, replay and search pools of small models",
            app="slm_mux.cli:app",
        )
    ]
