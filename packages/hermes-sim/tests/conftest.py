"""What several tests use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from crosslayer.accelerators.params import RooflineParams
from crosslayer.accelerators.roofline import Roofline
from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.requests import Prefixes, RequestTrace
from crosslayer.kinds import Instance, ModelArtifact, RunContext, Stack
from hermes_sim.build import build
from hermes_sim.params import HermesParams
from hermes_sim.simulator import Hermes
from hermes_sim.step_models.protocol import Linear

settings.register_profile("by-hand", deadline=None, max_examples=40)
settings.load_profile("by-hand")

# Times whose sums round differently if anything is added up in another order.
STEPS = Linear(1.1e-3, 3.3e-6, 1e-9, 7.7e-5, 1.3e-8)
TINY = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320,
    "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip


def trace_of(arrivals_s, prompts, outputs, **columns) -> RequestTrace:
    arrival = np.rint(np.asarray(arrivals_s, dtype=float) * 1e9).astype(np.int64)
    return RequestTrace(arrival, np.asarray(prompts), np.asarray(outputs), **columns)


def poisson_trace(count, rate, seed=0, prompt=300, output=40) -> RequestTrace:
    rng = np.random.default_rng(seed)
    return trace_of(
        np.cumsum(rng.exponential(1 / rate, count)),
        rng.integers(1, 2 * prompt, count),
        rng.integers(1, 2 * output, count),
    )


def tiny_stack(*instances: Instance, config=TINY) -> Stack:
    artifact = ModelArtifact(ModelSpec.from_hf_config(config))
    accelerator = Roofline(RooflineParams(preset="a100-80g"))
    made = instances or (Instance("tiny", artifact, accelerator),)
    return Stack(tuple(made))


def tiny_instance(name="tiny", config=TINY, preset="a100-80g", **fields) -> Instance:
    artifact = ModelArtifact(ModelSpec.from_hf_config(config))
    return Instance(name, artifact, Roofline(RooflineParams(preset=preset)), **fields)


def outcome_of(stack, trace, watch=None, **params):
    hermes = Hermes(HermesParams.model_validate(params))
    cluster, _, _ = build(stack, hermes.params, 0)
    if watch is not None:
        watch(cluster)
    return hermes.run(stack, trace, cluster), cluster


def prefix_trace(requests, chunks, gap_s=0.2):
    keys = [list(range(chunks))] * requests
    offsets = np.arange(requests + 1) * chunks
    prefix = Prefixes(512, offsets, np.array(keys, dtype=np.uint64).ravel())
    at = np.arange(requests) * gap_s
    return trace_of(at, [512 * chunks] * requests, [2] * requests, prefix=prefix)


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(seed=3, output=tmp_path / "out")
