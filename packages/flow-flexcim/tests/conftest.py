"""What several tests use: a text without network, small live models, a run context."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from crosslayer.errors import DependencyError
from crosslayer.fetch import fetch
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.models.random_model import random_model

# For a run of pytest by hand; a nox session loads its own profiles after this one.
settings.register_profile("by-hand", deadline=None, max_examples=40)
settings.load_profile("by-hand")

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 2048,
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


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of varied sentences, long enough for calibration and evaluation."""
    words = [
        "river",
        "stone",
        "engine",
        "window",
        "letter",
        "paper",
        "mountain",
        "number",
        "signal",
        "garden",
    ]
    lines = [
        f"The {words[i % 9]} of {words[i * 5 % 8]} number {i * i} met a {words[i // 3 % 9]}."
        for i in range(2000)
    ]
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def tiny() -> ModelArtifact:
    """A live random Llama of three layers, with whole bf16 weights."""
    return random_model(TINY, seed=1)


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(seed=3, output=tmp_path / "out")
