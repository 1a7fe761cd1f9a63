"""Whatever a trace, a profile or a configuration holds: an end, or one sentence that says why."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from conftest import STEPS, outcome_of, tiny_instance, tiny_stack, trace_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_profiles import ENGINE, old_layout, recorded, vidur  # noqa: F401 (a fixture)
from test_step_models import bundle  # noqa: F401 (a fixture)

from crosslayer.contracts.requests import Prefixes
from crosslayer.errors import InputError
from hermes_sim.batching import SCHEDULERS, batching
from hermes_sim.readers.engine_run import read_run
from hermes_sim.readers.kernel_bundle import Shape
from hermes_sim.readers.profiles import read_profile
from hermes_sim.readers.splitwise_profile import read_splitwise_profile
from hermes_sim.readers.traces import read_any
from hermes_sim.replay import replay
from hermes_sim.step_models.fitted import COLUMNS, fit, read_fit, read_steps
from hermes_sim.step_models.protocol import Linear

NASTY = ("", "-1", "nan", "inf", "1e309", "1e300", "9" * 40, "1.5", "abc", '"', ",", "\n", "\0",
         "{", "[]", "null", "0", "\ud800", "1e-320", "true")  # fmt: skip


@st.composite
def spoilt(draw, text: str):
    """The text with a cell, a line or its end changed."""
    lines = text.split("\n")
    row = draw(st.integers(0, max(0, len(lines) - 1)))
    how = draw(st.sampled_from(("cell", "cell", "cell", "cut", "drop", "twice", "swap", "bytes")))
    if how == "cell":
        cells = lines[row].split(",")
        cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(NASTY))
        lines[row] = ",".join(cells)
    elif how == "drop":
        del lines[row]
    elif how == "twice":
        lines.insert(row, lines[row])
    elif how == "swap":
        other = draw(st.integers(0, max(0, len(lines) - 1)))
        lines[row], lines[other] = lines[other], lines[row]
    made = "\n".join(lines)
    if how == "cut":
        made = made[: draw(st.integers(0, len(made)))]
    data = made.encode(errors="surrogatepass")
    return data + b"\xff\xfe" if how == "bytes" else data


def used(steps):
    """A few calls priced by the model: all end, at an instant that is one."""
    trace = trace_of([0, 0, 0.01, 5], [40, 1, 100, 16], [5, 1, 9, 3])
    found = replay(trace, steps, batching("chunked", 4, 64), kv_blocks=30)
    assert found.calls.finished.all()
    assert (found.calls["last_ns"] >= found.calls["first_ns"]).all()
    assert np.isfinite(found.calls.e2e_s).all() and (found.calls.e2e_s > 0).all()


def one_sentence(error):
    assert all(line.strip() and len(line) < 600 for line in str(error).split("\n"))


def spoil(data, folder, read):
    """Read the folder with one of its files changed; it works, or it is refused."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = data.draw(st.sampled_from(files))
    before = chosen.read_bytes()
    try:
        chosen.write_bytes(data.draw(spoilt(before.decode())))
        read(folder)
    except InputError as error:
        one_sentence(error)
    finally:
        chosen.write_bytes(before)


