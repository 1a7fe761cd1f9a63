"""Step models: interpolation, files of other projects, the lowering, regression."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import tiny_instance, tiny_stack, trace_of
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.contracts.steps import StepShape
from crosslayer.errors import InputError
from crosslayer.models import presets
from crosslayer.models.params import PresetParams
from hermes_sim.batching import batching
from hermes_sim.build import step_model
from hermes_sim.params import HermesParams
from hermes_sim.readers.kernel_bundle import Shape, read_kernel_bundle
from hermes_sim.readers.splitwise_profile import read_splitwise_profile
from hermes_sim.readers.vidur_profile import read_vidur_profile
from hermes_sim.replay import replay
from hermes_sim.step_models.axes import Line
from hermes_sim.step_models.fitted import FittedSteps, fit, read_fit
from hermes_sim.step_models.lowered import LoweredSteps

CHUNKS, CACHED, COUNTS, CONTEXTS = (16, 64), (0, 64), (1, 4, 16), (16, 64, 256)


def us(chunk, cached, n, context):
    """Linear in every variable, so that interpolation is exact."""
    return 3 + 0.5 * chunk + 0.01 * cached + 2 * n + 0.1 * context


@pytest.fixture
def bundle(tmp_path):
    """A kernel profile of two layers' worth of made-up linear kernels."""
    dense = ["layer,tokens,time_us"]
    for layer, base in (("embedding", 1), ("layernorm", 2), ("qkv_proj", 5), ("down_proj", 7)):
        dense += [f"{layer},{t},{base + 0.1 * t}" for t in (1, 64, 512)]
    rows = ["layer,sequences,time_us", *(f"lm_head,{n},{10 + n}" for n in (1, 16))]
    attention = ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"]
    for n in COUNTS:
        attention += [f"0,0,{n},{c},{us(0, 0, n, c)}" for c in CONTEXTS]
    for chunk in CHUNKS:
        for cached in CACHED:
            attention.append(f"{chunk},{cached},0,0,{us(chunk, cached, 0, 0)}")
            for n in COUNTS:
                attention += [
                    f"{chunk},{cached},{n},{c},{us(chunk, cached, n, c)}" for c in CONTEXTS
                ]
    for name, lines in (("dense", dense), ("per_sequence", rows), ("attention", attention)):
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_kernel_profile_adds_up_its_kernels(bundle):
    steps = read_kernel_bundle(bundle, Shape(layers=2))
    seconds, joules = steps.mixed([(32, 10), (16, 16)], 5, 4, 4 * 100, list)
    tokens = 48 + 4
    kernels = (1 + 0.1 * tokens) + 2 * (2 * (2 + 0.1 * tokens) + 5 + 7 + 0.2 * tokens)
    wanted = kernels + (10 + 5) + 2 * us(48, (32 * 10 + 16 * 16) / 48, 4, 100)
    assert seconds == pytest.approx(wanted * 1e-6, rel=1e-12)
    assert joules is None and steps.beyond == 0
    run, _ = steps.decodes(4, 4 * 100, 50, list)
    fixed = (1 + 0.4) + 2 * (2 * (2 + 0.4) + 5 + 7 + 0.8) + 14
    wanted = fixed + 2 * us(0, 0, 4, 100 + np.arange(50))
    np.testing.assert_allclose(run, wanted * 1e-6, rtol=1e-12)


def test_what_lies_beyond_a_profile_goes_on_linearly_and_is_counted(bundle):
    steps = read_kernel_bundle(bundle, Shape(layers=2))
    inside, _ = steps.mixed([(16, 0)], 1, 4, 400, list)
    assert steps.beyond == 0 and inside > 0
    far, _ = steps.mixed([(16, 0)], 1, 4, 4 * 1000, list)
    assert steps.beyond == 1
    assert far - inside == pytest.approx(2 * 0.1 * 900 * 1e-6, rel=1e-9)


def test_uneven_contexts_move_attention_towards_the_longest(bundle):
    (bundle / "skew_fit.csv").write_text(
        "pc,n_label,skew_rate_label,kv_big_label,kp_label,alpha,n_samples\n"
        "0,n<=4,sr<=70%,kvB<=1k,kp=0,0.5,4\n"
    )
    (bundle / "meta.yaml").write_text(
        "skew_fit: {enabled: true, per_tp: {1: {alpha_default: 0}}}\n"
    )
    steps = read_kernel_bundle(bundle, Shape(layers=2))
    plain = read_kernel_bundle(bundle, Shape(layers=2))
    plain.skew = None

    def uneven():
        return [(49, 0), (149, 0)]

    more = steps.decodes(2, 200, 3, uneven)[0] - plain.decodes(2, 200, 3, uneven)[0]
    np.testing.assert_allclose(more, 2 * 0.5 * 0.1 * 50 * 1e-6, rtol=1e-9)


