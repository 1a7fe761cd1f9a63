"""The simulated store against the real one, its conservation laws, and the spec's curve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.contracts.model import Attention, ModelSpec
from crosslayer.errors import InputError
from thinkv.curve import labels_from_shares, with_curves
from thinkv.layout import Layout, formats_of
from thinkv.params import ThinKVParams
from thinkv.row import Labeller, Settings, ThinKVRow
from thinkv.serving import simulate_serving
from thinkv.simulate import LayerSimulation
from thinkv.thoughts import Rules, Thought

R, E, T = Thought.REASONING, Thought.EXECUTION, Thought.TRANSITION
LLAMA = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}


@pytest.mark.parametrize("labels", [(R,), (R, E, T, R, T)])
@pytest.mark.parametrize("budget", [None, 96])
def test_the_simulation_allocates_what_the_real_store_allocates(
    labels: tuple[Thought, ...], budget: int | None
) -> None:
    rules = Rules(segment_tokens=32, schedule=(16, 8, 4), budget_tokens=budget)
    layout = Layout(2, 32, formats_of("R4E4T2"), block_tokens=8)
    simulated = LayerSimulation(layout, rules, np.random.default_rng(0))
    simulated.prompt(20)
    trajectory = simulated.generate(labels, 640)

    oracle = Labeller(labels=tuple(labels[i % len(labels)] for i in range(30)))
    row = ThinKVRow(Settings(layout.formats, rules, oracle, prompt_tokens=20), 1)
    generator = torch.Generator().manual_seed(0)
    real = []
    for size in (20, *[16] * 40):
        row.begin(size)
        q, k, v = (torch.randn(2, size, 32, generator=generator) for _ in range(3))
        row.attend(0, q, k, v, 0.2)
        row.settle()
        found = row.bytes()
        assert found["buffer"] == 0
        real.append(sum(found.values()))
    # Which tokens survive differs, hence which groups die and which blocks are free for whom.
    np.testing.assert_allclose(trajectory.bytes_[-1], real[-1], rtol=0.1)
    if len(labels) == 1:
        slots = sum(len(pool.live) for pool in simulated.pools.values())
        store = row.layers[0]
        assert store is not None
        assert slots == sum(pool.table.slots for pool in store.pools.values())
    assert trajectory.alive[-1] == row.timeline.alive


@given(
    st.lists(st.sampled_from([R, E, T]), min_size=1, max_size=8),
    st.one_of(st.none(), st.integers(20, 600)),
    st.integers(0, 99),
)
def test_tokens_and_slots_are_conserved(
    labels: list[Thought], budget: int | None, seed: int
) -> None:
    rules = Rules(segment_tokens=32, schedule=(16, 8, 4), budget_tokens=budget)
    layer = LayerSimulation(
        Layout(2, 32, formats_of("R4E4T2"), 4), rules, np.random.default_rng(seed)
    )
    layer.prompt(37)
    trajectory = layer.generate(labels, 800)
    live = sum(int(pool.live.sum()) for pool in layer.pools.values())
    slots = sum(len(pool.live) for pool in layer.pools.values())
    assert live == 37 + layer.timeline.alive
    assert live + layer.evicted == 37 + 800
    assert slots == live + layer.dead
    assert sum(pool.fresh for pool in layer.pools.values()) + layer.reused == 837
    for pool in layer.pools.values():
        used = np.bincount(pool.group[pool.live], minlength=len(pool.references))
        assert used.tolist() == pool.references.tolist()
    assert trajectory.bytes_ == sorted(trajectory.bytes_)
    assert layer.moved == 0 or layer.evicted > 0


def test_the_curve_follows_the_simulated_store() -> None:
    spec = ModelSpec.from_hf_config(LLAMA)
    params = ThinKVParams(budget_tokens=512)
    changed = with_curves(spec, params, (R,))
    (part, _) = [part for _, part in changed.parts(Attention)]
    layer = LayerSimulation(Layout(2, 32, formats_of("R4E4T2")), Rules(budget_tokens=512))
    trajectory = layer.generate((R,), 4096)
    for n, stored in zip(trajectory.generated[::32], trajectory.bytes_[::32], strict=True):
        assert part.kv_curve.live(0, n)[1] == pytest.approx(stored + 7.5 * 256, rel=0.02)
    assert part.kv_curve.live(0, 500)[0] == 500
    assert part.kv_curve.live(100, 4096)[0] <= 612
    assert changed.kv_bytes(0, 4096) < spec.kv_bytes(0, 4096) / 10


def test_a_cache_takes_one_policy_and_needs_full_attention() -> None:
    spec = with_curves(ModelSpec.from_hf_config(LLAMA), ThinKVParams(), (R,))
    with pytest.raises(InputError, match="already has the cache policy"):
        with_curves(spec, ThinKVParams(), (R,))
    windowed = ModelSpec.from_hf_config({**LLAMA, "model_type": "mistral", "sliding_window": 64})
    with pytest.raises(InputError, match="windowed"):
        with_curves(windowed, ThinKVParams(), (R,))
    mamba = {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 320}
    with pytest.raises(InputError, match="no attention"):
        with_curves(ModelSpec.from_hf_config(mamba), ThinKVParams(), (R,))


def test_labels_from_shares_have_those_shares() -> None:
    labels = labels_from_shares((0.25, 0.25, 0.5))
    assert [labels.count(thought) / len(labels) for thought in (T, E, R)] == [0.25, 0.25, 0.5]
    assert labels_from_shares(None) == (R,)


def test_the_serving_view_batches_more_and_moves_nothing() -> None:
    spec = ModelSpec.from_hf_config(LLAMA)
    found = simulate_serving(spec, ThinKVParams(budget_tokens=256), "RERT", 8192, 64, 1e8, 3)
    assert found["moved_bytes"] == 0 < found["gathered_bytes"]
    assert found["batch"] > 4 * found["batch_full"]
    assert found["slots_reused_in_place"] > 0
    assert found["alive_tokens"] <= max(256, found["floor_tokens"])
    less = ThinKVParams(budget_tokens=256 + 64, budget_counts_prompt=True)
    assert simulate_serving(spec, less, "RERT", 8192, 64, 1e8, 3) == found
    with pytest.raises(InputError, match="RERT"):
        simulate_serving(spec, ThinKVParams(), "RX", 128, 0, 1e8)
