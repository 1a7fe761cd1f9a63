"""Records: read, imported, split and drawn; the methods on one draw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.errors import InputError
from slm_mux.algorithm import slm_mux
from slm_mux.baselines import pooled_vote, self_consistency, union, weighted_vote
from slm_mux.extract import alone, extractor
from slm_mux.importers import champ, collect_format
from slm_mux.records import Recorded, Row, Table, read_rows, split, table, write_rows
from slm_mux.replay import MUX, ORACLE, drawn, order, replay

NUMBER = extractor("number")
KEYS = st.lists(st.sampled_from(["1", "2", "3", None]), min_size=3, max_size=3)


def rows(questions: int = 40) -> list[Row]:
    """ "good" is right on even questions and torn on odd ones, "sure" always says 7."""
    made = []
    for q in range(questions):
        right = [str(q)] * 6 if q % 2 == 0 else [str(q), "0.5", str(q), "1.5", "2.5", str(q)]
        for model, answers in (("good", right), ("sure", ["7"] * 6)):
            samples = tuple(Recorded(text=f"So it is {a}", tokens_out=4) for a in answers)
            made.append(Row(model=model, qid=f"q{q}", gold=str(q), samples=samples))
    return made


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    assert write_rows(rows(3), file) == 6
    assert list(read_rows(file)) == rows(3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"r\.jsonl:2: is no record: Invalid JSON"),
        ('{"model": "m"}', r"r\.jsonl:2: is no record: qid: Field required"),
        ('{"model":"m","qid":"q","gold":"1","samples":[]}', r"r\.jsonl:2: .*samples"),
        ('{"model":"m","qid":"q","gold":"1","samples":[{"txt":"1"}]}', "samples.0.txt"),
        ('{"model":"m","qid":"0","gold":"1","samples":[{}]}', "is line 1's already"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "r.jsonl"
    first = Row(model="m", qid="0", gold="1", samples=(Recorded(answer="1"),))
    file.write_text(first.to_json() + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_rows(file)


def test_different_questions_are_an_error_with_counts_never_silent() -> None:
    uneven = rows(4)[:-1]
    with pytest.raises(InputError, match="good 4, sure 3, 3 in common"):
        table(uneven, NUMBER)
    assert len(table(uneven, NUMBER, common=True).questions) == 3


def test_a_gold_answer_that_cannot_be_read_is_an_error() -> None:
    bad = [Row(model="m", qid="q", gold="yes", samples=(Recorded(answer="1"),))]
    with pytest.raises(InputError, match="'yes' of question 'q'"):
        table(bad, NUMBER)


def test_gold_and_kept_answers_are_read_without_the_box_that_texts_have() -> None:
    samples = (Recorded(text="so \\boxed{0.5}"), Recorded(answer="\\frac12"), Recorded(text="1/2"))
    row = Row(model="m", qid="q", gold="\\frac{1}{2}", samples=samples)
    held = table([row], extractor("boxed"), alone=alone("boxed"))
    assert (held.gold, held.keys["m"]) == (("1/2",), (("1/2", "1/2", None),))


def test_a_split_never_shows_a_test_question_and_does_not_depend_on_others() -> None:
    names = [f"q{i}" for i in range(50)]
    validation, test = split(names, seed=1)
    assert sorted(validation + test) == list(range(50))
    assert split(names, 1) == (validation, test) != split(names, 2)
    backwards, _ = split(names[::-1], 1)
    assert {names[::-1][i] for i in backwards} == {names[i] for i in validation}


def test_samples_are_drawn_without_replacement_and_a_larger_k_draws_the_same_and_more() -> None:
    held = table(rows(), NUMBER)
    assert sorted(order(held, "good", 3, 6, seed=5)) == list(range(6))
    assert order(held, "good", 3, 2, seed=5) == order(held, "good", 3, 6, seed=5)[:2]
    with pytest.raises(InputError, match="7 cannot be drawn without replacement"):
        drawn(held, "good", 0, 7, seed=0)


def test_replay_is_the_same_again_and_pairs_its_methods() -> None:
    held = table(rows(), NUMBER)
    first, again = replay(held, 3, range(4)), replay(held, 3, range(4))
    for method in first.right:
        assert (first.right[method] == again.right[method]).all()
        assert first.asked[method].sum() == 4 * 20
    # "sure" ties with "good" on even questions and is less accurate; on odd ones it wins.
    assert first.accuracy(MUX) < first.accuracy("best, self-consistency of k=3")
    assert first.accuracy("best, self-consistency of nk=6") > first.accuracy(MUX)
    low, high = first.interval("best, self-consistency of k=3", MUX)
    assert low > 0 and high < 1


def test_equal_compute_is_shown_only_where_so_many_samples_are_recorded() -> None:
    held = table(rows(), NUMBER)
    assert not [name for name in replay(held, 4, [0]).right if "nk=" in name]


@given(KEYS, KEYS, st.sampled_from(["1", "2"]))
def test_the_union_of_modes_bounds_slm_mux(
    one: list[str | None], two: list[str | None], gold: str
) -> None:
    samples = {"one": one, "two": two}
    if slm_mux(samples, {"one": 0.4, "two": 0.6}).answer == gold:
        assert union(samples, gold)


def test_votes_worked_by_hand() -> None:
    samples = {"one": ["A", "A", None], "two": ["B", "B", "B"], "three": ["A", "C", "D"]}
    assert pooled_vote(samples) == "A"  # 3 to 3, and A comes first
    assert weighted_vote(samples, {"one": 0.1, "two": 0.5, "three": 0.2}) == "B"
    assert self_consistency([None, None, "C"]) == "C"
    assert self_consistency([None]) is None
    assert pooled_vote({"m": [None]}) is None


def collected(model: str, *responses: object) -> str:
    """The JSON that the released code's `collect` writes of one model."""
    return json.dumps({"model": model, "temperature": 0.3, "responses": responses})


