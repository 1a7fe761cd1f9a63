"""Bad pipeline files: every problem is found before anything runs, located, and says the way out."""

from __future__ import annotations

import tomllib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from toy_parts import toy_registry

import pytest
from crosslayer.errors import InputError
from crosslayer.pipeline import Pipeline, PipelineErrors, check_file, check_pipeline
from crosslayer.pipeline.toml_text import toml_text
from crosslayer.runner import run

GOOD = """\
[pipeline]
name = "good"
seed = 3

[model]
use = "toy"

[[transform]]
use = "prune"
sparsity = 0.5

[accelerator]
use = "machine:small"

[workload]
prompt_tokens = 8
output_tokens = 4

[[simulate]]
use = "count"

[evaluate]
mean = { wanted = 4 }
"""
TWO_MODELS = '[[model]]\nuse = "toy"\nname = "a"\n[[model]]\nuse = "toy"\nname = "b"\n'
TWO_MACHINES = '[[accelerator]]\nuse = "machine"\nname = "x"\n[[accelerator]]\nuse = "machine:large"\nname = "y"\n'
MODEL = '[model]\nuse = "toy"\n'
SPEC = '[model]\nuse = "toy-spec"\n'
MACHINE = '[accelerator]\nuse = "machine"\n'

# name: (file, [(line, words that the sentence must have), ...]): all problems of the file, in order.
BAD: dict[str, tuple[str, list[tuple[int, str]]]] = {
    "unknown table": (MODEL + '[acelerator]\nuse = "x"\n', [(3, "unknown table 'acelerator' did you mean 'accelerator'?")]),
    "unknown key at the top": ("sed = 1\n" + MODEL, [(1, "unknown key 'sed'")]),
    "unknown key in a table": (MODEL + "[workload]\nprompt_tokens = 4\nprompt_token = 4\n", [(5, "unknown key 'prompt_token' [workload] did you mean 'prompt_tokens'?")]),
    "unknown parameter": (MODEL + '[[transform]]\nuse = "prune"\nsparsty = 0.5\n', [(5, "transform[0].sparsty unknown key did you mean 'sparsity'?")]),
    "text for a number": (MODEL + '[workload]\nbatch_size = "two"\n', [(4, "workload.batch_size must be a valid integer 'two'")]),
    "a fraction for a whole number": (MODEL + "[workload]\noutput_tokens = 1.5\n", [(4, "workload.output_tokens integer 1.5")]),
    "zero tokens": (MODEL + "[workload]\nprompt_tokens = 0\n", [(4, "workload.prompt_tokens greater than or equal to 1 0")]),
    "negative seed": ("[pipeline]\nseed = -1\n" + MODEL, [(2, "pipeline.seed greater than or equal to 0 -1")]),
    "true for a seed": ("[pipeline]\nseed = true\n" + MODEL, [(2, "pipeline.seed must be a valid integer True")]),
    "missing model": (MACHINE, [(1, "no [model] table")]),
    "missing use": ("[model]\nlayers = 2\n", [(1, "[model] needs a 'use' key")]),
    "use is a number": ("[model]\nuse = 3\n", [(2, "model.use must be a valid string 3")]),
    "unknown component": (MODEL + '[[transform]]\nuse = "prun"\n', [(4, "no model transform 'prun' did you mean 'prune'?")]),
    "a component of another kind": (MODEL + '[[transform]]\nuse = "machine"\n', [(4, "'machine' is a accelerator model")]),
    "a plugin that is not installed": (MODEL + '[[transform]]\nuse = "flow"\n', [(4, "'flow' flow-flexcim not loaded")]),
    "unknown preset": (MODEL + '[accelerator]\nuse = "machine:smal"\n', [(4, "no preset 'smal' did you mean 'small'?")]),
    "unknown fallback": (MODEL + '[accelerator]\nuse = "machine"\nfallback = ["machine:large", "machin"]\n', [(5, "no accelerator model 'machin' did you mean 'machine'?")]),
    "impossible sparsity": (MODEL + '[[transform]]\nuse = "prune"\nsparsity = 1.5\n', [(5, "transform[0].sparsity 1.5 must be less than 1")]),
    "a rule over several parameters": (MODEL + "[evaluate]\nmean = { wanted = 9 }\n", [(4, "evaluate.mean has only 8")]),
    "a wrong element of a list": (MODEL + '[[transform]]\nuse = "prune"\nblocks = [\n  1,\n  "two",\n]\n', [(7, 'transform[0].blocks[1] "two" integer')]),
    "two accelerator tables": (MODEL + MACHINE + MACHINE, [(5, "[accelerator] appears twice write [[accelerator]] name")]),
    "two accelerators without names": (
        MODEL + MACHINE.replace("[accelerator]", "[[accelerator]]") * 2,
        [(3, "2 [[accelerator]] tables needs a 'name'"), (5, "needs a 'name'")],
    ),
    "two models of one name": (TWO_MODELS.replace('"b"', '"a"'), [(6, "two [[model]] called 'a'")]),
    "which model is not said": (TWO_MODELS + '[[transform]]\nuse = "prune"\n', [(7, "transform[0] needs 'on' 2 models known: a, b")]),
    "on names no model": (MODEL + '[[transform]]\nuse = "prune"\non = "tooy"\n', [(5, "no model is called 'tooy' did you mean 'toy'?")]),
    "several accelerators and no instance": (MODEL + TWO_MACHINES, [(6, "several accelerators need [[instance]]")]),
    "an instance on no accelerator": (MODEL + TWO_MACHINES + '[[instance]]\naccelerator = "z"\n', [(10, "no accelerator is called 'z' known: x, y")]),
    "an instance where there is no accelerator": (MODEL + '[[instance]]\naccelerator = "z"\n', [(4, "no accelerator 'z' there is no [accelerator]")]),
    "a role that does not exist": (MODEL + MACHINE + '[[instance]]\nrole = "prefil"\n', [(6, "instance[0].role must be 'any', 'prefill' or 'decode' 'prefil'")]),
    "heads that do not divide": (MODEL + MACHINE + "[network]\nlinks = [{ a = \"0\", b = \"1\", bytes_per_s = 1e9, latency_s = 0 }]\n[[instance]]\ntensor_parallel = 3\n", [(8, "do not divide tensor_parallel = 3")]),
    "devices that are not linked": (MODEL + MACHINE + "[[instance]]\ntensor_parallel = 2\n", [(4, "Collective no [network] no port")]),
    "more stages than blocks": (MODEL + MACHINE + "[[instance]]\npipeline_parallel = 9\n", [(6, "pipeline_parallel = 9 4 blocks")]),
    "devices that do not multiply": (MODEL + MACHINE + "[[instance]]\ndevices = 3\ntensor_parallel = 2\n", [(6, "3 devices tensor_parallel x pipeline_parallel = 2")]),
    "a place without a network": (MODEL + MACHINE + '[[instance]]\nplace = "rack"\n', [(6, "'rack' there is no [network]")]),
    "a missing topology file": (MODEL + '[network]\ntopology = "fabric.toml"\n', [(4, "no topology file 'fabric.toml'")]),
    "a link without a rate": (MODEL + '[network]\nlinks = [{ a = "x", b = "y", latency_s = 0 }]\n', [(4, "network.links.0.bytes_per_s required")]),
    "a policy that nothing serves": (MODEL + '[policy]\nuse = "vote"\n', [(3, "[policy] add a [[simulate]] step")]),
    "a trace of a later step": (MODEL + '[[simulate]]\nuse = "count"\ntrace = "@other/log"\n', [(5, "no earlier step is called 'other' no step comes before it")]),
    "a trace that is not there": (MODEL + '[[simulate]]\nuse = "count"\ntrace = "gone.jsonl"\n', [(5, "there is no file 'gone.jsonl'")]),
    "a missing file of a parameter": (MODEL + '[evaluate]\nmean = { wanted = 1, words = "gone.txt" }\n', [(4, "evaluate.mean.words no file 'gone.txt'")]),
    "a path outside": (MODEL + '[[simulate]]\nuse = "count"\nlog = "../../log.txt"\n', [(5, "simulate[0].log '../../log.txt' leaves the run directory")]),
    "an absolute path to write": (MODEL + '[[simulate]]\nuse = "count"\nlog = "/log.txt"\n', [(5, "'/log.txt' leaves the run directory")]),
    "a live step on a spec": (SPEC + '[[transform]]\nuse = "tune"\n', [(4, "'tune' needs a live model 'toy-spec'")]),
    "evaluation of a spec": (SPEC + "[evaluate]\nmean = {}\n", [(4, "'mean' needs a live model 'toy-spec'")]),
    "a dependency that is not installed": (MODEL + "[evaluate]\nneedy = {}\n", [(4, "'needy' a_module_nobody_has ask the toy maker for it")]),
    "an op that nobody prices": (MODEL + MACHINE + 'refuses = ["Gemm"]\n', [(4, "accelerator 'machine' cannot price Gemm no unit for Gemm name a 'fallback'")]),
    "a pattern that does not divide a layer": (MODEL + '[[transform]]\nuse = "prune"\npattern = "7:9"\n', [(4, "'prune' groups of 9 7:9")]),
    "a transform that fails on the spec": (MODEL + '[[transform]]\nuse = "fail"\nwhen = "spec"\n', [(4, "'fail' ZeroDivisionError on purpose")]),
    "not a number": (MODEL + '[[transform]]\nuse = "prune"\nsparsity = nan\n', [(5, "transform[0].sparsity finite")]),
    "a date": (MODEL + '[[transform]]\nuse = "prune"\nsparsity = 2024-01-01\n', [(5, "transform[0].sparsity date")]),
    "a key twice": (MODEL + 'use = "toy"\n', [(3, "broken TOML overwrite")]),
    "broken TOML": (MODEL + "[[transform]\nuse = 'prune'\n", [(3, "broken TOML")]),
    "a string that does not end": (MODEL + 'name = "a\n', [(3, "broken TOML")]),
    "one [transform]": (MODEL + '[transform]\nuse = "prune"\n', [(3, "[transform] is written [[transform]]")]),
    "a table that is a number": ("evaluate = 3\nworkload = 4\n" + MODEL, [(1, "'evaluate' must be a table 3"), (2, "'workload' must be a table 4")]),
    "an evaluator that is no table": (MODEL + "[evaluate]\nmean = 3\n", [(4, "evaluate.mean must be a table mean = {}")]),
}  # fmt: skip


