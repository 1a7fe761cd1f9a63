"""Traces, recorded runs, the prefix cache replay and the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import trace_of
from hypothesis import given
from hypothesis import strategies as st
from test_step_models import bundle  # noqa: F401 (a fixture)

from crosslayer.cli import main
from crosslayer.contracts.requests import Prefixes
from crosslayer.errors import InputError
from hermes_sim.prefix_replay import replay_prefixes
from hermes_sim.readers.engine_run import read_run
from hermes_sim.readers.kernel_bundle import Shape
from hermes_sim.readers.traces import read_any
from hermes_sim.readers.vidur_profile import read_vidur_profile
from hermes_sim.step_models.fitted import read_fit
from hermes_sim.validation import validate


def lru_by_stack_distance(accesses, capacity):
    """Independent of any cache: an access hits if fewer than `capacity` other keys were used since
    (R. L. Mattson et al., IBM Systems Journal 9(2), 1970).
    """
    hits = 0
    for i, key in enumerate(accesses):
        before = [j for j in range(i) if accesses[j] == key]
        if before and len(set(accesses[before[-1] + 1 : i])) < capacity:
            hits += 1
    return hits


@given(
    prompts=st.lists(st.lists(st.integers(0, 12), max_size=6), min_size=1, max_size=20),
    capacity=st.integers(1, 15),
)
def test_lru_hits_equal_those_by_stack_distance_at_any_capacity(prompts, capacity):
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in prompts])])
    flat = [key for one in prompts for key in one]
    prefix = Prefixes(16, offsets, np.array(flat, dtype=np.uint64))
    lengths = np.array([16 * len(one) for one in prompts])
    trace = trace_of(np.arange(len(prompts)), lengths, lengths, prefix=prefix)
    found = replay_prefixes(trace, capacity)
    assert found.block_hits == lru_by_stack_distance(flat, capacity)
    assert found.prefix_hits <= found.block_hits
    assert replay_prefixes(trace, None).block_hits == len(flat) - len(set(flat))


def test_traces_of_vidur_splitwise_and_llmservingsim_are_read(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,10,3\n1.25,20,4\n")
    trace, name = read_any(file)
    assert name == "vidur" and trace.arrival_ns.tolist() == [0, 750_000_000]
    file.write_text("\ufeff" + file.read_text().replace("\n", "\r\n"))  # as spreadsheets save it
    assert read_any(file)[0].prompt_tokens.tolist() == [10, 20]
    file.write_text(
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
        "0,2,0,0.0,1,100,7\n1,2,0,0.5,1,50,9\n"
    )
    trace, name = read_any(file)
    assert name == "splitwise" and trace.prompt_tokens.tolist() == [100, 50]
    file = tmp_path / "a.jsonl"
    rows = [
        {"input_toks": 40, "output_toks": 3, "arrival_time_ns": 5, "input_tok_ids": [7] * 40},
        {"input_toks": 33, "output_toks": 3, "arrival_time_ns": 9, "input_tok_ids": [7] * 32 + [1]},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    trace, name = read_any(file)
    assert name == "llmservingsim" and trace.arrival_ns.tolist() == [0, 4]
    first, second = trace.prefix.at(0).hashes, trace.prefix.at(1).hashes
    assert len(first) == 2 and first == second


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,2\n", ":2: the row has 2 cells"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,-2,3\n", ":2: num_prefill_tokens"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\nnan,2,3\n", ":2: arrived_at"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n2,2,3\n1,2,3\n", ":3: arrives at 1"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n", "no request"),
        ("num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n", "arrived_at"),
        ("nothing,known\n1,2\n", "unknown header"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1e300,3\n", ":2: num_prefill_tokens"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1e300,2,3\n", ":2: arrives after"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0," + "9" * 200_000, ": is no CSV"),
        ("x" * 200_000, ":1: is no CSV"),
        (
            '{"input_toks": Infinity, "output_toks": 1, "arrival_time_ns": 0}\n',
            ":1: cannot be read",
        ),
        (
            '{"arrival_time_ns": 0, "output_toks": 1, "input_toks": 1%s}\n' % ("0" * 30),
            ":1: cannot be read",
        ),
        ('{"arrival_time_ns": 0, "output_toks": 1, "input_toks": 1.5}\n', ":1: cannot be read"),
        ('{"arrival_time_ns": 0, "output_toks": -1, "input_toks": 1}\n', ":1: cannot be read"),
        ('{"arrival_time_ns": 0, "input_toks": 1, "sub_requests": []}\n', ":1: sessions with sub"),
        ('{"input_toks": 1, "x": ' + "[" * 50_000, ":1: cannot be read"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path, text, wrong):
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=wrong):
        read_any(file)


STAMPS = ("arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")


@pytest.mark.parametrize(
    "wrong",
    [{"input_toks": float("inf")}, {"input_toks": 10**30}, {"output_toks": -1},
     {"arrival_time": float("nan")}, {"last_token_ts": 1e300}, {"queued_ts": None}],
    ids=str,
)  # fmt: skip
def test_a_bad_line_of_a_recorded_run_is_refused_by_its_number(tmp_path, wrong):
    good = dict.fromkeys(STAMPS, 1.0) | {"input_toks": 4, "output_toks": 4}
    (tmp_path / "meta.json").write_text("{}")
    lines = [json.dumps(good), json.dumps(good | wrong)]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"requests\.jsonl:2: "):
        read_run(tmp_path)


WORKERS = "num_tensor_parallel_workers"


@pytest.mark.parametrize("wrong", ["1,1,nan", "1,1,-5", "inf,1,1", "1,2", "1,2,3,4", "1,,3"])
def test_a_bad_row_of_a_vidur_profile_is_refused(tmp_path, wrong):
    ops = ("add", "attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
    head = ",".join(f"time_stats.{op}.median" for op in ops)
    (tmp_path / "mlp.csv").write_text(
        f"{WORKERS},num_tokens,{head}\n1,3,1,0,0,0,0\n{wrong},0,0,0,0\n"
    )
    with pytest.raises(InputError, match=r"3: "):
        read_vidur_profile(tmp_path, Shape(2))


@pytest.mark.parametrize("wrong", [{"seconds_per": [float("nan")] * 6}, {"decode_limit": "many"}])
def test_a_fit_that_holds_no_numbers_is_refused(tmp_path, wrong):
    limits = {"decode_limit": 8, "context_limit": 100, "prompt_limit": 100}
    fit = {"hermes_fit": 1, "seconds_per": [1] * 6, "error": 0.1, "samples": 12, **limits}
    file = tmp_path / "fit.json"
    file.write_text(json.dumps(fit))
    assert read_fit(file).samples == 12
    file.write_text(json.dumps(fit | wrong))
    with pytest.raises(InputError, match="is no fit"):
        read_fit(file)


ENGINE = {
    "model": "meta-llama/Llama-3.1-8B", "vllm_version": "9",
    "engine_kwargs": {"max_num_seqs": 8, "max_num_batched_tokens": 64, "max_model_len": 4096},
    "kv_cache": {"num_gpu_blocks": 41, "block_size": 16, "enable_prefix_caching": True},
}  # fmt: skip


@pytest.fixture
def run(tmp_path_factory):
    """A recorded run with two clocks: epoch seconds of arrival, the engine's own."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "meta.json").write_text(json.dumps(ENGINE))
    rows = []
    for i in range(6):
        at = 0.01 * i
        rows.append(
            {
                "request_id": f"r{i}", "input_toks": 20 + i, "output_toks": 5,
                "arrival_time": 1.7e9 + at, "queued_ts": 500 + at, "scheduled_ts": 500 + at,
                "first_token_ts": 500.01 + at, "last_token_ts": 500.05 + at,
            }
        )  # fmt: skip
    (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, reversed(rows))))
    return folder


