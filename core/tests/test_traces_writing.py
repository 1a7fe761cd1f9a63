"""Traces written and read again; what a format cannot hold is named or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslayer.contracts.requests import (
    LLMCall,
    Message,
    Prefix,
    Prefixes,
    Request,
    RequestTrace,
    Stage,
    single,
)
from crosslayer.errors import InputError
from crosslayer.traces import FORMATS, left_out, read_trace, write_trace
from crosslayer.traces.rows import first_requests
from crosslayer.traces.statistics import figures

names = st.one_of(st.none(), st.sampled_from(["", "a", "B b", 'q"uote', "ä,é\n\u2028"]))


@st.composite
def calls(draw: st.DrawFn, id: str = "call") -> LLMCall:
    prompt = draw(st.integers(0, 5000))
    block = draw(st.sampled_from([16, 512]))
    most = -(-prompt // block)
    hashes = draw(st.lists(st.integers(0, 2**64 - 1), max_size=min(3, most)))
    return LLMCall(
        id=id,
        model=draw(names),
        prompt_tokens=prompt,
        prefix=draw(st.sampled_from([None, Prefix(block_tokens=block, hashes=tuple(hashes))])),
        output_tokens=draw(st.one_of(st.none(), st.integers(0, 2**62))),
        messages=draw(st.sampled_from([None, (Message(role="user", content="hä?"),)])),
        parameters=draw(st.sampled_from([(), (("t", 1.0), ("n", 1), ("x", None), ("b", True))])),
    )


@st.composite
def traces(draw: st.DrawFn) -> list[Request]:
    found, at = [], 0
    for i in range(draw(st.integers(1, 4))):
        at += draw(st.integers(0, 10**12))
        id = draw(st.sampled_from([str(i), f"request-{i}"]))
        nodes: tuple[LLMCall | Stage, ...] = (draw(calls()),)
        if draw(st.integers(0, 3)) == 0:
            stage = Stage(id="look", kind="retrieval", seconds=0.1)
            nodes = (stage, draw(calls("ask")), draw(calls("check")))
        edges = (("look", "ask"), ("ask", "check")) if len(nodes) > 1 else ()
        late = draw(st.one_of(st.none(), st.integers(0, 10)))
        found.append(
            Request(
                id=id, arrival_ns=at, nodes=nodes, edges=edges, session=draw(names),
                deadline_ns=None if late is None else at + late, slo_class=draw(names),
                reference_answer=draw(st.sampled_from([None, "42"])),
            )
        )  # fmt: skip
    return found


@settings(max_examples=60, deadline=None)
@given(traces())
def test_our_own_format_gives_every_request_back(
    tmp_path_factory: pytest.TempPathFactory, requests: list[Request]
) -> None:
    path = tmp_path_factory.mktemp("own") / "trace.jsonl"
    trace = RequestTrace.from_requests(requests)
    write_trace(trace, path)
    back = read_trace(path)
    assert list(back) == requests
    again = path.with_name("again.jsonl")
    write_trace(back, again)
    assert again.read_bytes() == path.read_bytes()


def plain(prefix: bool = True) -> RequestTrace:
    hashes = np.array([5, 2**64 - 1, 5], dtype=np.uint64)
    return RequestTrace(
        np.array([0, 1, 7_000_000_100]),
        np.array([600, 3, 100]),
        np.array([7, 0, 9]),
        prefix=Prefixes(512, np.array([0, 2, 2, 3]), hashes) if prefix else None,
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["trace", "trace.gz"])
def test_times_and_lengths_survive_every_format(tmp_path: Path, format: str, name: str) -> None:
    path = tmp_path / name
    write_trace(plain(), path, format)
    back = read_trace(path, format)
    for column in ("arrival_ns", "prompt_tokens", "output_tokens"):
        assert getattr(back, column).tolist() == getattr(plain(), column).tolist()
    if format in ("mooncake", "crosslayer"):
        assert list(back) == list(plain())
    first = path.read_bytes()
    write_trace(plain(), path, format)
    assert path.read_bytes() == first and len(list(tmp_path.iterdir())) == 1


def test_what_a_format_has_no_place_for_is_named() -> None:
    requests = [single("x", 0, 5, 5).replace(session="s", deadline_ns=9), single("y", 1, 5, 5)]
    trace = RequestTrace.from_requests(requests)
    assert left_out(trace, "azure-llm") == ("ids", "deadline_ns", "session")
    assert left_out(trace, "burstgpt") == ("ids", "deadline_ns")
    assert left_out(plain(), "burstgpt") == ("prefix",)
    assert left_out(plain(), "mooncake") == left_out(trace, "crosslayer") == ()


def test_what_a_format_cannot_say_is_refused(tmp_path: Path) -> None:
    two = Request(id="0", arrival_ns=0, nodes=tuple(
        LLMCall(id=one, prompt_tokens=1, output_tokens=1) for one in "ab"
    ))  # fmt: skip
    blocks = LLMCall(prompt_tokens=9, output_tokens=1, prefix=Prefix(block_tokens=4, hashes=(1,)))
    cases = [
        (two, "azure-llm", "one model call, not several"),
        (single("0", 0, 5), "burstgpt", "request '0' has no output length"),
        (Request(id="0", arrival_ns=0, nodes=(blocks,)), "mooncake", "512 tokens, those .* 4"),
    ]
    for request, format, said in cases:
        with pytest.raises(InputError, match=said):
            write_trace(RequestTrace.from_requests([request]), tmp_path / "x", format)
    with pytest.raises(InputError, match="cannot be written"):
        write_trace(plain(), tmp_path / "no" / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recorded", [True, False])
def test_figures_of_made_requests_are_modelled_and_of_recorded_ones_recorded(
    tmp_path: Path, recorded: bool
) -> None:
    path = tmp_path / "trace.csv"
    write_trace(plain(), path)
    made = read_trace(path) if recorded else plain()  # a public format holds recorded requests
    own = tmp_path / "own.jsonl"
    write_trace(made, own)
    for trace in (made, read_trace(own), first_requests(read_trace(own), 2)):
        assert trace.recorded == recorded
        wanted = "recorded" if recorded else "modelled"
        assert [figure.provenance for figure in figures(trace, "x")] == [wanted, wanted]