def write(folder: Path, text: str) -> Path:
    path = folder / "bad.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_says_what_is_wrong_and_where(name: str, tmp_path: Path) -> None:
    text, expected = BAD[name]
    path = write(tmp_path, text)
    pipeline, problems = check_file(path, toy_registry())
    shown = "\n".join(map(str, problems))
    assert pipeline is None
    assert [problem.line for problem in problems] == [line for line, _ in expected], shown
    for problem, (line, words) in zip(problems, expected, strict=True):
        assert str(problem).startswith(f"{path}:{line}:")
        for word in words.split():
            assert word in problem.message, f"{word!r} is not in: {shown}"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_leaves_no_run_directory(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, BAD[name][0])
    with pytest.raises(PipelineErrors) as caught:
        run(path, registry=toy_registry(), runs_dir=tmp_path / "runs")
    assert caught.value.exit_code in (2, 3, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.toml"]


def test_a_good_file_has_no_problem_and_says_what_it_says(tmp_path: Path) -> None:
    pipeline, problems = check_file(write(tmp_path, GOOD), toy_registry())
    assert problems == ()
    assert pipeline is not None
    assert (pipeline.name, pipeline.seed, pipeline.workload.prompt_tokens) == ("good", 3, 8)
    assert pipeline.transforms[0].params == {"sparsity": 0.5}
    assert pipeline.placed()[0].accelerator == "machine:small"


def test_all_problems_of_a_file_come_together_in_the_order_of_its_lines(tmp_path: Path) -> None:
    text = (
        GOOD.replace("seed = 3", "seed = -3")
        .replace('use = "toy"', 'use = "toyy"')
        .replace("sparsity = 0.5", "sparsity = 7.0\nspeed = 1")
        .replace("output_tokens = 4", 'output_tokens = "4"')
        .replace("mean", "maen")
    )
    _, problems = check_file(write(tmp_path, text), toy_registry())
    assert [problem.line for problem in problems] == [3, 6, 10, 11, 18, 24]


@pytest.mark.parametrize(
    "content, line, words",
    [
        (b"", 1, "empty"),
        (b"# nothing\n", 1, "empty"),
        (b'[model]\nuse = "caf\xe9"\n', 2, "not UTF-8: byte 0xe9"),
        (b'\xef\xbb\xbf[model]\nuse = "toy"\n', 1, "byte order mark"),
    ],
)
def test_a_file_that_is_no_toml_text_is_refused(
    content: bytes, line: int, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(content)
    _, (problem,) = check_file(path, toy_registry())
    assert problem.line == line
    assert words in problem.message


def test_a_missing_file_and_a_directory_are_told_apart(tmp_path: Path) -> None:
    _, (missing,) = check_file(tmp_path / "gone.toml", toy_registry())
    _, (folder,) = check_file(tmp_path, toy_registry())
    assert "no such file" in missing.message
    assert "directory" in folder.message


def test_the_exit_code_is_the_users_before_the_dependencies() -> None:
    needy = Pipeline(model="toy", evaluate={"needy": {}})
    assert PipelineErrors(check_pipeline(needy, toy_registry())).exit_code == 3
    both = Pipeline(model="toy", transforms=["prun"], evaluate={"needy": {}})
    assert PipelineErrors(check_pipeline(both, toy_registry())).exit_code == 2


def test_a_fallback_prices_what_the_first_accelerator_refuses(tmp_path: Path) -> None:
    text = MODEL + MACHINE + 'refuses = ["Attention", "Gemm"]\nfallback = "machine:large"\n'
    assert check_file(write(tmp_path, text), toy_registry())[1] == ()


def test_paths_are_read_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a b")
    text = MODEL + '[evaluate]\nmean = { words = "words.txt" }\n'
    assert check_file(write(tmp_path, text), toy_registry())[1] == ()


def test_a_pipeline_made_in_python_is_checked_the_same_way() -> None:
    pipeline = Pipeline(
        model="toy",
        transforms=[{"use": "prune", "sparsity": 2.0}],
        accelerator="machine:small",
        seed=1,
    )
    (problem,) = check_pipeline(pipeline, toy_registry())
    assert (problem.file, problem.line, problem.key) == ("pipeline", None, "transform[0].sparsity")
    assert isinstance(PipelineErrors([problem]), InputError)


def test_a_pipeline_and_its_document_say_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "[[instance]]\ntensor_parallel = 1\n")
    first, problems = check_file(path, toy_registry())
    assert first is not None, problems
    path.write_text(toml_text(first.document()))
    second, _ = check_file(path, toy_registry())
    assert second == first


VALUES = st.recursive(
    st.one_of(st.text(), st.booleans(), st.integers(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_written_toml_reads_back_equal(document: dict[str, object]) -> None:
    assert tomllib.loads(toml_text(document)) == document
