"""Other folders of kernels, tensor parallelism and experts: in step models and in validation."""

from __future__ import annotations

import json
import lzma

import numpy as np
import pytest
from conftest import TINY, tiny_instance, tiny_stack, trace_of
from test_step_models import bundle, us  # noqa: F401 (a fixture)

from crosslayer.errors import InputError
from hermes_sim.build import step_model
from hermes_sim.params import HermesParams
from hermes_sim.readers.kernel_bundle import Shape
from hermes_sim.readers.profiles import read_profile
from hermes_sim.readers.vidur_network import read_collective, read_link
from hermes_sim.simulator import Hermes
from hermes_sim.validation import validate

HIDDEN = 1000
NETWORK = "time_stats.{}.median,rank,num_workers,size,collective,devices_per_node\n"


def network(folder, collective="all_reduce", name=None):
    """0.01 ms and 1 ms a MB between two devices of one node; other rows that must not count."""
    rows = [f"{0.01 + size / 1e6},0,2,{size},{collective},2" for size in (1000, 10**6, 10**8)]
    rows += ["9,0,2,1000,all_gather,2", f"7,0,2,1000,{collective},1"]
    file = folder / (name or f"{collective}.csv")
    text = NETWORK.format(collective) + "\n".join(rows) + "\n"
    file.write_bytes(lzma.compress(text.encode()) if file.suffix == ".xz" else text.encode())


