"""Runs and profiles as other cards, engines and versions of the tools leave them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_profiles import CONFIG, ENGINE, HIDDEN, errors, kernels, recorded
from test_readers import call
from test_step_models import COUNTS, bundle, us  # noqa: F401 (a fixture)

from crosslayer.errors import InputError
from hermes_sim.readers.engine_run import read_run
from hermes_sim.readers.kernel_bundle import Shape, read_kernel_bundle
from hermes_sim.validation import validate

LINK = (1e9, 2e-5)


def keyed(folder, chunks=(16, 64), keys=(16, 64, 128), off=0.0):
    """attention.csv in the newer layout: other columns, in another order, keys as decimals."""
    rows = ["time_us,layer,decode_q_len,kv_decode,n_decode,prefill_key,prefill_chunk,sha"]
    for n in COUNTS:
        rows += [f"{us(0, 0, n, c)},attention,1,{c},{n},0.0,0,ab" for c in (16, 64, 256)]
        rows += [f"77,attention,4,{c},{n},0.0,0,ab" for c in (16, 64, 256)]
    for chunk in chunks:
        for key in keys:
            at = key - (off if chunk == chunks[-1] else 0)
            rows.append(f"{us(chunk, key, 0, 0)},attention,1,0,0,{at},{chunk},ab")
            rows += [
                f"{us(chunk, key, n, c)},attention,1,{c},{n},{at},{chunk},ab"
                for n in COUNTS for c in (16, 64, 256)
            ]  # fmt: skip
    (folder / "attention.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("off", [0.0, 0.5])
def test_in_the_newer_layout_prompts_look_back_on_half_of_their_own_chunk(bundle, off):  # noqa: F811
    old = read_kernel_bundle(bundle, Shape(layers=2))
    keyed(bundle, off=off)
    steps = read_kernel_bundle(bundle, Shape(layers=2))
    prompts = [(32, 40), (16, 10)]
    seen = (32 * (40 + 16) + 16 * (10 + 8)) / 48
    wanted = 2e-6 * us(48, seen, 4, 100)
    without = old.mixed(prompts, 5, 4, 400, list)[0] - 2e-6 * us(48, 30, 4, 100)
    made = steps.mixed(prompts, 5, 4, 400, list)[0] - without
    assert made == pytest.approx(wanted, rel=1e-3 if off else 1e-9)  # the axis is half a token off
    np.testing.assert_array_equal(
        steps.decodes(4, 400, 5, list)[0], old.decodes(4, 400, 5, list)[0]
    )
    assert steps.beyond == 0
    steps.mixed([(16, 200)], 1, 0, 0, list)
    assert steps.beyond == 1


def test_kernels_that_a_profile_cannot_price_are_refused_by_name(bundle):  # noqa: F811
    text = (bundle / "attention.csv").read_text().splitlines()
    (bundle / "attention.csv").write_text(
        "\n".join([f"layer,{text[0]}", f"attention,{text[1]}", f"indexer,{text[2]}"])
    )
    with pytest.raises(InputError, match=r"attention\.csv:3: the kernel 'indexer' beside"):
        read_kernel_bundle(bundle, Shape(layers=2))
    (bundle / "linear_attention.csv").write_text("layer,prefill_tokens,n_decode,time_us\n")
    with pytest.raises(InputError, match=r"linear_attention\.csv: layers of linear attention"):
        read_kernel_bundle(bundle, Shape(layers=2))


AXES = """
        axes:
          pc_bins: [-1, 1, 1000]
          pc_labels: [pc0, pc1]
          lev_bins: [0.0, 0.5, 10.0]
          lev_labels: [lev0, lev1]
        alpha_default_by_kernel: {"attention|q=1": 0.125}
        n_range_by_kernel: {"attention|q=1": [2, 8]}
