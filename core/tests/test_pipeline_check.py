"""Bad pipeline files: each problem is found before anything runs, located, with the way out."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from bad_pipelines import BAD, MACHINE, MODEL
from hypothesis import given
from hypothesis import strategies as st
from toy_parts import toy_registry

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


@pytest.mark.parametrize(
    "text", [".".join("a" * 5000) + " = 1", "a = " + "[" * 5000, "[" + ".".join("a" * 99) + "]"]
)
def test_a_file_that_is_nested_too_deeply_is_refused_where_it_is(text: str, tmp_path: Path) -> None:
    _, (problem,) = check_file(write(tmp_path, f"{MODEL}\n{text}\n"), toy_registry())
    assert (problem.line, problem.exit_code) == (4, 2)
    assert "nested too deeply" in problem.message


def test_what_is_no_regular_file_and_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    large = write(tmp_path, MODEL + "#" * 1_000_000)
    _, (problem,) = check_file(large, toy_registry())
    assert "larger than 1,000,000 bytes" in problem.message
    _, (problem,) = check_file(Path("/dev/zero"), toy_registry())
    assert "is no regular file" in problem.message


def test_a_pipeline_in_python_that_cannot_be_says_so_in_our_sentences() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"model": 3}, "models[0]: 3 is no component; write its name, or a table with 'use'"),
        ({"model": {"layers": 2}}, "models[0] needs a 'use' key"),
        ({"model": "toy", "evaluate": {"mean": 3}}, "evaluate.mean must be a dict"),
        ({"modle": "toy"}, "unknown key 'modle' in Pipeline(...); did you mean 'models'?"),
        ({"model": "toy", "seed": "3"}, "seed must be a valid integer, not '3'"),
    )
    for wrong, sentence in cases:
        with pytest.raises(PipelineErrors) as caught:
            Pipeline(**wrong)
        assert f"pipeline: {sentence}" in str(caught.value)


def test_a_missing_file_and_a_directory_are_told_apart(tmp_path: Path) -> None:
    _, (missing,) = check_file(tmp_path / "gone.toml", toy_registry())
    _, (folder,) = check_file(tmp_path, toy_registry())
    assert "no such file" in missing.message
    assert "directory" in folder.message


def test_the_exit_code_is_the_users_before_the_dependencies() -> None:
    needy = Pipeline(model="toy", evaluate={"needy": {}})
    assert PipelineErrors(check_pipeline(needy, toy_registry())).exit_code == 3
    gone = Pipeline(model="toy", transforms=["flow"])  # a package that is not installed
    assert PipelineErrors(check_pipeline(gone, toy_registry())).exit_code == 2
    both = Pipeline(model="toy", transforms=["prun"], evaluate={"needy": {}})
    assert PipelineErrors(check_pipeline(both, toy_registry())).exit_code == 2


def test_a_fallback_prices_what_the_first_accelerator_refuses(tmp_path: Path) -> None:
    text = MODEL + MACHINE + 'refuses = ["Attention", "Gemm"]\nfallback = "machine:large"\n'
    assert check_file(write(tmp_path, text), toy_registry())[1] == ()


def test_paths_are_read_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a b")
    text = MODEL + '[evaluate]\nmean = { words = "words.txt" }\n'
    assert check_file(write(tmp_path, text), toy_registry())[1] == ()


def test_a_parameter_that_names_a_text_needs_one_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("One.\n\nTwo.")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "blank.txt").write_text("\n")
    (tmp_path / "texts").mkdir()

    def problem(text: str) -> str:
        path = write(tmp_path, MODEL + f'[evaluate]\nmean = {{ sample = "{text}" }}\n')
        problems = check_file(path, toy_registry())[1]
        assert all((one.line, one.key) == (4, "evaluate.mean.sample") for one in problems)
        return " ".join(one.message for one in problems)

    assert problem("prose.txt") == problem("wikipedia-sample") == ""
    assert "did you mean 'prose.txt'?" in problem("prosa.txt")
    assert "did you mean 'wikipedia-sample'?" in problem("wikipedia-sampel")
    assert "'texts' is a directory" in problem("texts")
    assert "not UTF-8" in problem("latin.txt")
    assert "holds no text" in problem("blank.txt")


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