many = settings(
    max_examples=int(os.environ.get("HERMES_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@many
@given(data=st.data())
def test_a_spoilt_kernel_bundle_is_used_or_refused(data, bundle):  # noqa: F811
    (bundle / "step.csv").write_text("branch,num_tokens,saved_us\nfull,4,9\npiecewise,64,5\n")
    (bundle / "moe.csv").write_text("tokens,activated_experts,time_us\n1,1,5\n9,1,5\n9,8,70\n")
    (bundle / "skew_fit.csv").write_text(
        "pc,n_label,skew_rate_label,kv_big_label,kp_label,alpha,n_samples\n"
        "0,n<=4,sr<=70%,kvB<=1k,kp=0,0.5,4\n"
    )
    (bundle / "meta.yaml").write_text(
        "skew_fit:\n  enabled: true\n  per_tp:\n    1:\n      alpha_default: 0.1\n"
    )
    shape = Shape(layers=2, experts=8, active_experts=2)
    spoil(data, bundle, lambda folder: used(read_profile(folder, shape)))


@many
@given(data=st.data())
def test_a_spoilt_profile_of_vidur_or_of_the_older_layout_is_used_or_refused(
    data, vidur, tmp_path_factory  # noqa: F811
):  # fmt: skip
    old = tmp_path_factory.mktemp("old")
    folder, ways = (vidur, 2) if data.draw(st.booleans()) else (old_layout(old), 1)
    shape = Shape(layers=2, hidden=64, tensor_parallel=ways)
    spoil(data, folder, lambda one: used(read_profile(one, shape)))
    shutil.rmtree(old)


@many
@given(data=st.data())
def test_a_spoilt_table_of_steps_fit_or_splitwise_table_is_used_or_refused(data, tmp_path):
    steps = tmp_path / "steps.csv"
    rows = [f"1,{9 * i},{i},{i % 5},{50 * (i % 5)},{0.001 + 1e-5 * i}" for i in range(1, 20)]
    steps.write_text(",".join(COLUMNS) + "\n" + "\n".join(rows) + "\n")
    (tmp_path / "fit.json").write_text(fit(read_steps(steps)).to_json())
    (tmp_path / "perf.csv").write_text(
        "model,hardware,prompt_size,batch_size,token_size,average_power,prompt_time,token_time,"
        "tensor_parallel\n"
        + "".join(
            f"m,a100-80gb,{p},{b},128,0.5,{p * b / 10},{30 + b},2\n"
            for p in (9, 500)
            for b in (1, 8)
        )
    )

    def read(folder):
        used(fit(read_steps(folder / "steps.csv")))
        used(read_fit(folder / "fit.json"))
        used(read_splitwise_profile(folder / "perf.csv", None, None, 2))

    spoil(data, tmp_path, read)


TRACES = {
    "vidur.csv": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,10,3\n1.25,20,4\n",
    "splitwise.csv": "request_id,request_type,application_id,arrival_timestamp,batch_size,"
    "prompt_size,token_size\n0,2,0,0.0,1,100,7\n1,2,0,0.5,1,50,9\n",
    "simulator.jsonl": '{"input_toks": 4,"output_toks": 3,"arrival_time_ns": 5,"input_tok_ids": '
    '[7,8]}\n{"input_toks": 33,"output_toks": 3,"arrival_time_ns": 9}\n',
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9951690,396,109\n",
    "mooncake.jsonl": '{"timestamp": 1,"input_length": 600,"output_length": 5,"hash_ids": [0,1]}\n'
    '{"timestamp": 4,"input_length": 600,"output_length": 5,"hash_ids": [0,2]}\n',
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(TRACES)))
def test_a_spoilt_trace_is_served_or_refused_with_its_file(data, name, tmp_path):
    file = tmp_path / name
    file.write_bytes(data.draw(spoilt(TRACES[name])))
    try:
        trace, _ = read_any(file)
    except InputError as error:
        one_sentence(error)
        assert str(file) in str(error)
        return
    assert (np.diff(trace.arrival_ns) >= 0).all() and trace.prompt_tokens.min() >= 0
    found = replay(trace, STEPS, batching("vllm_v1"), kv_blocks=20)
    assert (found.calls["status"] <= 1).all() and len(found.calls) == len(trace)


@many
@given(data=st.data())
def test_a_spoilt_recorded_run_is_read_or_refused(data, tmp_path):
    recorded(tmp_path, ENGINE, 1.0, lambda at: 1.0)
    spoil(data, tmp_path, read_run)


@st.composite
def configurations(draw):
    """Parameters and a stack that is far too small for some of the requests."""
    split = draw(st.booleans())
    names = draw(st.integers(1, 3))
    blocks, stages = st.integers(1, 14), draw(st.sampled_from((1, 1, 2)))
    roles = ["prefill", "decode", "decode"][: 2 + names % 2] if split else ["any"] * names
    instances = [
        tiny_instance(f"i{i}", role=role, kv_blocks=draw(blocks), pipeline_parallel=stages,
                      devices=stages)
        for i, role in enumerate(roles)
    ]  # fmt: skip
    scheduler = draw(st.sampled_from(SCHEDULERS))
    calls = draw(st.integers(1, 6))
    routers = ("round_robin", "random", "least_requests", "least_tokens", "least_kv",
               "length_split", "prefix_aware", "session_affinity")  # fmt: skip
    params = {
        "scheduler": scheduler, "max_calls": calls, "router": draw(st.sampled_from(routers)),
        "token_budget": draw(st.one_of(st.none(), st.integers(calls, 80))),
        "prefix_caching": draw(st.sampled_from((None, True, False))),
        "queue": draw(st.sampled_from(("fcfs", "priority", "least_work_left"))),
        "hand_off": draw(st.sampled_from(("whole", "layerwise"))),
        "hand_off_scope": draw(st.sampled_from(("global", "local"))),
        "context_tokens": draw(st.sampled_from((None, 1, 100))),
        "run_ahead": draw(st.booleans()), "split_tokens": 40,
    }  # fmt: skip
    if params["queue"] == "priority":
        params["slo"] = {"default": {"priority": 1}, "urgent": {"priority": -1}}
    if scheduler in ("chunked", "vllm_v1") and params["token_budget"] is None:
        params["token_budget"] = 64
    if draw(st.booleans()):
        stages = {"a": {"seconds": 0.001, "adds_tokens": 30}, "b": {"servers": 2, "token_s": 1e-6}}
        params |= {"before": ["a"], "after": ["b"], "stages": stages}
    if draw(st.booleans()):
        params |= {"reasoning_paths": draw(st.integers(1, 3)), "reasoning_scale": 1.5,
                   "reasoning_end": draw(st.sampled_from(("all", "majority")))}  # fmt: skip
    if draw(st.booleans()):
        tier = {"name": "host", "gigabytes": draw(st.sampled_from((1e-6, 1e-4, 1.0))),
                "bytes_per_s": draw(st.sampled_from((1e3, 1e12)))}  # fmt: skip
        params |= {"tiers": [tier], "tier_policy": draw(st.sampled_from(("cheaper", "always")))}
    return instances, params


@st.composite
def requests(draw):
    count = draw(st.integers(1, 12))
    gaps = draw(st.lists(st.sampled_from((0, 0, 1, 10**5, 10**8)), min_size=count, max_size=count))
    prompts = draw(st.lists(st.integers(0, 260), min_size=count, max_size=count))
    outputs = draw(st.lists(st.integers(0, 60), min_size=count, max_size=count))
    prefix = None
    if draw(st.booleans()):
        keys = [[1000 * (i % 2) + j for j in range(p // 32)] for i, p in enumerate(prompts)]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in keys])])
        flat = np.array([key for one in keys for key in one], dtype=np.uint64)
        prefix = Prefixes(32, offsets, flat)
    return trace_of(np.cumsum(gaps) / 1e9, prompts, outputs, prefix=prefix)


@pytest.mark.parametrize("blocks", [None, 20])
def test_lengths_that_nobody_can_serve_are_refused_and_counted(blocks):
    huge = 2**62
    trace = trace_of([0, 0, 0, 0], [huge, 5, 5, 0], [5, huge, 3, 0])
    found = replay(trace, STEPS, batching("vllm_v1"), kv_blocks=blocks)
    assert found.calls["status"].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("seconds", [1e300, float("inf"), float("nan")])
@pytest.mark.parametrize("prompt", [0, 1])
def test_a_step_that_lasts_for_ages_is_refused(seconds, prompt):
    model = Linear(prompt_token_s=seconds) if prompt else Linear(decode_s=seconds)
    with pytest.raises(InputError, match=r"client 0: a step would take (inf|nan|1e\+300|\d)"):
        replay(trace_of([0], [4], [3]), model, batching("vllm_v1"))


MOST_EVENTS = 60_000  # some hundred times what the longest of these runs needs


@settings(max_examples=150)
@given(configuration=configurations(), trace=requests())
def test_every_run_with_tiny_memory_ends_and_every_request_is_served_or_refused_with_a_reason(
    configuration, trace
):
    instances, params = configuration
    taken = 0

    def counted(cluster):
        push = cluster.events.push

        def counting(*arguments):
            nonlocal taken
            taken += 1
            assert taken < MOST_EVENTS, "it does not end"
            push(*arguments)

        cluster.events.push = counting

    outcome, cluster = outcome_of(tiny_stack(*instances), trace, watch=counted, **params)
    assert len(outcome.finished) == len(trace)
    failed = len(trace) - int(outcome.finished.sum())
    assert sum(outcome.reasons.values()) == failed
    np.testing.assert_array_equal(
        sum(outcome.breakdown.values()), outcome.last_ns - outcome.arrival_ns
    )
    for client in cluster.clients:
        assert client.blocks.free == client.blocks.total
        assert not client.running and not client.waiting and not client.queued_tokens
    assert cluster.open == 0
