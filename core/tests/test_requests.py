"""Requests are checked graphs; a trace is columns that give every request back."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crosslayer.contracts.requests import (
    Labels,
    LLMCall,
    Message,
    Prefix,
    Prefixes,
    Request,
    RequestTrace,
    Stage,
    nanoseconds,
    single,
)
from crosslayer.errors import InputError


def call(id: str = "call", **fields: Any) -> LLMCall:
    return LLMCall(**({"id": id, "prompt_tokens": 100} | fields))


def chain() -> Request:
    nodes = (Stage(id="look", kind="retrieval", seconds=0.5), call("ask"), call("check"))
    return Request(id="c", arrival_ns=7, nodes=nodes, edges=(("look", "ask"), ("ask", "check")))


def test_a_request_knows_what_waits_for_what() -> None:
    request = chain()
    assert dict(request.before) == {"look": (), "ask": ("look",), "check": ("ask",)}
    assert [c.id for c in request.calls] == ["ask", "check"]
    assert single("s", 0, 10).call.prompt_tokens == 10
    with pytest.raises(InputError, match="'c' has 2 model calls, not one"):
        request.call
    part = request.part(request.calls[1], 99)
    assert (part.id, part.arrival_ns, part.call.id, part.edges) == ("c/check", 99, "check", ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"edges": (("look", "ask"), ("ask", "look"))}, "wait for each other: (look|ask) -> "),
        ({"edges": (("ask", "ask"),)}, "wait for each other: ask -> ask"),
        ({"edges": (("lok", "ask"),)}, r"names no node 'lok'; did you mean 'look'\?"),
        ({"nodes": (call("a"), call("a")), "edges": ()}, "node id 'a' is used twice"),
        ({"nodes": ()}, "at least 1 item"),
        ({"arrival_ns": -1}, "greater than or equal to 0"),
        ({"arrival_ns": 1.5}, "valid integer"),
        ({"arrival_ns": 2**63}, "less than or equal to"),
        ({"deadline_ns": 6}, "deadline_ns 6 is before its arrival_ns 7"),
    ],
)  # fmt: skip
def test_a_request_that_is_no_graph_or_out_of_time_is_refused(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        chain().replace(**changes)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt_tokens": -1}, "greater than or equal to 0"),
        ({"output_tokens": -1}, "greater than or equal to 0"),
        ({"max_tokens": 0}, "greater than 0"),
        ({"output_tokens": 5, "max_tokens": 4}, "output_tokens 5 is over max_tokens 4"),
        ({"prefix": Prefix(block_tokens=50, hashes=(1, 2, 3))}, "3 prefix hashes of 50 tokens"),
        ({"temperature": 1}, "Extra inputs"),
    ],
)
def test_a_call_with_impossible_lengths_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        call(**fields)


def test_the_last_block_of_a_prefix_may_be_a_part_of_one() -> None:
    assert call(prefix=Prefix(block_tokens=64, hashes=(1, 2))).prefix is not None
    with pytest.raises(ValidationError, match="no unsigned 64-bit number"):
        Prefix(block_tokens=64, hashes=(-1,))
    assert Prefix(block_tokens=1, hashes=(2**64 - 1,)).hashes[0] == 2**64 - 1


def test_samples_of_a_prompt_have_ids_of_their_own() -> None:
    calls = [call().to(model, k) for model in ("a", "b") for k in range(3)]
    assert len({c.id for c in calls}) == 6
    assert (calls[4].model, calls[4].sample, calls[4].prompt_tokens) == ("b", 1, 100)


def test_nanoseconds_of_a_second_and_of_half_a_nanosecond() -> None:
    assert [nanoseconds(s) for s in (1.0, 1e-9, 0.4e-9, 86_400.000000001)] == [
        10**9, 1, 0, 86_400_000_000_001,
    ]  # fmt: skip


TOKENS = st.integers(0, 2**40)
CALLS = st.builds(
    LLMCall,
    id=st.sampled_from(["call", "ask"]),
    model=st.sampled_from([None, None, "small", "large"]),
    prompt_tokens=st.integers(40, 10_000),
    prefix=st.none()
    | st.builds(
        Prefix,
        block_tokens=st.sampled_from([16, 16, 16, 20]),
        hashes=st.lists(st.integers(0, 2**64 - 1), max_size=2).map(tuple),
    ),
    output_tokens=st.none() | TOKENS,
    messages=st.none() | st.just((Message(role="user", content="why?"),)),
    sample=st.sampled_from([0, 0, 0, 2]),
    parameters=st.just(()) | st.just((("temperature", 0.3),)),
)
NODES = st.one_of(
    CALLS.map(lambda c: (c,)),
    CALLS.map(lambda c: (c,)),
    st.tuples(CALLS, CALLS).map(
        lambda pair: tuple(c.model_copy(update={"id": f"c{i}"}) for i, c in enumerate(pair))
    ),
    st.just((Stage(id="act", kind="acting", seconds=1.5),)),
)


@st.composite
def request_lists(draw: st.DrawFn) -> list[Request]:
    arrivals = sorted(draw(st.lists(st.integers(0, 2**62), max_size=8)))
    numbered = draw(st.booleans())
    return [
        Request(
            id=str(i) if numbered else f"r{i}",
            arrival_ns=at,
            nodes=draw(NODES),
            session=draw(st.sampled_from([None, "a", "b"])),
            deadline_ns=draw(st.sampled_from([None, at, at + 5])),
            slo_class=draw(st.sampled_from([None, "chat"])),
            reference_answer=draw(st.sampled_from([None, None, "42"])),
        )
        for i, at in enumerate(arrivals)
    ]


@settings(max_examples=100, deadline=None)
@given(request_lists())
def test_a_trace_gives_back_the_very_same_requests(requests: list[Request]) -> None:
    trace = RequestTrace.from_requests(requests)
    assert list(trace) == requests and len(trace) == len(requests)
    tokens = [c.prompt_tokens for r in requests for c in r.calls]
    assert trace.prompt_tokens.tolist() == tokens
    for row, request in enumerate(requests):
        assert trace.request(row) == request
        first, last = trace.first_call[row : row + 2]
        assert trace.prompt_tokens[first:last].tolist() == [c.prompt_tokens for c in request.calls]
    assert Request.from_json(requests[0].to_json()) == requests[0] if requests else True


def test_plain_requests_stay_in_the_columns_and_others_beside_them() -> None:
    prefix = Prefix(block_tokens=16, hashes=(3, 2**63))
    plain = [
        Request(
            id=f"r{i}", arrival_ns=i, nodes=(call(prefix=prefix if i % 2 else None),), session="s"
        )
        for i in range(4)
    ]
    trace = RequestTrace.from_requests(plain)
    assert trace.whole is None and trace.owner is None
    assert trace.prefix is not None and trace.prefix.offsets.tolist() == [0, 0, 2, 2, 4]
    worded = plain[2].replace(reference_answer="42")
    mixed = RequestTrace.from_requests([*plain[:2], worded, chain()])
    assert mixed.whole is not None
    assert [r is not None for r in mixed.whole] == [False, False, True, True]
    assert mixed.owner is not None and mixed.owner.tolist() == [0, 1, 2, 3, 3]


def test_a_million_requests_are_cheap_and_any_of_them_is_a_row() -> None:
    count = 1_000_000
    start = time.process_time()
    trace = RequestTrace(
        arrival_ns=np.arange(count) * 1000,
        prompt_tokens=np.full(count, 800),
        output_tokens=np.full(count, 200),
        session=Labels(np.arange(count) % 3, ("a", "b", "c")),
    )
    row = trace.request(777_777)
    spent = time.process_time() - start
    assert (row.id, row.arrival_ns, row.session) == ("777777", 777_777_000, "a")
    assert (row.call.prompt_tokens, row.call.output_tokens) == (800, 200)
    columns = (trace.arrival_ns, trace.prompt_tokens, trace.output_tokens)
    assert sum(c.nbytes for c in columns) == 24 * count
    assert spent < 5  # CPU seconds; a request built for every row would take longer


def test_columns_cannot_be_changed_from_outside() -> None:
    arrivals = np.array([1, 2])
    trace = RequestTrace(arrivals, np.array([1, 1]), np.array([1, 1]))
    arrivals[0] = 99
    assert trace.arrival_ns[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        trace.arrival_ns[0] = 99


def columns(**changes: Any) -> RequestTrace:
    base: dict[str, Any] = {
        "arrival_ns": [0, 5, 5], "prompt_tokens": [1, 2, 3], "output_tokens": [1, -1, 0],
    }  # fmt: skip
    return RequestTrace(**(base | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arrival_ns": [0, 5, 4]}, "arrival_ns falls from 5 to 4 in row 2; sort the trace"),
        ({"arrival_ns": [-1, 5, 5]}, "arrival_ns: row 0 holds -1"),
        ({"arrival_ns": [0.0, 5.0, 5.0]}, "arrival_ns: whole numbers in one dimension"),
        ({"arrival_ns": np.array([0, 5, 2**63], dtype=np.uint64)}, "row 2 holds 92233720368547758"),
        ({"prompt_tokens": [1, -2, 3]}, "prompt_tokens: row 1 holds -2"),
        ({"prompt_tokens": [1, 2]}, "prompt_tokens has 2 rows, not 3"),
        ({"output_tokens": [1, -2, 3]}, "output_tokens: row 1 holds -2"),
        ({"output_tokens": [[1, 2, 3]]}, "one dimension"),
        ({"output_tokens": [1]}, "output_tokens has 1 rows, not 3"),
        ({"ids": ("a", "b", "a")}, "request id 'a' is used twice"),
        ({"ids": ("a", "b")}, "ids has 2 rows, not 3"),
        ({"deadline_ns": [-1, 4, 9]}, "row 1: the deadline is before the arrival"),
        ({"session": Labels(np.array([0, -1]), ("s",))}, "session has 2 rows, not 3"),
        ({"owner": [0, 1, 1]}, "row 1 has 2 calls in the columns but no graph"),
        ({"owner": [0, 2, 1]}, "owner falls from 2 to 1"),
        ({"owner": [0, 1, 3]}, "owner names row 3 of 3"),
        ({"whole": (None, single("1", 5, 7), None)}, "row 1: `whole` .* differ in their calls"),
        ({"whole": (None, single("x", 5, 2), None)}, "row 1: `whole` and the columns differ in id"),
        ({"whole": (None,)}, "whole has 1 rows, not 3"),
    ],
)  # fmt: skip
def test_columns_that_make_no_trace_are_refused(changes: dict[str, Any], said: str) -> None:
    assert [r.call.output_tokens for r in columns()] == [1, None, 0]
    with pytest.raises(InputError, match=said):
        columns(**changes)


def test_labels_and_prefixes_must_point_somewhere() -> None:
    with pytest.raises(InputError, match="label code 1 has no name; there are 1"):
        Labels(np.array([0, 1]), ("a",))
    for offsets in ([0, 3], [1, 2], []):
        with pytest.raises(InputError, match="offsets run from 0 to the number of hashes"):
            Prefixes(16, np.array(offsets, dtype=np.int64), np.array([1, 2], dtype=np.uint64))
    with pytest.raises(InputError, match="must not fall"):
        Prefixes(16, np.array([0, 2, 1, 2]), np.array([1, 2], dtype=np.uint64))


def test_unsorted_requests_and_ids_used_twice_make_no_trace() -> None:
    with pytest.raises(
        InputError, match=r"'b' arrives at 3 ns, before the one in front of it \(4 ns\)"
    ):
        RequestTrace.from_requests([single("a", 4, 1), single("b", 3, 1)])
    with pytest.raises(InputError, match="request id 'a' is used twice"):
        RequestTrace.from_requests([single("a", 4, 1), single("a", 4, 1)])
    with pytest.raises(InputError, match="row 2 does not exist; there are 0 requests"):
        RequestTrace.from_requests([]).request(2)
