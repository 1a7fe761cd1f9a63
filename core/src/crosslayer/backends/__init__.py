"""Language models that answer: one protocol, and the backends that ship with the core.

`TransformersBackend` runs a live model here, `OpenAIBackend` asks an OpenAI-compatible endpoint,
`ReplayBackend` repeats what a `Recorder` wrote down. `MemberBackend` lets them speak in the policy
loop. Importing this package imports none of their libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosslayer.backends.members import MemberBackend as MemberBackend
    from crosslayer.backends.openai import OpenAIBackend as OpenAIBackend
    from crosslayer.backends.protocol import BackendError as BackendError
    from crosslayer.backends.protocol import Generation as Generation
    from crosslayer.backends.protocol import Prompt as Prompt
    from crosslayer.backends.protocol import Sample as Sample
    from crosslayer.backends.protocol import Sampling as Sampling
    from crosslayer.backends.protocol import TextBackend as TextBackend
    from crosslayer.backends.protocol import prompt as prompt
    from crosslayer.backends.recording import Recorder as Recorder
    from crosslayer.backends.replay import ReplayBackend as ReplayBackend
    from crosslayer.backends.transformers import TransformersBackend as TransformersBackend

_HOME = {
    "MemberBackend": "members",
    "OpenAIBackend": "openai",
    "Recorder": "recording",
    "ReplayBackend": "replay",
    "TransformersBackend": "transformers",
    **dict.fromkeys(
        ("BackendError", "Generation", "Prompt", "Sample", "Sampling", "TextBackend", "prompt"),
        "protocol",
    ),
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