@pytest.fixture
def vidur(tmp_path):
    """A profile of two devices: an op of 1 us a token a layer; attention without time."""
    ops = ("mlp_act", "attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
    head = ",".join(f"time_stats.{op}.median" for op in ops)
    head = f"num_tokens,num_tensor_parallel_workers,{head}\n"
    (tmp_path / "mlp.csv").write_text(head + "1,2,0.001,0,0,0,0\n4096,2,4.096,0,0,0,0\n")
    head = (
        "num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size,is_prefill,"
        "time_stats.attn_prefill.median,time_stats.attn_decode.median\n"
    )
    rows = ["2,1,1,0,True,0,", "2,1,4096,0,True,0,", "2,1,0,0,False,,0", "2,9,0,9,False,,0"]
    (tmp_path / "attention.csv").write_text(head + "\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize("name", ["all_reduce.csv", "all_reduce.csv.xz"])
def test_all_reduces_are_those_that_vidur_measured_on_as_many_devices(vidur, tmp_path, name):
    shape = Shape(layers=3, hidden=HIDDEN, tensor_parallel=2, link=(1e9, 0.0))
    assumed = read_profile(vidur, shape).mixed([(500, 0)], 1, 0, 0, list)[0]
    kernels = 3 * 500e-6
    assert assumed == pytest.approx(kernels + 6 * 500 * HIDDEN * 2 / 1e9)
    apart = tmp_path / "network"
    apart.mkdir()
    network(apart, name=name)
    measured = read_profile(vidur, shape, network=apart).mixed([(500, 0)], 1, 0, 0, list)[0]
    assert measured == pytest.approx(kernels + 6 * (1e-5 + 500 * HIDDEN * 2 / 1e9))
    instance = tiny_instance(tensor_parallel=2, devices=2)
    params = HermesParams(profile=vidur, profile_network=apart)
    hidden, layers = TINY["hidden_size"], TINY["num_hidden_layers"]
    made = step_model(tiny_stack(instance), instance, params).mixed([(500, 0)], 1, 0, 0, list)[0]
    wanted = layers * (500e-6 + 2 * (1e-5 + 500 * hidden * 2 / 1e9))
    assert made == pytest.approx(wanted, rel=1e-9)


def test_a_vidur_profile_without_a_matrix_or_for_experts_is_refused(vidur):
    with pytest.raises(InputError, match="vidur's profiles know no experts"):
        read_profile(vidur, Shape(2, tensor_parallel=2, experts=8, active_experts=2))
    file = vidur / "mlp.csv"
    file.write_text(file.read_text().replace("mlp_up_proj", "mlp_up"))
    with pytest.raises(InputError, match=r"column 'time_stats\.mlp_up_proj\.median' is missing"):
        read_profile(vidur, Shape(2, tensor_parallel=2))


def test_a_network_profile_gives_seconds_over_bytes_or_says_what_it_has(tmp_path):
    assert read_collective(tmp_path, "send_recv", 2, 2) is None
    network(tmp_path, "send_recv")
    assert read_collective(tmp_path, "send_recv", 2, 2).one(2e6) == pytest.approx(0.01e-3 + 2e-3)
    with pytest.raises(InputError, match="there are: 2 with 1 a node, 2 with 2 a node"):
        read_collective(tmp_path, "send_recv", 8, 8)
    network(tmp_path)
    (tmp_path / "all_reduce.csv").write_text(NETWORK.format("all_reduce") + "nan,0,2,1,x,2\n")
    with pytest.raises(InputError, match=r"all_reduce\.csv:2: time_stats\.all_reduce\.median"):
        read_collective(tmp_path, "all_reduce", 2, 2)


def test_pipeline_stages_send_over_the_link_that_vidur_measured(vidur):
    network(vidur, "send_recv")
    instance = tiny_instance(tensor_parallel=2, pipeline_parallel=2, devices=4)
    staged = step_model(tiny_stack(instance), instance, HermesParams(profile=vidur))
    assert staged.send.latency_s == pytest.approx(1e-5, rel=1e-6)
    assert staged.send.token_s == pytest.approx(TINY["hidden_size"] * 2 * 1e-9, rel=1e-6)
    (vidur / "send_recv.csv").unlink()
    assumed = step_model(tiny_stack(instance), instance, HermesParams(profile=vidur))
    assert assumed.send != staged.send
    flat = [f"0.01,0,2,{size},send_recv,2" for size in (1, 10)]
    text = NETWORK.format("send_recv") + "\n".join(flat).replace("0.01,0,2,10", "0.001,0,2,10")
    (vidur / "send_recv.csv").write_text(text + "\n")
    with pytest.raises(InputError, match="no longer for more bytes"):
        read_link(vidur)


OLD_HEAD = "layer_name,input,kv_cache,tp_size,latency(ns)"
OLD_LAYERS = {"embedding": 1, "input_layernorm": 2, "post_layernorm": 3, "q_proj": 5, "rope": 7}


def old_layout(folder, ways=1, experts=False):
    """tp<N>/layers.csv and predictions of kernels that grow linearly, in nanoseconds."""
    layers = dict(OLD_LAYERS)
    layers |= {"gate": 1, "expert.w1": 50, "act_fn": 20} if experts else {"down_proj": 11}
    place = folder / f"tp{ways}" / "predictions"
    place.mkdir(parents=True)
    rows = [OLD_HEAD]
    rows += [f"{name},{t},0,{ways},{1000 * base + 10 * t}" for name, base in layers.items()
             for t in (1, 512)]  # fmt: skip
    rows += [f"lm_head,{n},0,{ways},{9000 + 100 * n}" for n in (1, 16)]
    rows += [f"attn,1,64,{ways},123456789"]
    (place.parent / "layers.csv").write_text("\n".join(rows) + "\n")
    prefill = [f"{k},{c},{40 * c + k}" for k in (0, 512) for c in (32, 512)]
    decode = [f"{n},{k},{500 * n + 3 * k}" for n in (1, 16) for k in (0, 512)]
    for kind, head, lines in (
        ("prefill", "kv_cache_size,prefill_chunk_size,prediction", prefill),
        ("decode", "batch_size,kv_cache_size,prediction", decode),
    ):
        file = place / f"attn_{kind}_predictions.csv"
        file.write_text("\n".join([head, *lines]) + "\n")
    return folder


def test_llmservingsims_older_layout_adds_up_its_kernels_and_both_attentions(tmp_path):
    steps = read_profile(old_layout(tmp_path), Shape(layers=2))
    seconds, _ = steps.mixed([(100, 200)], 5, 4, 4 * 50, list)
    tokens = 104
    wanted = 1000 + 10 * tokens + 2 * (1000 * (2 + 3 + 5 + 7 + 11) + 50 * tokens)
    wanted += 9000 + 100 * 5 + 2 * (40 * 100 + 200 + 500 * 4 + 3 * 50)
    assert seconds == pytest.approx(wanted * 1e-9, rel=1e-9)
    assert steps.beyond == 0
    run, _ = steps.decodes(4, 200, 3, list)
    fixed = 1000 + 10 * 4 + 2 * (28_000 + 50 * 4) + 9400
    np.testing.assert_allclose(
        run, 1e-9 * (fixed + 2 * (2000 + 3 * (50 + np.arange(3)))), rtol=1e-9
    )
    steps.mixed([(100, 200)], 5, 4, 4 * 5000, list)
    assert steps.beyond == 1


def test_experts_of_the_older_layout_run_as_often_as_they_are_awake(tmp_path):
    folder = old_layout(tmp_path, ways=2, experts=True)
    shape = Shape(layers=2, hidden=HIDDEN, experts=8, active_experts=2, tensor_parallel=2,
                  link=(1e9, 0.0))  # fmt: skip
    seconds, _ = read_profile(folder, shape).mixed([(16, 0)], 1, 0, 0, list)
    awake = 1 - 0.75**16  # of the device's four experts, each with its share of the tokens
    experts = 4 * awake * (70_000 + 2 * 10 * 16 * 0.25 / awake)
    layer = 1000 * (2 + 3 + 5 + 7 + 1) + 50 * 16 + experts + 2 * 16 * HIDDEN * 2
    wanted = 1000 + 160 + 2 * (layer + 40 * 16) + 9100
    assert seconds == pytest.approx(wanted * 1e-9, rel=1e-6)
    with pytest.raises(InputError, match="name the model"):
        read_profile(folder, Shape(layers=2, hidden=HIDDEN, tensor_parallel=2))


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("layers.csv", "layer_name,input\n", r"layers\.csv:1: the column 'kv_cache' is missing"),
        ("layers.csv", f"{OLD_HEAD}\nx,1,0,4,1\n", "tp_size is 4"),
        ("layers.csv", f"{OLD_HEAD}\nx,1,0,1,1\n", "no lm_head"),
        ("predictions/attn_decode_predictions.csv", None, "cannot be read"),
        ("predictions/attn_decode_predictions.csv", "batch_size,kv_cache_size,prediction\n",
         "build the attention predictions"),
    ],
)  # fmt: skip
def test_a_broken_profile_of_the_older_layout_is_refused(tmp_path, file, text, wrong):
    path = old_layout(tmp_path) / "tp1" / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match=wrong):
        read_profile(tmp_path, Shape(layers=2))


