"""What this package adds to crosslayer."""

from __future__ import annotations

from crosslayer.component import Command, Component, hookimpl


@hookimpl
def crosslayer_model_transforms() -> list[Component]:
    """The transform `thinkv`; on a spec without weights it needs no torch, so it lists no needs."""
    return [
        Component(
            name="thinkv",
            summary="Thought-adaptive KV cache: precision and eviction by type of thought (ThinKV)",
            paper="arXiv:2510.01290",
            factory="thinkv.transform:ThinKV",
            params="thinkv.params:ThinKVParams",
        )
    ]


@hookimpl
def crosslayer_commands() -> list[Command]:
    """`crosslayer thinkv ...`."""
    return [
        Command(
            name="thinkv",
            summary="Calibrate, run, trace, compare and simulate the thought-adaptive KV cache",
            app="thinkv.cli:app",
        )
    ]
