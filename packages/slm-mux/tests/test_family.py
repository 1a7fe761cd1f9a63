"""The live family: problems split for good, training repeatable, members live and in a pipeline."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import crosslayer as cl
from crosslayer.backends.transformers import TransformersBackend
from crosslayer.errors import InputError
from slm_mux.family import MEMBERS, FamilyParams, family, member_folder
from slm_mux.family.problems import (
    KINDS,
    LETTERS,
    LONGEST,
    MIXTURES,
    Problem,
    advised,
    draw,
    held_out,
    questions,
    with_advice,
)
from slm_mux.family.train import arrays, batches, train


def test_questions_are_never_among_what_was_trained_on() -> None:
    asked = questions(60, 0)
    assert all(held_out(one.prompt) for one in asked)
    assert len({one.prompt for one in asked}) == 60
    assert {one.kind for one in asked} == set(KINDS)
    for mixture in MIXTURES.values():
        source = draw(np.random.default_rng(0), mixture, asking=False)
        assert not any(held_out(next(source).prompt) for _ in range(300))


def test_answers_are_right_by_another_way() -> None:
    for one in questions(240, 3):
        words = one.prompt.removesuffix("=").split()
        if one.kind in ("add", "subtract"):
            a, b = map(int, one.prompt.removesuffix("=").replace("-", "+-").split("+"))
            expected = a + b
        elif one.kind == "remainder":
            a, b = int(words[0]), int(words[2])
            expected = a - b * (a // b)
        elif one.kind == "sort":
            digits = words[1]
            expected = int("".join(d * digits.count(d) for d in "123456789"))
        elif one.kind == "count":
            expected = len(words[3]) - len(words[3].replace(words[1], ""))
        else:
            expected = sorted(map(int, words[1:]))[-1]
        assert int(one.answer) == expected


def test_only_answers_are_trained_on() -> None:
    ids, labels = arrays(questions(1, 0))
    prompt = len(questions(1, 0)[0].prompt)
    assert (labels[0, :prompt] == -100).all()
    assert (labels[0, prompt:] == ids[0, prompt:]).all() and ids[0, -1] == 1


def test_advice_stands_before_the_question_in_letters_that_members_read() -> None:
    assert advised("3+4=", ["7", "It is 1,234,567", ""]) == "7,12345,;3+4="
    rng = np.random.default_rng(0)
    one, other = Problem("add", "12+13=", "25"), Problem("add", "50+49=", "99")
    made = [with_advice(one, other, rng) for _ in range(200)]
    given = [each.prompt.removesuffix(";12+13=").split(",") for each in made]
    assert {len(answers) for answers in given} == {1, 2, 3, 4, 5}
    said = [answer for answers in given for answer in answers]
    assert 0.4 < said.count("25") / len(said) < 0.65 and "99" in said
    assert all(each.answer == "25" and set(each.prompt) <= set(LETTERS) for each in made)


def test_batches_hold_one_length_and_some_of_them_advice() -> None:
    rng = np.random.default_rng(0)
    source = batches(draw(rng, MIXTURES["sums"], asking=False), 8, rng)
    drawn = [next(source) for _ in range(32)]
    plain = [batch for batch in drawn if not any(";" in one.prompt for one in batch)]
    assert (len(drawn), len(plain)) == (32, 28)
    assert all(arrays(batch)[0].shape[1] <= LONGEST for batch in drawn)
    spread = [max(len(o.prompt) for o in b) - min(len(o.prompt) for o in b) for b in plain]
    assert np.mean(spread) < 4
    assert {one.kind for batch in drawn for one in batch} == set(KINDS)


def test_training_twice_gives_the_same_weights(tmp_path: Path) -> None:
    hashes = []
    for name in ("one", "two"):
        train("sums", tmp_path / name, steps=2, batch=4, seed=5)
        weights = (tmp_path / name / "model.safetensors").read_bytes()
        hashes.append(hashlib.sha256(weights).hexdigest())
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_is_small_and_says_how_it_was_trained(member: str) -> None:
    folder = member_folder(member)
    told = json.loads((folder / "trained.json").read_text("utf-8"))
    assert told["mixture"] == MIXTURES[member]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 400_000
    artifact = family(FamilyParams(preset=member))
    assert artifact.spec.parameters == told["parameters"]


def test_a_specialist_answers_its_own_problems_best() -> None:
    from crosslayer.backends.protocol import prompt

    asked = questions(60, 9)
    prompts = [prompt(one.prompt, max_tokens=8) for one in asked]
    right: dict[str, dict[str, int]] = {}
    for member in ("sums", "digits"):
        live = family(FamilyParams(preset=member)).live
        assert live is not None
        backend = TransformersBackend(live, member, rows=64)
        said = backend.generate(prompts)
        right[member] = dict.fromkeys(KINDS, 0)
        for one, made in zip(asked, said, strict=True):
            right[member][one.kind] += made.text == one.answer
    assert right["sums"]["subtract"] > right["digits"]["subtract"]
    assert right["digits"]["sort"] > right["sums"]["sort"]


def test_members_opened_by_several_threads_at_once_have_their_own_weights() -> None:
    def opened(member: str) -> dict[str, float]:
        live = family(FamilyParams(preset=member)).live
        assert live is not None
        return {name: float(p.double().sum()) for name, p in live.module.named_parameters()}

    one_by_one = [opened(member) for member in MEMBERS]
    with ThreadPoolExecutor(len(MEMBERS)) as threads:
        assert list(threads.map(opened, MEMBERS)) == one_by_one


def test_shapes_alone_and_an_unknown_member() -> None:
    assert family(FamilyParams(preset="sums", live=False)).live is None
    with pytest.raises(InputError, match="did you mean 'digits'"):
        member_folder("digit")


def test_a_pipeline_asks_the_family_and_prices_its_fan_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        json.dumps({"id": one.prompt, "prompt": one.prompt, "answer": one.answer})
        for one in questions(6, 1)
    ]
    Path("q.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    Path("p.toml").write_text(
        """[pipeline]
name = "family"
[[model]]
name = "sums"
use = "slm-mux-family:sums"
[[model]]
name = "digits"
use = "slm-mux-family:digits"
[accelerator]
use = "roofline:jetson-tx2"
[pool.quality]
sums = { value = 0.4, samples = 10, data = "x" }
digits = { value = 0.5, samples = 10, data = "x" }
[policy]
use = "slm-mux"
k = 2
temperature = 0.8
early_stop = "never"
[workload]
arrivals = "poisson"
rate_per_s = 5.0
requests = 4
prompt_tokens = 10
output_tokens = 3
[[simulate]]
use = "isolated"
[evaluate]
policy-accuracy = { data = "q.jsonl", match = "numeric", max_tokens = 8 }
""",
        "utf-8",
    )
    run = cl.run("p.toml")
    assert 0 <= run.metrics["policy_accuracy"].value <= 1
    assert run.metrics["calls_per_question"].value == 4