def recorded(folder, engine, prompt_s, decode_s, prompt=40, output=9):
    """A run of requests far apart: a step of the prompt, then steps of one call, in seconds."""
    (folder / "meta.json").write_text(json.dumps(engine))
    rows = []
    for i in range(6):
        at = 10.0 * i
        first = at + prompt_s
        rows.append(
            {
                "request_id": str(i), "input_toks": prompt, "output_toks": output,
                "arrival_time": 1.7e9 + at, "queued_ts": 50 + at, "scheduled_ts": 50 + at,
                "first_token_ts": 50 + first,
                "last_token_ts": 50 + first + sum(decode_s(prompt + i) for i in range(1, output)),
            }
        )  # fmt: skip
    (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, rows)))


ENGINE = {
    "model": "a/b", "engine_kwargs": {"max_num_seqs": 8},
    "kv_cache": {"num_gpu_blocks": 400, "block_size": 16, "enable_prefix_caching": False},
}  # fmt: skip
CONFIG = TINY | {"hidden_size": HIDDEN, "num_attention_heads": 10, "num_key_value_heads": 10}


def errors(found):
    return [abs(found.row(f"{name}_mean_s").error) for name in ("ttft", "tpot", "e2e")]


def kernels(tokens):
    """Microseconds of the bundle's dense kernels and head, but for the MLP's."""
    return (1 + 0.1 * tokens) + 2 * (2 * (2 + 0.1 * tokens) + 5 + 0.1 * tokens) + 11


