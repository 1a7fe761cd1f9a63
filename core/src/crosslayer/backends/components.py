"""What `use` in a [[backend]] table may say. Not a kind of plugin: the protocol is small and the
three ship with the core.
"""

from __future__ import annotations

from crosslayer.component import Component

_PARAMS = "crosslayer.backends.params"
BACKENDS = {
    one.name: one
    for one in (
        Component(
            name="openai",
            summary="An OpenAI-compatible endpoint: chat completions through the official client",
            paper="",
            factory="crosslayer.backends.openai:OpenAIBackend",
            params=f"{_PARAMS}:OpenAIParams",
            needs=("openai",),
            install="python -m pip install 'openai>=2,<4'",
        ),
        Component(
            name="replay",
            summary="A recorded session, offline",
            paper="",
            factory="crosslayer.backends.replay:recorded",
            params=f"{_PARAMS}:ReplayParams",
        ),
        Component(
            name="transformers",
            summary="A live model of the pipeline, with settings of its own",
            paper="",
            factory="crosslayer.backends.transformers:TransformersBackend",
            params=f"{_PARAMS}:TransformersParams",
            needs=("torch", "transformers"),
        ),
    )
}