def test_experts_collectives_and_graphs_change_a_step_as_their_files_say(bundle):
    base = read_kernel_bundle(bundle, Shape(layers=2)).mixed([(32, 0)], 1, 0, 0, list)[0]
    link = (1e9, 1e-5)
    two = Shape(layers=2, hidden=1000, tensor_parallel=2, link=link)
    split = read_kernel_bundle(bundle, two).mixed([(32, 0)], 1, 0, 0, list)[0]
    # 2 a layer of 2 latencies and the bytes once around: 2 (n-1)/n = 1.
    assert split - base == pytest.approx(4 * (2e-5 + 32 * 2000 / 1e9), rel=1e-9)
    (bundle / "step.csv").write_text("branch,num_tokens,saved_us\nfull,4,9\npiecewise,64,5\n")
    saved = read_kernel_bundle(bundle, Shape(layers=2))
    assert base - saved.mixed([(32, 0)], 1, 0, 0, list)[0] == pytest.approx(5e-6, rel=1e-6)
    assert saved.mixed([(65, 0)], 1, 0, 0, list)[0] > base  # no graph of that size
    (bundle / "moe.csv").write_text(
        "tokens,activated_experts,time_us\n" + "\n".join(
            f"{t},{e},{100 * e}" for t in (1, 512) for e in (1, 8)
        )
    )  # fmt: skip
    (bundle / "step.csv").unlink()
    experts = Shape(layers=2, experts=8, active_experts=1)
    moe = read_kernel_bundle(bundle, experts).mixed([(1, 0)], 1, 0, 0, list)[0]
    dense = read_kernel_bundle(bundle, Shape(layers=2, experts=8, active_experts=8))
    assert dense.mixed([(1, 0)], 1, 0, 0, list)[0] - moe == pytest.approx(2 * 700e-6, rel=1e-9)
    with pytest.raises(InputError, match="name the model"):
        read_kernel_bundle(bundle, Shape(layers=2))


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("dense.csv", None, r"dense\.csv: cannot be read"),
        ("dense.csv", "layer,tokens\nx,1\n", r"dense\.csv:1: the column 'time_us' is missing"),
        ("dense.csv", "layer,tokens,time_us\nx,1,nan\n", r"dense\.csv:2: time_us is 'nan'"),
        ("dense.csv", "layer,tokens,time_us\nx,-1,3\n", r"dense\.csv:2: tokens is '-1'"),
        ("per_sequence.csv", "layer,sequences,time_us\nx,1\n", r"csv:2: the row has 2 cells"),
        ("attention.csv", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n", "has no rows"),
        ("dense.csv", b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_broken_profile_is_refused_with_file_and_line(bundle, file, text, wrong):
    path = bundle / file
    if text is None:
        path.unlink()
    elif isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text)
    with pytest.raises(InputError, match=wrong):
        read_kernel_bundle(bundle, Shape(layers=2))


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6, unique=True), st.data())
def test_a_line_is_the_same_for_one_value_and_for_many(points, data):
    x = np.array(sorted(points), dtype=float)
    y = np.array(data.draw(st.lists(st.floats(0, 9), min_size=len(x), max_size=len(x))))
    line = Line(x, y)
    at = np.sort(np.array(data.draw(st.lists(st.floats(0, 1500), min_size=1, max_size=9))))
    np.testing.assert_array_equal(line.at(at), line.rising(at))
    assert line.at(at).tolist() == [line.one(value) for value in at.tolist()]
    np.testing.assert_allclose(line.at(x), y, atol=1e-9)