def asked(question: str, gold: str, *texts: str, **more: object) -> dict[str, object]:
    """One of its responses; what it extracts is wrong on purpose."""
    samples = [
        {
            "round": i + 1,
            "model_response": text,
            "extracted_answer": "1",
            "token_usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
            "is_correct": False,
        }
        for i, text in enumerate(texts)
    ]
    return {"model": "m", "question": question, "answer": gold, "samples": samples, **more}


def test_what_the_released_collect_writes_is_read_anew_and_meets_by_the_question(
    tmp_path: Path,
) -> None:
    file = tmp_path / "org_name_with_underscores.json"
    first = asked("2 + 2?", "2 + 2 is\n#### 4", "#### 4", "#### 1,234")
    file.write_text(collected("org/na_me", first, asked("3 + 2?", "#### 5", "#### 5")), "utf-8")
    row, other = collect_format(file)
    assert (row.model, row.gold, row.temperature) == ("org/na_me", "4", 0.3)
    assert [(s.text, s.answer, s.tokens_in, s.tokens_out) for s in row.samples] == [
        ("#### 4", None, 9, 2),
        ("#### 1,234", None, 9, 2),
    ]
    assert table([row], NUMBER).keys["org/na_me"] == (("4", "1234"),)
    file.write_text(collected("else", asked("3 + 2?", "#### 5", "5"), first), "utf-8")
    assert [one.qid for one in collect_format(file)] == [other.qid, row.qid] and row.qid != "1"


def test_the_names_of_the_other_benchmarks_are_known_and_choices_belong_to_a_question(
    tmp_path: Path,
) -> None:
    file = tmp_path / "m.json"
    sample = {"extracted_answer": "B"}
    maths = {"problem": "Half?", "reference_answer": "\\frac12", "samples": [sample, {}]}
    physics = {"question": "Why?", "correct_answer": "B", "samples": [sample]}
    ways = [{**physics, "choices": ["A) x", "B) y"]}, {**physics, "choices": ["A) y", "B) x"]}]
    file.write_text(collected("m", maths, *ways), "utf-8")
    rows = list(collect_format(file))
    assert [s.answer for s in rows[0].samples] == ["B", None]  # all that is there
    assert len({one.qid for one in rows}) == 3
    file.write_text(collected("m", physics, physics), "utf-8")
    with pytest.raises(
        InputError, match=r"responses\[1\] is the question of .*responses\[0\] again"
    ):
        list(collect_format(file))


def test_what_is_none_of_the_released_collect_is_named(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    counted = {"model_response": "5", "token_usage": {"prompt_tokens": -1}}
    bad = [
        ("[]", "needs 'model'"),
        (collected("m", {"id": 1}), r"responses\[0\] needs a question or an id"),
        (collected("", asked("2?", "2", "2")), r"responses\[0\] makes no record: model"),
        (collected("m", asked("2?", "2", "2") | {"samples": [counted]}), "tokens_in"),
    ]
    for text, said in bad:
        file.write_text(text, "utf-8")
        with pytest.raises(InputError, match=said):
            list(collect_format(file))


def test_champ_keeps_problems_with_one_number_and_the_prompts_that_give_nothing_away(
    tmp_path: Path,
) -> None:
    from slm_mux.importers import PROMPTS

    def conversations(text: str) -> dict[str, object]:
        names = [*PROMPTS, "1/3 Soln", "Misleading C w/o H"]
        return {f"PaLM 2|{name}": {"messages": [{"text": "?"}, {"text": text}]} for name in names}

    problems = {
        "P1": {"_answer": "239", "conversations": conversations("There are 239.")},
        "P2": {"_answer": "2^(n-1)", "conversations": conversations("It is 2^(n-1).")},
        "P3": {"_answer": "C(10, 5), or equivalently 252", "conversations": conversations("252")},
    }
    file = tmp_path / "v0.json"
    file.write_text(json.dumps({"problems": problems}), "utf-8")
    found = list(champ(file))
    assert [(row.qid, row.gold, len(row.samples)) for row in found] == [
        ("P1", "239", 8),
        ("P3", "252", 8),
    ]
    file.write_text("[]", "utf-8")
    with pytest.raises(InputError, match=r"is not CHAMP's v0\.json"):
        list(champ(file))


def test_the_oracle_is_never_below_any_method() -> None:
    outcome = replay(table(rows(), NUMBER), 2, range(5))
    assert outcome.accuracy(ORACLE) >= outcome.accuracy(MUX)


def pool_of(held: Table) -> Table:
    return held.pool(["good"])


def test_a_pool_of_one_is_self_consistency_and_an_unknown_model_is_named() -> None:
    held = table(rows(), NUMBER)
    alone = replay(pool_of(held), 3, range(3))
    assert alone.accuracy(MUX) == alone.accuracy("best, self-consistency of k=3")
    with pytest.raises(InputError, match="did you mean 'good'"):
        held.pool(["god"])