def test_validation_of_a_run_on_two_devices_prices_their_all_reduces(tmp_path, bundle):  # noqa: F811
    (bundle / "tp2").mkdir()
    for name in ("dense", "per_sequence", "attention"):
        (bundle / f"{name}.csv").rename(bundle / "tp2" / f"{name}.csv")
    rate, latency = 1e9, 2e-5
    samples = [{"bytes": b, "us": 2e6 * latency + b / rate * 1e6} for b in (1e4, 1e6, 1e7)]
    (bundle / "hardware.yaml").write_text(
        json.dumps({"measured": {"interconnect": {"samples": samples}}})
    )

    def reduces(tokens):
        return 4 * (2 * latency + tokens * HIDDEN * 2 / rate)

    def step(tokens, attention):
        mlp = 2 * (7 + 0.1 * tokens)
        return 1e-6 * (kernels(tokens) + mlp + 2 * attention) + reduces(tokens)

    engine = ENGINE | {"engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 8}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(CONFIG))
    recorded(
        tmp_path / "run", engine, step(40, us(40, 0, 0, 0)), lambda at: step(1, us(0, 0, 1, at))
    )
    found = validate(tmp_path / "run", bundle)
    assert found.facts["tensor_parallel"] == 2 and not found.notes
    assert max(errors(found)) < 1e-6
    (bundle / "hardware.yaml").unlink()
    assumed = validate(tmp_path / "run", bundle)
    assert max(errors(assumed)) > 0.01 and "assumed" in assumed.notes[0]


def test_validation_of_a_run_with_experts_wakes_as_many_as_are_expected(tmp_path, bundle):  # noqa: F811
    (bundle / "moe.csv").write_text(
        "tokens,activated_experts,time_us\n"
        + "\n".join(f"{t},{e},{100 * e + t}" for t in (1, 512) for e in (1, 2, 8))
    )
    config = CONFIG | {
        "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2,
    }  # fmt: skip

    def step(tokens, attention):
        awake = 8 * (1 - 0.75**tokens)
        experts = 2 * (100 * awake + tokens)
        return 1e-6 * (kernels(tokens) + experts + 2 * attention)

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    recorded(
        tmp_path / "run", ENGINE, step(40, us(40, 0, 0, 0)), lambda at: step(1, us(0, 0, 1, at))
    )
    assert max(errors(validate(tmp_path / "run", bundle))) < 1e-6


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"engine_kwargs": {"tensor_parallel_size": "two"}}, "tensor_parallel_size is 'two'"),
        ({"engine_kwargs": {"max_num_seqs": 0}}, "max_num_seqs is 0"),
        ({"engine_kwargs": {"max_model_len": -1}}, "max_model_len is -1"),
        ({"kv_cache": {"num_gpu_blocks": 10.5}}, "num_gpu_blocks is 10.5"),
        ({"kv_cache": {"block_size": True, "num_gpu_blocks": 4}}, "block_size is True"),
        ({"kv_cache": {}}, "give --kv-blocks"),
        ({"kv_cache": {}, "hardware": {"device_total_memory_bytes": 5}}, "leave no memory"),
        ({"kv_cache": {}, "hardware": {"device_total_memory_bytes": "5"}}, "memory_bytes is '5'"),
        ({"model": 7, "config": None}, "not known"),
    ],
)
def test_settings_that_are_none_are_refused_by_their_name(tmp_path, bundle, wrong, named):  # noqa: F811
    place = tmp_path / "run"
    place.mkdir()
    if "config" not in wrong:
        (place / "config.json").write_text(json.dumps(CONFIG))
    recorded(place, ENGINE | wrong, 1.0, lambda at: 1.0)
    with pytest.raises(InputError, match=named):
        validate(place, bundle)


def test_a_report_says_how_many_iterations_lie_beyond_the_profile(vidur, context):
    stack = tiny_stack(tiny_instance(tensor_parallel=2, devices=2))
    trace = trace_of([0, 1], [100, 5000], [3, 3])  # 4,096 prompt tokens were measured
    params = HermesParams(profile=vidur, scheduler="mixed")
    report = Hermes(params).simulate(stack, trace, context)
    beyond = report.metric("extrapolated_steps")
    assert beyond.value == pytest.approx(5 / 6)  # contexts of up to nine tokens were measured
    assert beyond.provenance == "modelled" and "vidur profile" in beyond.source
