"""Reads our own JSONL, which holds all that a trace holds: `list` of what is read equals `list` of
what was written.

First line: {"crosslayer_trace": 1}, with "recorded": true for someone's real requests. Then a line
a request, in order of arrival. A request of one plain call: arrival_ns, prompt_tokens,
output_tokens (left out where it is not known), and, where they differ from nothing: id (else the
row's number), session, slo_class, deadline_ns, model, prefix {block_tokens, hashes}. Any other
request: {"request": {...}}, the fields of `crosslayer.contracts.requests.Request`.
"""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from crosslayer.contracts.requests import LLMCall, Prefix, Prefixes, Request, RequestTrace
from crosslayer.traces import json_lines
from crosslayer.traces.json_lines import BadField, column_of
from crosslayer.traces.problems import Problems
from crosslayer.traces.rows import Lines, Names, no_rows, order_of, trace_of

KEYS = (
    "arrival_ns", "prompt_tokens", "output_tokens", "id", "session", "slo_class", "deadline_ns",
    "model", "prefix",
)  # fmt: skip
_NAMES = ("session", "slo_class", "model")


def read_own(path: Path, header_line: int, sort: bool) -> RequestTrace:
    """The trace of a file of our own. Errors: TraceErrors with the first 20 problems."""
    rows = _Rows(Problems(str(path)))
    for line, text, value in json_lines.objects(path, header_line + 1, rows.problems):
        try:
            rows.add(line, value)
        except BadField as error:
            rows.problems.add(line, column_of(text, error.field), error.field, str(error))
    return rows.trace(sort, str(path), header_line)


class _Rows:
    """Columns while all requests fit them; the requests that do not are kept whole."""

    def __init__(self, problems: Problems) -> None:
        self.problems, self.lines = problems, Lines()
        self.times, self.prompts = array("q"), array("q")
        self.outputs, self.deadlines = array("q"), array("q")
        self.codes = {name: array("q") for name in _NAMES}
        self.names = {name: Names() for name in _NAMES}
        self.ids: list[str | None] = []
        self.hashes, self.ends = array("Q"), array("q", [0])
        self.block_tokens = array("q")  # of each row, 0 without a prefix
        self.whole: dict[int, Request] = {}

    def add(self, line: int, value: dict[str, Any]) -> None:
        """One request. Errors: BadField."""
        whole = _whole(value) if "request" in value else None
        if whole is None:
            json_lines.no_others(value, KEYS)
            at = json_lines.count(value, "arrival_ns")
            prompt = json_lines.count(value, "prompt_tokens")
            output = json_lines.count(value, "output_tokens", needed=False)
            deadline = json_lines.count(value, "deadline_ns", needed=False)
            if 0 <= deadline < at:
                raise BadField("deadline_ns", f"{deadline} is before arrival_ns {at}")
            id_ = json_lines.name(value, "id")
            names = [json_lines.name(value, name) for name in _NAMES]
            block, hashes = _prefix(value, prompt)
        else:
            at, prompt, output, deadline, id_ = whole.arrival_ns, 0, -1, -1, whole.id
            names, block, hashes = [None] * len(_NAMES), 0, []
        if whole is not None:
            self.whole[len(self.times)] = whole
        self.lines.one(line)
        self.times.append(at)
        self.prompts.append(prompt)
        self.outputs.append(output)
        self.deadlines.append(deadline)
        for name, one in zip(_NAMES, names, strict=True):
            self.codes[name].append(self.names[name].code(one))
        self.ids.append(id_)
        self.block_tokens.append(block)
        self.hashes.extend(hashes)
        self.ends.append(len(self.hashes))

    def trace(self, sort: bool, file: str, header_line: int) -> RequestTrace:
        """All rows. Errors: TraceErrors."""
        times = _ints(self.times)
        order = order_of(times, self.lines, self.problems, sort, "arrival_ns")
        self._check_ids()
        self.problems.raise_any()
        if not len(times):
            raise no_rows(file, header_line + 1)
        blocks = set(self.block_tokens) - {0}
        rows = range(len(times)) if order is None else order.tolist()
        if self.whole or len(blocks) > 1:
            known = {name: tuple(self.names[name].known) for name in _NAMES}
            return RequestTrace.from_requests(self._request(row, known) for row in rows)
        for name in _NAMES:
            self.names[name].pieces = [_ints(self.codes[name])]
        ids = None
        if order is not None or any(one is not None for one in self.ids):
            ids = tuple(self._id(row) for row in rows)
            ids = None if all(one == str(i) for i, one in enumerate(ids)) else ids
        prefix = deadlines = None
        if blocks:
            hashes = np.frombuffer(self.hashes, dtype=np.uint64)
            prefix = Prefixes(blocks.pop(), _ints(self.ends), hashes)
        if max(self.deadlines) >= 0:
            deadlines = _ints(self.deadlines)
            deadlines = deadlines if order is None else deadlines[order]
        tokens = _ints(self.prompts), _ints(self.outputs)
        plain = trace_of(times, *tokens, self.names, order, prefix, from_first=False)
        return replace(plain, ids=ids, deadline_ns=deadlines)

    def _id(self, row: int) -> str:
        given = self.ids[row]
        return str(row) if given is None else given

    def _check_ids(self) -> None:
        """A problem for each id that an earlier row has."""
        if all(one is None for one in self.ids):
            return
        row_of: dict[str, int] = {}
        for row in range(len(self.ids)):
            first = row_of.setdefault(self._id(row), row)
            if first != row:
                message = f"id {self._id(row)!r} is that of line {self.lines.of(first)} too"
                self.problems.add(self.lines.of(row), 1, "id", message)

    def _request(self, row: int, known: dict[str, tuple[str, ...]]) -> Request:
        if row in self.whole:
            return self.whole[row]
        codes = {name: self.codes[name][row] for name in _NAMES}
        named = {name: None if at < 0 else known[name][at] for name, at in codes.items()}
        hashes = self.hashes[self.ends[row] : self.ends[row + 1]]
        block = self.block_tokens[row]
        output, deadline = self.outputs[row], self.deadlines[row]
        call = LLMCall(
            model=named["model"],
            prompt_tokens=self.prompts[row],
            prefix=Prefix(block_tokens=block, hashes=tuple(hashes)) if block else None,
            output_tokens=output if output >= 0 else None,
        )
        return Request(
            id=self._id(row),
            arrival_ns=self.times[row],
            nodes=(call,),
            session=named["session"],
            slo_class=named["slo_class"],
            deadline_ns=deadline if deadline >= 0 else None,
        )


def _whole(value: dict[str, Any]) -> Request:
    json_lines.no_others(value, ("request",))
    try:
        text = json.dumps(value["request"], default=float, allow_nan=False)
    except ValueError:
        raise BadField("request", "holds a number beyond the floats") from None
    try:
        return Request.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadField("request", f"{place}: {first['msg']}".removeprefix(": ")) from None


def _prefix(value: dict[str, Any], prompt: int) -> tuple[int, list[int]]:
    found = value.get("prefix")
    if found is None:
        return 0, []
    if not isinstance(found, dict):
        raise BadField("prefix", f"is {found!r}; an object is needed")
    json_lines.no_others(found, ("block_tokens", "hashes"))
    block = json_lines.count(found, "block_tokens")
    if block < 1:
        raise BadField("block_tokens", "is 0; a block has at least one token")
    return block, json_lines.hashes(found, "hashes", prompt, block)


def _ints(values: array[int]) -> Any:
    return np.frombuffer(values, dtype=np.int64)