def test_validation_replays_a_run_with_the_engines_own_settings(run, bundle):  # noqa: F811
    found = validate(run, bundle)
    assert found.row("ttft_mean_s").recorded == pytest.approx(0.01, abs=1e-6)
    assert found.row("e2e_mean_s").recorded == pytest.approx(0.05, abs=1e-6)
    assert found.row("tpot_mean_s").recorded == pytest.approx(0.01, abs=1e-6)
    assert found.facts["kv_blocks"] == 40 and found.facts["max_num_seqs"] == 8
    assert found.replayed.calls.finished.all()
    assert 0 < found.row("e2e_mean_s").simulated < 1
    again = validate(run, bundle)
    assert [row.simulated for row in again.rows] == [row.simulated for row in found.rows]


def test_validation_handles_other_engines(run, bundle):  # noqa: F811
    table = ENGINE | {
        "model": "/data/model/Qwen3-32B",
        "engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 8},
        "kv_cache": {"block_size": 16, "gpu_memory_utilization": 0.9},
        "hardware": {"device_total_memory_bytes": 101e9},
    }
    (run / "meta.json").write_text(json.dumps(table))
    found = validate(run, bundle)
    assert found.facts["tensor_parallel"] == 2 and len(found.notes) == 2
    # two cards at 0.9, less weights and what is no KV, in blocks of 16 tokens of 256 KiB
    assert found.facts["kv_blocks"] == int((181.8e9 - 65.52e9 - 2.4e9) // (16 * 262144))
    table["engine_kwargs"] = {"data_parallel_size": 2}
    (run / "meta.json").write_text(json.dumps(table))
    assert len(validate(run, bundle).replayed.clients) == 2
    table["model"] = "somebody/unheard-of"
    (run / "meta.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="give --model"):
        validate(run, bundle)


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["hermes", *map(str, arguments)])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_the_command_line_validates_and_names_what_is_wrong(run, bundle, capsys, tmp_path):  # noqa: F811
    drawing = tmp_path / "cdf.svg"
    code, out, _ = call(
        capsys, "validate", "--run", run, "--profile", bundle, "--json", "--figure", drawing
    )
    data = json.loads(out)
    assert code == 0 and {"extrapolated_steps", "preemptions"} <= data.keys()
    assert {"metric", "recorded", "simulated", "error"} <= data["metrics"][0].keys()
    assert drawing.read_text().startswith("<")
    code, out, _ = call(capsys, "validate", "--run", run, "--profile", bundle)
    assert code == 0 and "ttft_mean_s" in out and "preemptions" in out
    (run / "requests.jsonl").write_text('{"request_id": "x"}\n')
    code, _, err = call(capsys, "validate", "--run", run, "--profile", bundle)
    assert code == 2 and "requests.jsonl:1: arrival_time is missing" in err


def test_the_command_line_describes_traces_and_fits_steps(capsys, tmp_path):
    file = tmp_path / "m.jsonl"
    rows = [
        {"timestamp": i, "input_length": 1024, "output_length": 5, "hash_ids": [0, 1 + i % 2]}
        for i in range(4)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = call(capsys, "traces", file, "--cache-blocks", 2, "--json")
    data = json.loads(out)
    assert code == 0 and data["prefix_cache"][0]["block_hits"] == 5
    steps = tmp_path / "steps.csv"
    lines = [f"1,{10 * i},{i},{i % 5},{50 * (i % 5)},{0.001 + 1e-5 * i}" for i in range(1, 60)]
    steps.write_text(
        "prompts,prompt_tokens,pairs,decodes,context,seconds\n" + "\n".join(lines) + "\n"
    )
    code, out, _ = call(capsys, "fit", steps, tmp_path / "fit.json")
    assert code == 0 and "mean error" in out
    code, _, err = call(capsys, "fit", tmp_path / "none.csv", tmp_path / "fit.json")
    assert code == 2 and "none.csv" in err


PIPELINE = """
[model]
use = "llama-3.1-8b"
[accelerator]
use = "roofline:h100-80g"
[workload]
arrivals = "poisson"
requests = 8
rate_per_s = 5.0
prompt_tokens = 100
output_tokens = 10
[[simulate]]
use = "hermes"
before = ["search"]
[simulate.stages.search]
seconds = 0.01
"""


def test_explain_shows_where_a_requests_time_went(capsys, tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(PIPELINE)
    code, out, _ = call(capsys, "explain", file, "3", "--json")
    data = json.loads(out)
    assert code == 0 and data["parts_s"]["search"] == 0.01
    assert sum(data["parts_s"].values()) == pytest.approx(data["e2e_s"], abs=1e-12)
    code, _, err = call(capsys, "explain", file, "99")
    assert code == 2 and "'99'" in err
    file.write_text(PIPELINE.replace("[simulate.stages", "until_s = 1e-6\n[simulate.stages"))
    code, _, err = call(capsys, "explain", file, "3")
    assert code == 2 and "no request has ended by until_s" in err