"""


def gap_fit(folder, axes=AXES, more=""):
    (folder / "skew_fit.csv").write_text(
        "layer,decode_q_len,pc_label,lev_label,n_anchor,alpha,direct_rows,pooled_rows\n"
        "attention,1,pc0,lev0,4,0.5,9,9\nattention,1,pc0,lev0,2,0.25,9,9\n"
        "attention,1,pc0,lev1,2,1.0,9,9\nattention,4,pc0,lev0,2,99,9,9\n"
        f"attention,1,pc1,lev0,2,0.75,9,9\n{more}"
    )
    (folder / "meta.yaml").write_text(
        f"skew_fit:\n    enabled: true\n    per_tp:\n      1:\n        schema: x{axes}"
    )


@pytest.mark.parametrize(
    ("contexts", "alpha"),
    [
        ([110, 130], 0.25),  # t(max) is 10 % of t(mean) away
        ([10, 400], 1.0),  # more than half
        ([119, 120, 130], 0.5),  # three are nearer to four than to two, by their logarithm
        ([119] * 8 + [129], 0.125),  # nine are beyond what was measured
    ],
)
def test_the_newer_fit_of_uneven_contexts_goes_by_count_and_gap(bundle, contexts, alpha):  # noqa: F811
    plain = read_kernel_bundle(bundle, Shape(layers=2))
    gap_fit(bundle)
    steps = read_kernel_bundle(bundle, Shape(layers=2))
    n, total = len(contexts), sum(contexts)

    def batch():
        return [(one - 1, 0) for one in contexts]

    more = steps.decodes(n, total, 3, batch)[0] - plain.decodes(n, total, 3, list)[0]
    wanted = 2e-6 * alpha * 0.1 * (max(contexts) - total / n)
    np.testing.assert_allclose(more, wanted, rtol=1e-6)
    beside = steps.mixed([(16, 0)], 1, n, total, batch)[0]
    beside -= plain.mixed([(16, 0)], 1, n, total, list)[0]
    inside = max(contexts) < 200 and n < 9
    assert beside == pytest.approx(wanted / alpha * (0.75 if inside else 0.125), rel=1e-6)


@pytest.mark.parametrize(
    ("axes", "more", "wrong"),
    [
        ("\n", "", "have no pc_bins"),
        (AXES.replace("[-1, 1, 1000]", "[-1, 1000, 1]"), "", "have no pc_bins"),
        (AXES.replace("[lev0, lev1]", "7"), "", "have no lev_bins"),
        (AXES.replace("[2, 8]", "[2]"), "", "n_range_by_kernel"),
        (AXES.replace("0.125", "much"), "", r"attention\|q=1 is 'much'"),
        (AXES, "attention,1,pc9,lev0,2,1,9,9\n", r"skew_fit\.csv:7: pc9, lev0, 2 is no cell"),
    ],
)
def test_a_broken_fit_of_uneven_contexts_is_refused(bundle, axes, more, wrong):  # noqa: F811
    gap_fit(bundle, axes, more)
    with pytest.raises(InputError, match=wrong):
        read_kernel_bundle(bundle, Shape(layers=2))


def test_a_profile_of_other_devices_or_of_no_experts_is_refused(bundle):  # noqa: F811
    two = Shape(layers=2, hidden=HIDDEN, tensor_parallel=2)
    (bundle / "meta.yaml").write_text("tp_degrees: [1, 4]")
    with pytest.raises(InputError, match="tensor parallelism of 1, 4, not of 2"):
        read_kernel_bundle(bundle, two)
    (bundle / "tp1").mkdir()
    for name in ("dense", "per_sequence", "attention"):
        (bundle / f"{name}.csv").rename(bundle / "tp1" / f"{name}.csv")
    with pytest.raises(InputError, match="there is no tp2; there are: tp1"):
        read_kernel_bundle(bundle, two)
    with pytest.raises(InputError, match="parallelism of 1, not of 2"):
        read_kernel_bundle(bundle / "tp1", two)
    assert read_kernel_bundle(bundle, Shape(layers=2)).layers == 2
    with pytest.raises(InputError, match=r"no moe\.csv, but the model has 8 experts"):
        read_kernel_bundle(bundle, Shape(layers=2, experts=8, active_experts=2))


def test_a_kernel_that_ends_long_before_the_others_was_cut_off(bundle):  # noqa: F811
    lines = (bundle / "dense.csv").read_text().splitlines()
    (bundle / "dense.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match="down_proj ends at tokens 64, others at 512; the file"):
        read_kernel_bundle(bundle, Shape(layers=2))


@pytest.fixture
def place(tmp_path, bundle):  # noqa: F811
    """A folder for a run of a model of two layers."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "run"


def step(tokens, attention):
    return 1e-6 * (kernels(tokens) + 2 * (7 + 0.1 * tokens) + 2 * attention)


def decode(at):
    return step(1, us(0, 0, 1, at))


PROMPT = step(40, us(40, 0, 0, 0))


