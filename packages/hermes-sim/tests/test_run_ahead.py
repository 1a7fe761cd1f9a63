"""Many iterations at once give what single ones give, and what an independent loop gives."""

from __future__ import annotations

import os

import numpy as np
import pytest
from conftest import STEPS, poisson_trace, trace_of
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import OneByOne, Seq

from crosslayer.contracts.requests import Prefixes
from hermes_sim.batching import QUEUES, SCHEDULERS, batching
from hermes_sim.replay import replay

SIZE = 4


@st.composite
def loads(draw):
    count = draw(st.integers(1, 14))
    gaps = draw(st.lists(st.sampled_from([0, 1, 999_999, 3_000_000, 40_000_000]),
                         min_size=count, max_size=count))  # fmt: skip
    lengths = st.lists(st.integers(1, 40), min_size=count, max_size=count)
    prompts, outputs = draw(lengths), draw(lengths)
    keys = None
    if draw(st.booleans()):
        # Groups of prompts that begin alike; a chunk is two blocks.
        groups = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
        keys = [[1000 * g + i for i in range(p // (2 * SIZE))]
                for g, p in zip(groups, prompts, strict=True)]  # fmt: skip
    most = max(-(-(p + o) // SIZE) for p, o in zip(prompts, outputs, strict=True))
    blocks = draw(st.integers(most, 3 * most))
    return np.cumsum(gaps), prompts, outputs, keys, blocks


def prefix_of(keys):
    if keys is None:
        return None
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in keys])])
    return Prefixes(2 * SIZE, offsets, np.array([k for one in keys for k in one], dtype=np.uint64))


def columns_of(load, rules, run_ahead, ranks=()):
    arrivals, prompts, outputs, keys, blocks = load
    trace = trace_of(arrivals / 1e9, prompts, outputs, prefix=prefix_of(keys))
    return replay(
        trace, STEPS, rules, kv_blocks=blocks, block_tokens=SIZE, run_ahead=run_ahead, ranks=ranks
    )


@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=int(os.environ.get("HERMES_EXAMPLES", "15")))
@given(
    load=loads(), calls=st.integers(1, 6), budget=st.integers(6, 64), queue=st.sampled_from(QUEUES),
    rng=st.randoms(use_true_random=False),
)  # fmt: skip
def test_every_call_is_timed_as_by_single_iterations_and_by_the_independent_loop(
    name, load, calls, budget, queue, rng
):
    rules = batching(name, calls, None if name in ("static", "mixed") else budget, queue=queue)
    ranks = [rng.randrange(3) for _ in load[1]]
    fast, slow = columns_of(load, rules, True, ranks), columns_of(load, rules, False, ranks)
    assert fast.preemptions == slow.preemptions
    assert fast.tape.iterations == slow.tape.iterations
    for column in fast.calls.columns:
        np.testing.assert_array_equal(fast.calls[column], slow.calls[column], column)

    arrivals, prompts, outputs, keys, blocks = load
    seqs = [
        Seq(i, int(arrivals[i]), prompts[i], outputs[i],
            tuple(keys[i]) if keys is not None else (), 2 * SIZE, rank=ranks[i])
        for i in range(len(prompts))
    ]  # fmt: skip
    loop = OneByOne(STEPS, rules, blocks, SIZE)
    loop.run(seqs)
    assert [s.last for s in seqs] == fast.calls["last_ns"].tolist()
    assert [s.first for s in seqs] == fast.calls["first_ns"].tolist()
    assert [s.started for s in seqs] == fast.calls["started_ns"].tolist()
    assert [s.preempted for s in seqs] == fast.calls["preemptions"].tolist()
    assert loop.iterations == fast.tape.iterations
    assert len(loop.free) == blocks == fast.clients[0].blocks.free


def test_a_busy_run_takes_far_fewer_events_than_iterations():
    trace = poisson_trace(300, 20, output=100)
    found = replay(trace, STEPS, batching("vllm_v1"), kv_blocks=4000)
    assert found.tape.rows < found.tape.iterations / 4


def test_the_same_seed_gives_the_same_bytes():
    trace = poisson_trace(200, 30)
    one, two = (
        replay(
            trace, STEPS, batching("chunked"), kv_blocks=900, clients=3, routing="random", seed=5
        )
        for _ in range(2)
    )
    for column in one.calls.columns:
        assert one.calls[column].tobytes() == two.calls[column].tobytes()