def test_a_vidur_profile_is_priced(tmp_path):
    ops = ("emb", "mlp_act", "attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
    head = ",".join(f"time_stats.{op}.median" for op in ops)
    rows = "".join(f"{t},1,1.0,{0.006 * t}{4 * f',{0.001 * t}'}\n" for t in (1, 100, 1000))
    (tmp_path / "mlp.csv").write_text(f"num_tokens,num_tensor_parallel_workers,{head}\n{rows}")
    head = (
        "num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size,is_prefill,"
        "time_stats.attn_prefill.median,time_stats.attn_decode.median\n"
    )
    rows = "".join(f"1,1,{c},{k},True,{c / 100 + k / 1000},\n" for c in (1, 500) for k in (0, 500))
    rows += "".join(f"1,{n},0,{k},False,,{n + k / 100}\n" for n in (1, 8) for k in (1, 1000))
    (tmp_path / "attention.csv").write_text(head + rows)
    steps = read_vidur_profile(tmp_path, Shape(layers=3))
    seconds, _ = steps.mixed([(100, 200)], 1, 4, 400, list)
    wanted = 1.0 + 3 * (0.01 * 104) + 3 * (1.0 + 0.2 + 4 + 1.0)
    assert seconds == pytest.approx(wanted * 1e-3, rel=1e-9)
    run, _ = steps.decodes(4, 400, 2, list)
    np.testing.assert_allclose(run, (1 + 3 * 0.04 + 3 * (5 + np.arange(2) / 100)) * 1e-3, rtol=1e-9)
    with pytest.raises(InputError, match="2"):
        read_vidur_profile(tmp_path, Shape(layers=3, tensor_parallel=2))


def test_a_splitwise_table_gives_times_and_power(tmp_path):
    file = tmp_path / "perf.csv"
    head = (
        "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,"
        "token_time,e2e_time,tensor_parallel\n"
    )
    rows = "".join(f"m,h100-80gb,{p},1,128,1,0.5,{p / 10},30,0,2\n" for p in (100, 1000))
    rows += "".join(f"m,h100-80gb,100,{b},128,1,0.5,{10 * b},{30 + b},0,2\n" for b in (1, 8))
    file.write_text(head + rows)
    steps = read_splitwise_profile(file, None, None, 2)
    seconds, joules = steps.mixed([(500, 0)], 1, 0, 0, list)
    assert seconds == pytest.approx(0.05, rel=1e-9)
    assert joules[0] == pytest.approx(0.05 * 0.5 * 700 * 2, rel=1e-9)
    assert steps.decodes(8, 8 * 164, 1, list)[0][0] == pytest.approx(0.038, rel=1e-9)
    file.write_text(head + rows.replace("0.5,10,31", "0,10,31"))  # a row without its power
    again = read_splitwise_profile(file, None, None, 2).mixed([(500, 0)], 1, 0, 0, list)
    assert again == (seconds, joules)
    file.write_text(head + rows.replace("0.5,", "0,"))
    assert read_splitwise_profile(file, None, None, 2).mixed([(500, 0)], 1, 0, 0, list)[1] is None
    file.write_text(head + rows)
    with pytest.raises(InputError, match="m on h100-80gb, 2 devices"):
        read_splitwise_profile(file, None, None, 8)


MODELS = ("llama-3.1-8b", "gemma-2-9b", "mixtral-8x7b", "mamba2-2.7b")


@pytest.mark.parametrize("model", MODELS)
def test_parts_priced_once_add_up_to_whole_steps(model):
    artifact = getattr(presets, model.replace("-", "_").replace(".", "_"))(PresetParams())
    instance = tiny_instance(preset="h100-80g")
    instance = type(instance)("a", artifact, instance.accelerator)
    stack = tiny_stack(instance)
    steps = LoweredSteps(stack, instance)
    rng = np.random.default_rng(1)
    for n in (0, 1, 7):
        calls = [(int(rng.integers(9, 5000)), int(rng.integers(1, 300))) for _ in range(n)]
        prompts = [(300, 0), (40, 1200)]
        shape = StepShape.from_sequences(
            artifact.spec, [(a, b, 0) for a, b in prompts] + [(1, a, b) for a, b in calls]
        )
        whole = stack.step_cost(instance, shape).seconds
        context = sum(a + b + 1 for a, b in calls)
        made, _ = steps.mixed(prompts, 2 + n, n, context, lambda c=calls: c)
        assert made == pytest.approx(whole, rel=2e-3)
        if n:
            later = [(1, a, b + 3) for a, b in calls]
            whole = stack.step_cost(
                instance, StepShape.from_sequences(artifact.spec, later)
            ).seconds
            made = steps.decodes(n, context, 4, lambda c=calls: c)[0][3]
            assert made == pytest.approx(whole, rel=2e-3)


def test_an_accelerator_that_prices_graphs_is_asked_for_whole_steps():
    base = tiny_instance()

    class Whole:
        asked = 0

        def __getattr__(self, name):
            return getattr(base.accelerator, name)

        def estimate_graph(self, graph):
            from crosslayer.contracts.cost import sequential

            self.asked += 1
            return sequential(
                base.accelerator.estimate(op).times(n)
                for op, n in zip(graph.nodes, graph.repeats, strict=True)
            )

    whole = type(base)("w", base.model, Whole())
    plain, graph = LoweredSteps(tiny_stack(base), base), LoweredSteps(tiny_stack(whole), whole)
    for call in (lambda s: s.mixed([(50, 0)], 5, 4, 400, lambda: [(90, 9)] * 4)[0],
                 lambda s: s.decodes(4, 400, 3, lambda: [(90, 9)] * 4)[0][2]):  # fmt: skip
        assert call(graph) == pytest.approx(call(plain), rel=0.02)
    assert whole.accelerator.asked > 0


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_a_fit_finds_the_rates_and_its_error_is_of_steps_it_has_not_seen(seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    count = 200
    rates = np.array([1e-3, 2e-5, 3e-9, 4e-6, 0.0, 1e-4])
    decodes = rng.integers(0, 50, count)
    table = {
        "decodes": decodes, "context": decodes * rng.integers(10, 999, count),
        "prompt_tokens": rng.integers(0, 500, count), "pairs": rng.integers(0, 99_999, count),
        "prompts": rng.integers(0, 4, count),
    }  # fmt: skip
    order = ("decodes", "context", "prompt_tokens", "pairs", "prompts")
    exact = rates[0] + sum(rates[i + 1] * table[name] for i, name in enumerate(order))
    made = fit(table | {"seconds": exact}, seed=seed)
    np.testing.assert_allclose(made.seconds_per, rates, rtol=1e-4, atol=1e-12)
    assert made.error < 1e-6
    noisy = fit(table | {"seconds": exact * rng.normal(1, 0.1, count)}, seed=seed)
    assert 0.04 < noisy.error < 0.13
    file = tmp_path_factory.mktemp("fit") / "fit.json"
    file.write_text(made.to_json())
    assert read_fit(file).seconds_per == made.seconds_per
    file.write_text(json.dumps({"hermes_fit": 2}))
    with pytest.raises(InputError, match="no fit"):
        read_fit(file)


def test_a_fit_to_noisy_steps_expects_their_mean():
    rng = np.random.default_rng(3)
    count = 4000
    decodes = rng.integers(1, 50, count)
    table = {name: np.zeros(count) for name in ("prompt_tokens", "pairs", "prompts")}
    table |= {"decodes": decodes, "context": 100 * decodes}
    exact = 1e-3 + 2e-5 * decodes + 1e-8 * table["context"]
    noise = rng.lognormal(-0.5 * 0.4**2, 0.4, count)  # of mean 1
    made = fit(table | {"seconds": exact * noise})
    steps = [made.mixed([], 0, n, 100 * n, list)[0] for n in decodes.tolist()]
    assert np.sum(steps) == pytest.approx(np.sum(exact), rel=0.02)


def test_a_pipeline_can_price_steps_with_each_kind_of_profile(bundle, tmp_path):
    instance = tiny_instance()
    params = HermesParams(profile=bundle)
    assert step_model(tiny_stack(), instance, params).name.startswith("kernel profile")
    file = tmp_path / "fit.json"
    columns = ("prompts", "prompt_tokens", "pairs", "decodes", "context", "seconds")
    table = {name: np.arange(1.0, 41.0) for name in columns}
    file.write_text(fit(table).to_json())
    made = step_model(tiny_stack(), instance, HermesParams(profile=file))
    assert made.name == fit(table).name and "off on others" in made.name


@pytest.mark.parametrize(
    ("prompts", "output", "wanted"),
    [
        ([290], 4, 0),
        ([298], 6, 3),  # contexts of 299 to 303 tokens, of which 300 were measured
        ([10] * 9, 4, 3),  # nine calls decode, eight were measured
        ([290] * 2, 1, 1),  # 580 prompt tokens in a step, 500 were measured
    ],
)
@pytest.mark.parametrize("run_ahead", [True, False])
def test_iterations_beyond_a_fit_or_a_table_are_counted(
    prompts, output, wanted, run_ahead, tmp_path
):
    head = "model,hardware,prompt_size,batch_size,token_size,average_power,prompt_time,token_time,"
    rows = [f"m,h,{p},{n},20,0.5,9,9,1\n" for p, n in ((10, 1), (290, 1), (62, 8), (290, 8))]
    (tmp_path / "perf.csv").write_text(head + "tensor_parallel\n" + "".join(rows))
    table = read_splitwise_profile(tmp_path / "perf.csv", None, None, 1)
    assert (table.decode_limit, table.context_limit) == (8.0, 300.0)
    table.prompt_limit = 500.0
    fitted = FittedSteps((1e-3, 0, 0, 0, 0, 0), 0.1, 12, 8.0, 300.0, 500.0)
    trace = trace_of([0] * len(prompts), prompts, [output] * len(prompts))
    for model in (fitted, table):
        found = replay(trace, model, batching("mixed"), run_ahead=run_ahead)
        assert found.beyond == wanted


def test_a_prompt_beside_decodes_that_are_beyond_a_fit_is_counted():
    fitted = FittedSteps((1e-2, 0, 0, 0, 0, 0), 0.1, 12, 8.0, 300.0, 500.0)
    late = trace_of([0, 1.0], [601, 1], [200, 1])  # the second prompt joins a decode step
    found = replay(late, fitted, batching("mixed"))
    assert found.beyond == found.tape.iterations == 200
