"""A nasty corpus: what models write, and the answer a careful reader takes from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslayer.errors import InputError
from slm_mux.extract import alone, extractor, from_function

NUMBERS = [
    ("#### 1,234", "1234"),
    ("The total is $1,234.50.", "2469/2"),
    ("18.00", "18"),
    (".5", "1/2"),
    ("0.5", "1/2"),
    ("-.5", "-1/2"),
    ("so it is \\frac{1}{2}", "1/2"),
    ("so it is -\\dfrac{3}{4}.", "-3/4"),
    ("\\tfrac12", "1/2"),
    ("½", "1/2"),
    ("6/8 of them", "3/4"),
    ("−7", "-7"),
    ("x=-5", "-5"),
    ("between 3-5", "5"),
    ("5 - 3 = 2", "2"),
    ("50%", "50"),
    ("50\\%", "50"),
    ("1{,}000", "1000"),
    ("1\\,000\\,000", "1000000"),
    ("1\u202f000", "1000"),
    ("3,5", "5"),
    ("1,23", "23"),
    ("1.5e3", "1500"),
    ("1.5 × 10^3", "1500"),
    ("2 \\times 10^{-2}", "1/50"),
    ("2^10", "1024"),
    ("042", "42"),
    ("I first thought 7.\n#### 8\n", "8"),
    ("The answer is 5 apples, not 6.", "5"),
    ("The answer is 5. There are 12 months in a year.", "5"),
    ("**Answer:** 12", "12"),
    ("Answer: -12", "-12"),
    ("\\boxed{3} no wait \\boxed{4}", "4"),
    ("\\boxed{x = 4}", "4"),
    ("the answer is unclear but 9 fits", "9"),
    ("To answer this, add 3 and 4. That gives 7.", "7"),
    ("The answer to question 3 is 5", "5"),
    ("The correct answer would be 5 apples, not 6", "5"),
    ("Answer 12, not 13", "12"),
    ("1/0", None),
    ("no idea", None),
    ("", None),
    ("NaN", None),
    ("$-3", "-3"),
    ("-$3", "-3"),
    ("1e999999999", None),
    ("9" * 5000, None),
    ("１２", "12"),
]
STATED = [
    ("There are 29 strings of length 6 that differ by less than or equal to 1.", "29"),
    ("The number of strings of length 6 is 771.", "771"),
    ("The sum of the first 100 numbers equals 5,050.", "5050"),
    ("The minimum is \\frac{1}{2} at n = 4.", "4"),
    ("So 12.", "12"),
    ("The value is equal to approximately 3.5.", "7/2"),
]
BOXED = [
    ("\\boxed{\\frac{1}{2}}", "1/2"),
    ("\\boxed{\\dfrac12}", "1/2"),
    ("\\boxed{0.5}", "1/2"),
    ("\\boxed{1,000}", "1000"),
    ("\\boxed{\\text{even}}", "even"),
    ("\\boxed{ \\left( 3, 4 \\right) }", "(3,4)"),
    ("\\boxed{(3,4)}", "(3,4)"),
    ("\\boxed{2\\sqrt3}", "2\\sqrt{3}"),
    ("\\boxed{2\\sqrt{3}}", "2\\sqrt{3}"),
    ("\\boxed{x=5}", "5"),
    ("\\boxed{30^\\circ}", "30"),
    ("\\boxed{5\\text{ cm}}", "5"),
    ("\\boxed{5\\text{ cm}^2}", "5"),
    ("\\boxed{\\$3.50}", "7/2"),
    ("\\boxed{{a}{b}}", "{a}{b}"),
    ("\\boxed 7", "7"),
    ("\\fbox{8}", "8"),
    ("\\boxed{1} then \\boxed{unfinished", "1"),
    ("the answer is 5", None),
]
CHOICES = [
    ("##Answer: C##", "C"),
    ("## answer: b ##", "B"),
    ("The answer can be found by elimination.", None),
    ("To answer a question like this, think.", None),
    ("The answer is a matter of taste.", None),
    ("The answer is vitamin C.", None),
    ("The answer is (b).", "B"),
    ("The answer is B.", "B"),
    ("Answer: **D**", "D"),
    ("**Answer: D**", "D"),
    ("The correct option is A", "A"),
    ("I considered (A) and (B) but the answer is (C)", "C"),
    ("(A) is wrong. So (D)", "D"),
    ("It is not (A)", None),
    ("b", "B"),
    ("(b)", "B"),
    ("B) because plants need light", "B"),
    ("\\boxed{B}", "B"),
    ("\\boxed{\\text{(B)}}", "B"),
    ("A good idea", None),
    ("The answer is Bob's.", None),
    ("E", None),
    ("", None),
]
DATES = [
    ("2024-03-05", "2024-03-05"),
    ("March 5, 2024", "2024-03-05"),
    ("on the 5th of March 2024", "2024-03-05"),
    ("5 Mar 2024", "2024-03-05"),
    ("3/5/2024", "2024-03-05"),
    ("25/12/2024", "2024-12-25"),
    ("31 February 2024", None),
    ("first 2024-01-01, then 2024-01-02", "2024-01-02"),
    ("in 2024", None),
]
FIELDS = [
    ('{"answer": 5}', "5"),
    ('Sure! ```json\n{"answer": "5.0"}\n```', "5"),
    ('{"answer": "Paris."}', "paris"),
    ('{"answer": true}', "true"),
    ('{"other": 1}', None),
    ('{"answer": null}', None),
    ('{"answer": [1]}', None),
    ('{"answer": 1} {"answer": 2} {"note": 3}', "2"),
    ('{"answer": 5', None),
    ("{" * 3000, None),
    ('{"a":' * 3000, None),
]
CASES = [
    *(("number", *case) for case in NUMBERS),
    *(("stated-number", *case) for case in STATED),
    *(("boxed", *case) for case in BOXED),
    *(("choice", *case) for case in CHOICES),
    *(("date", *case) for case in DATES),
    *(("json:answer", *case) for case in FIELDS),
    ("json:result.value", '{"result": {"value": 7}}', "7"),
    ("choice:ABCDE", "(E)", "E"),
    ("date:day-first", "3/5/2024", "2024-05-03"),
    ("text", "  Yes. ", "yes"),
    ("text", "...", None),
]


@pytest.mark.parametrize(("kind", "text", "key"), CASES, ids=lambda value: repr(value)[:40])
def test_the_corpus_gives_the_answer_a_reader_takes(kind: str, text: str, key: str | None) -> None:
    found = extractor(kind)(text)
    assert (found and found.key) == key


def test_what_was_written_is_kept_beside_the_key() -> None:
    found = extractor("number")("it costs $1,234.50 today")
    assert found is not None
    assert (found.text, found.key) == ("1,234.50", "2469/2")


def test_a_function_may_extract() -> None:
    first_word = from_function(lambda text: text.split()[0] if text.split() else None)
    assert first_word("Paris it is") == ("Paris", "Paris")
    assert first_word("") is None


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("boxed", "\\frac{1}{2}", "1/2"),
        ("boxed", "so \\boxed{2\\sqrt3}", "2\\sqrt{3}"),
        ("math", "2\\sqrt{3}", "2*sqrt(3)"),
        ("math", "$2\\sqrt{3}$", "2*sqrt(3)"),
        ("math", "1/2", "1/2"),
        ("json:result.value", "Paris", "paris"),
        ("json:result.value", '{"result": {"value": 5.0}}', "5"),
        ("number", "#### 1,234", "1234"),
        ("number", "yes", None),
        ("choice", "B", "B"),
    ],
)
def test_an_answer_that_stands_alone_needs_nothing_around_it(
    name: str, text: str, key: str | None
) -> None:
    found = alone(name)(text)
    assert (found and found.key) == key


@pytest.mark.parametrize("name", ["numbr", "number:3", "choice:A-D", "json", "date:year"])
def test_an_unknown_extractor_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match="stated-number"):
        extractor(name)


@given(st.text(max_size=200))
def test_no_text_makes_an_extractor_fail(text: str) -> None:
    for name in ("number", "stated-number", "boxed", "choice", "date", "json:a", "text"):
        found = extractor(name)(text)
        assert found is None or found.key


@given(st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=999))
def test_a_number_is_one_key_however_it_is_written(value: object) -> None:
    number = extractor("number")
    written = str(value)
    keys = {found.key for found in (number(written), number(f"\\boxed{{{written}}}")) if found}
    assert keys == {written}


def test_math_verify_sees_equal_expressions() -> None:
    math = extractor("math")
    keys = {
        found.key
        for text in ("$\\frac{2}{4}$", "\\boxed{0.5}", "$1/2$")
        if (found := math(text)) is not None
    }
    assert keys == {"1/2"}
    one, other = math("$x^2 - 1$"), math("$(x-1)(x+1)$")
    assert one is not None and other is not None
    assert one.key != "1/2"


MATHS = [
    ("$9^{9^{9}}$", "9**(9**9)"),
    ("$2^{-9^{9}}$", "2**(-1*9**9)"),
    ("$99999999!$", "factorial(99999999)"),
    ("$(x+1)^{3000}$", "(x + 1)**3000"),
    ("$\\binom{100000000}{50000000}$", None),
    ("$\\frac{1}{0}$", None),
    ("$2^{10}$", "1024"),
    ("$5!$", "120"),
    ("$\\binom{5}{2}$", "10"),
    ("$2^{\\frac{1}{2}}$", "sqrt(2)"),
    ("$" + "(" * 30 + "1" + ")" * 30 + "$", None),
    ("\\boxed{" * 500 + "7", None),
]


@pytest.mark.parametrize(("text", "key"), MATHS, ids=lambda value: repr(value)[:30])
def test_math_ends_on_what_no_machine_can_evaluate(text: str, key: str | None) -> None:
    found = extractor("math")(text)
    assert (found and found.key) == key
