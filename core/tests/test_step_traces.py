"""A simulate step that serves the requests which an earlier one wrote: trace = "@step/file"."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_parts import CALLS, toy_registry
from toy_runs import go, pipeline
from toy_runs import own_cache as own_cache  # a fixture

from crosslayer.errors import ComponentError
from crosslayer.pipeline import check_file
from crosslayer.runner import run

pytestmark = pytest.mark.usefixtures("own_cache")

STEPS = """\
[model]
use = "toy-spec"

[[simulate]]
use = "emit"
name = "first"
requests = 3

[[simulate]]
use = "take"
trace = "@first/requests"
"""


def test_a_later_step_serves_the_requests_that_an_earlier_one_wrote(tmp_path: Path) -> None:
    done = go(pipeline(tmp_path, STEPS), tmp_path)
    assert CALLS == ["emit", "take"]
    assert done.metrics.value("prompt_tokens") == 1 + 2 + 3
    again = run(done.directory / "pipeline.lock.toml", registry=toy_registry(), threads=1)
    assert again.metrics.value("prompt_tokens") == 6


def test_the_later_step_is_made_again_when_the_content_of_the_file_changes(tmp_path: Path) -> None:
    go(pipeline(tmp_path, STEPS), tmp_path)
    assert go(pipeline(tmp_path, STEPS), tmp_path).metrics.value("prompt_tokens") == 6
    assert CALLS == []
    same = STEPS.replace("requests = 3", 'requests = 3\nlabel = "other"')
    assert go(pipeline(tmp_path, same), tmp_path).metrics.value("prompt_tokens") == 6
    assert CALLS == ["emit"]
    more = STEPS.replace("requests = 3", "requests = 4")
    assert go(pipeline(tmp_path, more), tmp_path).metrics.value("prompt_tokens") == 10
    assert CALLS == ["emit", "take"]
    scaled = STEPS + "scale = 2.0\n"
    assert go(pipeline(tmp_path, scaled), tmp_path).metrics.value("prompt_tokens") == 12
    assert CALLS == ["take"]


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("request", "simulate take: step 'first' wrote no file 'request'; it wrote 'requests'"),
        ("notes", "notes.txt"),  # a file that holds no requests
    ],
)
def test_a_file_that_the_step_did_not_write_is_named_beside_what_it_wrote(
    file: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ComponentError, match=sentence) as raised:
        go(pipeline(tmp_path, STEPS.replace("@first/requests", f"@first/{file}")), tmp_path)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("trace", "sentence"),
    [
        ("@frist/requests", "no earlier step is called 'frist'; did you mean 'first'?"),
        ("@take/requests", "no earlier step is called 'take'; known: first"),
        ("@first", "'@first' must look like '@step/file'"),
    ],
)
def test_a_step_that_does_not_come_before_is_found_by_the_check(
    trace: str, sentence: str, tmp_path: Path
) -> None:
    path = pipeline(tmp_path, STEPS.replace("@first/requests", trace))
    (problem,) = check_file(path, toy_registry())[1]
    assert (problem.line, problem.key) == (11, "simulate[1].trace")
    assert sentence in problem.message
