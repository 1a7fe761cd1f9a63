"""What this package adds to crosslayer."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl

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
