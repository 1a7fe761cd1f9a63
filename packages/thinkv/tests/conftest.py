"""What several tests use: hypothesis by hand, a tiny live model, a run context."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from crosslayer.errors import DependencyError
from crosslayer.fetch import fetch
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.models.random_model import random_model

os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined; there is no GPU in the tests

# For a run of pytest by hand; a nox session loads its own profiles after this one.
settings.register_profile("by-hand", deadline=None, max_examples=30)
settings.load_profile("by-hand")

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 320,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


def asset(name: str) -> Path:
    """The asset's file, fetched if need be. Offline the test is skipped, but not in CI."""
    try:
        return fetch(name)
    except DependencyError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def tiny() -> ModelArtifact:
    """A live random Llama of two layers with grouped queries, whole bf16 weights."""
    return random_model(TINY, seed=1)


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(seed=3, output=tmp_path / "out")