def test_an_eager_engine_saves_nothing_with_graphs(place, bundle):  # noqa: F811
    (bundle / "step.csv").write_text("branch,num_tokens,saved_us\nfull,1,9\npiecewise,64,5\n")
    eager = {"resolved_config": {"model_config": {"enforce_eager": True}}}
    recorded(place, ENGINE | eager, PROMPT, decode)
    found = validate(place, bundle)
    assert max(errors(found)) < 1e-6 and not found.facts["cuda_graph_savings"]
    recorded(place, ENGINE, PROMPT - 5e-6, lambda at: decode(at) - 9e-6)
    assert max(errors(validate(place, bundle))) < 1e-6


def test_an_engine_in_pipeline_stages_sends_from_each_to_the_next(place, bundle):  # noqa: F811
    def send(tokens):
        return 2 * (LINK[1] + tokens * HIDDEN * 2 / LINK[0])

    engine = ENGINE | {"engine_kwargs": {"max_num_seqs": 8, "pipeline_parallel_size": 3}}
    recorded(place, engine, PROMPT + send(40), lambda at: decode(at) + send(1))
    found = validate(place, bundle, link=LINK)
    # each of five stations takes whole nanoseconds
    assert max(errors(found)) < 1e-5 and found.facts["pipeline_parallel"] == 3
    assert "assumed" in validate(place, bundle).notes[0]


def experts(folder, ways):
    rows = [f"{ways},{t},{e},{100 * e + t}" for t in (1, 512) for e in (1, 2, 4)]
    (folder / "moe.csv").write_text("ep,tokens,activated_experts,time_us\n" + "\n".join(rows))


@pytest.mark.parametrize(("data", "tensor"), [(2, 1), (1, 2)])
def test_shared_experts_see_the_tokens_of_all_engines_but_not_of_each_card(
    place, bundle, data, tensor  # noqa: F811
):  # fmt: skip
    (place / "config.json").write_text(
        json.dumps(
            CONFIG | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
        )
    )
    experts(bundle, 2)

    def split(tokens, attention):
        everywhere = tokens * data
        seconds = kernels(tokens) + 2 * attention
        seconds += 2 * (100 * 4 * (1 - 0.75**everywhere) + everywhere)
        bytes_s, latency = everywhere * HIDDEN * 2 / LINK[0], LINK[1]
        # in each layer as many bytes once around: two all-reduces, or there and back
        moved = 2 * (2 * latency + bytes_s) if tensor == 2 else 2 * (latency + bytes_s / 2)
        return 1e-6 * seconds + 2 * moved

    kwargs = {"max_num_seqs": 8, "tensor_parallel_size": tensor, "data_parallel_size": data}
    engine = ENGINE | {"engine_kwargs": kwargs | {"enable_expert_parallel": True}}
    recorded(place, engine, split(40, us(40, 0, 0, 0)), lambda at: split(1, us(0, 0, 1, at)))
    found = validate(place, bundle, link=LINK)
    assert max(errors(found)) < 1e-6
    # vLLM counts the blocks of all its engines together
    assert found.facts["kv_blocks"] == 400 // data - 1


def test_settings_that_are_null_are_as_the_engine_resolved_them(place, bundle):  # noqa: F811
    resolved = {
        "cache_config": {"num_gpu_blocks": 77, "block_size": 32, "enable_prefix_caching": True},
        "model_config": {"max_model_len": 60},
        "scheduler_config": {"max_num_seqs": 5, "max_num_batched_tokens": 99},
    }
    nothing = dict.fromkeys(("num_gpu_blocks", "block_size", "enable_prefix_caching"))
    engine = ENGINE | {"resolved_config": resolved, "kv_cache": nothing}
    engine["engine_kwargs"] = dict.fromkeys(("max_num_seqs", "max_model_len"))
    recorded(place, engine, PROMPT, decode)
    found = validate(place, bundle)
    told = ("kv_blocks", "block_tokens", "max_num_seqs", "max_num_batched_tokens")
    assert [found.facts[name] for name in told] == [76, 32, 5, 99]
    assert found.facts["prefix_caching"] and not found.facts["prompts_fit_whole"]
    longer = engine | {"engine_kwargs": {"max_model_len": 30}}
    recorded(place, longer, PROMPT, decode)
    with pytest.raises(InputError, match="none of the 6 requests can be served with 76 KV blocks"):
        validate(place, bundle)


