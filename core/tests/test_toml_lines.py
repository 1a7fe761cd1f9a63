"""Key paths to lines: agrees with tomllib on every document that tomllib accepts."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.pipeline.toml_lines import KeyPath, key_positions

EXAMPLE = (
    '''\
# a comment with [brackets] = "and quotes"
top = 1
[pipeline]
name = """
[not.a.table]
key = 1 \\""" still inside """"   # three quotes and one more
seed=0

[[model]]
  use = 'a "quoted" literal'
[[model]]
use = "b" ; '''.replace(" ; ", "\n")
    + """\
[model.params]
depth = [ 1, [2, 3],
  # a comment, with ] inside
  { x = 1, "y.z" = [ 4 ] },
]
[evaluate]
"next token".a . b = { text = "}#", tokens = 2048 }
when = 1979-05-27 07:32:00
[a.b.c]
d = true
[a]
e = """.rstrip()
    + " '''\nraw ''''\n"
)


def paths_of(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    """Every key path that a parsed document has."""
    found = {path} if path else set()
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        found |= paths_of(inner, (*path, key))
    return found


def test_every_kind_of_key_is_found_where_it_is_written() -> None:
    positions = key_positions(EXAMPLE)
    assert set(positions) == paths_of(tomllib.loads(EXAMPLE))
    lines = EXAMPLE.split("\n")
    expected = {
        ("top",): "top",
        ("pipeline",): "[pipeline]",
        ("pipeline", "seed"): "seed",
        ("model",): "[[model]]",
        ("model", 0): "[[model]]",
        ("model", 0, "use"): "use = 'a",
        ("model", 1, "use"): 'use = "b"',
        ("model", 1, "params"): "[model.params]",
        ("model", 1, "params", "depth", 1, 0): "2, 3]",
        ("model", 1, "params", "depth", 2, "y.z"): '"y.z"',
        ("model", 1, "params", "depth", 2, "y.z", 0): "4 ]",
        ("evaluate", "next token", "a", "b"): "b = {",
        ("evaluate", "next token", "a", "b", "tokens"): "tokens",
        ("a",): "[a]",
        ("a", "b"): "[a.b.c]",
        ("a", "b", "c", "d"): "d = true",
        ("a", "e"): "e =",
    }
    for path, text in expected.items():
        line, column = positions[path]
        assert lines[line - 1][column - 1 :].startswith(text), path
    assert positions["model", 0][0] < positions["model", 1][0]


def test_windows_line_ends_do_not_shift_a_line() -> None:
    assert key_positions("a = 1\r\n\r\n  b = 2\r\n") == {("a",): (1, 1), ("b",): (3, 3)}


def test_an_element_of_a_nested_array_of_tables_belongs_to_the_last_parent() -> None:
    text = "[[a]]\n[[a.b]]\n[[a.b]]\nx = 1\n[[a]]\n[[a.b]]\nx = 2\n"
    positions = key_positions(text)
    assert positions["a", 0, "b", 1, "x"] == (4, 1)
    assert positions["a", 1, "b", 0, "x"] == (7, 1)
    assert set(positions) == paths_of(tomllib.loads(text))


def test_an_empty_document_has_no_keys() -> None:
    assert key_positions("") == {} == key_positions("# only a comment")


# Documents put together from pieces that are valid alone; tomllib says which whole documents are.
NAMES = st.sampled_from(["a", "b", "c-1", '"a"', '"b.c"', "'q\\'", '"\\u0061\\""', "1"])
KEYS = st.lists(NAMES, min_size=1, max_size=3).flatmap(
    lambda names: st.sampled_from([".".join(names), " . ".join(names)])
)
SCALARS = st.sampled_from(
    ["1", "-2.5e-3", "true", "inf",
     "1979-05-27 07:32:00Z", '"x # y"', '"\\\\"', '"\\""', "'\\'", '""',
     "''",
     '"""a\n"b" ""\n"""', '"""\\"""" """', '"""""""', '"""\\\n   x"""',
     "'''it's\n[[x]]'''", "''''''''"]
)  # fmt: skip
GAPS = st.sampled_from(["", " ", "\n", " # , ] }\n", "\t"])


def _arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    items = st.lists(st.tuples(GAPS, values, GAPS).map("".join), max_size=3).map(",".join)
    return st.tuples(items, st.sampled_from(["", ","]), GAPS).map(lambda t: f"[{t[0]}{t[1]}{t[2]}]")


def _inline(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(KEYS, st.sampled_from(["=", " = "]), values).map("".join)
    return st.lists(pairs, max_size=3).map(lambda items: "{ " + ", ".join(items) + " }")


VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(_arrays(inner), _inline(inner)), max_leaves=5
)
STATEMENTS = st.one_of(
    st.tuples(KEYS, st.just(" = "), VALUES, st.sampled_from(["", " # note"])).map("".join),
    KEYS.map(lambda key: f"[{key}]"),
    KEYS.map(lambda key: f"[[ {key} ]] # [x]"),
    st.sampled_from(["", "# a = 1"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STATEMENTS, max_size=8).map("\n".join))
def test_the_paths_are_those_of_tomllib_and_each_key_stands_at_its_position(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    positions = key_positions(text)
    assert set(positions) == paths_of(document)
    lines = text.split("\n")
    for path, (line, column) in positions.items():
        here = lines[line - 1][column - 1 :]
        if isinstance(path[-1], str) and not here.startswith("["):
            written = _first_key(here)
            assert written == path[-1], (path, here)
        elif isinstance(path[-1], str):
            names = list(tomllib.loads(here.split("#")[0]))
            assert names[0] == path[0], (path, here)


def _first_key(text: str) -> str:
    """The key that some text begins with."""
    if text[0] == "'":
        return text[1 : text.index("'", 1)]
    if text[0] == '"':
        end = 1
        while text[end] != '"':
            end += 2 if text[end] == "\\" else 1
        return str(tomllib.loads(f"k = {text[: end + 1]}")["k"])
    end = 0
    while end < len(text) and (text[end].isalnum() or text[end] in "_-"):
        end += 1
    return text[:end]