def rewrite(place, change):
    lines = (place / "requests.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if line]
    change(rows)
    (place / "requests.jsonl").write_text("\r\n".join(map(json.dumps, rows)) + "\n\n")


def test_requests_that_failed_are_left_out_and_counted(place, bundle, capsys):  # noqa: F811
    def fail(rows):
        rows[1] |= {"first_token_ts": None, "last_token_ts": None, "output_toks": 0}
        rows[2] |= {"first_token_ts": 0.0, "last_token_ts": 0.0}
        rows[3] |= {"error": "timeout", "output_toks": 0}

    recorded(place, ENGINE | {"num_requests": 300, "policy": "x"}, PROMPT, decode)
    rewrite(place, fail)
    assert read_run(place).failed == 3
    found = validate(place, bundle)
    assert len(found.run) == 3 and max(errors(found)) < 1e-6
    code, out, _ = call(capsys, "validate", "--run", place, "--profile", bundle)
    assert code == 0 and "note: 3 requests of the run got no token" in out
    assert "counts 300 requests, requests.jsonl holds 6" in out
    rewrite(place, lambda rows: [row.update(output_toks=0) for row in rows])
    with pytest.raises(InputError, match="no request in the file that was served; 6 failed"):
        read_run(place)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"last_token_ts": 49.0}, r"3: last_token_ts \(49.0\) lies before first_token_ts"),
        ({"scheduled_ts": 1.0}, r"3: scheduled_ts \(1.0\) lies before queued_ts"),
        ({"input_toks": 1.5}, r"3: cannot be read: input_toks is 1.5, no whole number"),
    ],
)
def test_times_of_a_run_that_cannot_be_are_refused(place, change, wrong):
    recorded(place, ENGINE, PROMPT, decode)
    rewrite(place, lambda rows: rows[2].update(change))
    with pytest.raises(InputError, match=wrong):
        read_run(place)
    (place / "requests.jsonl").write_text("[1, 2]\n")
    with pytest.raises(InputError, match="1: cannot be read: it is no object"):
        read_run(place)


def test_a_run_of_many_hours_keeps_its_times(place, bundle):  # noqa: F811
    recorded(place, ENGINE, PROMPT, decode)

    def later(rows):
        for row in rows[3:]:
            row.update({name: row[name] + 40 * 3600 for name in row if name.endswith(("ts", "me"))})

    rewrite(place, later)
    found = validate(place, bundle)
    assert max(errors(found)) < 1e-6
    assert found.row("makespan_s").recorded == pytest.approx(40 * 3600 + 50, abs=1)


def test_what_a_replay_cannot_know_is_refused_or_noted(place, bundle, capsys):  # noqa: F811
    drafts = {"resolved_config": {"speculative_config": {"num_speculative_tokens": 3}}}
    recorded(place, ENGINE | drafts, PROMPT, decode)
    code, _, err = call(capsys, "validate", "--run", place, "--profile", bundle)
    assert code == 2 and "decoded speculatively" in err
    other = {"policy": "priority", "enable_chunked_prefill": False}
    recorded(place, ENGINE | {"resolved_config": {"scheduler_config": other}}, PROMPT, decode)
    assert [note.split(" ")[0] for note in validate(place, bundle).notes] == ["the", "the"]


def test_a_profile_of_another_model_is_noted_and_one_without_attention_refused(place, bundle):  # noqa: F811
    (bundle / "meta.yaml").write_text("model: a/B-Instruct")
    recorded(place, ENGINE, PROMPT, decode)  # of a/b
    assert not validate(place, bundle).notes
    (bundle / "meta.yaml").write_text("model: a/c")
    assert validate(place, bundle).notes == ("the profile is of a/c, the run of a/b",)
    assert validate(place, bundle, model="gpt2").iterations
    with pytest.raises(InputError, match="the model has no layers of attention"):
        validate(place, bundle, model="mamba-2.8b")
    with pytest.raises(
        InputError, match=r"none\.json: is no config.json of a model: .*No such file"
    ):
        validate(place, bundle, model=str(place / "none.json"))


def test_an_error_against_nothing_is_no_number(place, bundle, capsys):  # noqa: F811
    recorded(place, ENGINE, PROMPT, decode, output=1)

    def queue_up(rows):  # two at once, of which the second is said never to have waited
        rows[1].update({name: rows[0][name] for name in rows[0] if name.endswith(("ts", "me"))})

    rewrite(place, queue_up)
    found = validate(place, bundle, kv_blocks=3)
    assert found.row("tpot_mean_s").error == 0.0  # one token each has no gaps, here and there
    assert found.row("queue_mean_s").error is None
    code, out, _ = call(
        capsys, "validate", "--run", place, "--profile", bundle, "--kv-blocks", "3", "--json"
    )
    rows = {row["metric"]: row["error"] for row in json.loads(out)["metrics"]}
    assert code == 0 and rows["queue_mean_s"] is None
