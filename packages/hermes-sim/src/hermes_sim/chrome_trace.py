"""The Trace Event Format of chrome://tracing and Perfetto: steps of clients, spans of requests.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (complete events
"X", times in microseconds).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hermes_sim.client import Client
from hermes_sim.outcome import Outcome
from hermes_sim.tape import Tape

REQUESTS = 5_000  # the spans of so many requests are drawn


def write_chrome_trace(path: Path, tape: Tape, clients: Sequence[Client], outcome: Outcome) -> None:
    """One row a client with its steps, one row a request with its wait and its tokens."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for client in clients:
            row_name = {"name": "thread_name", "ph": "M", "pid": 0, "tid": client.index}
            stream.write(json.dumps(row_name | {"args": {"name": client.name}}) + ",\n")
        columns = {name: values.tolist() for name, values in tape.columns().items()}
        for i, start in enumerate(columns["start_ns"]):
            prompt, decoding = columns["prompt_tokens"][i], columns["decoding"][i]
            kind = "mixed" if prompt and decoding else "prefill" if prompt else "decode"
            step = {
                "name": kind, "ph": "X", "pid": 0, "tid": columns["client"][i],
                "ts": start / 1e3, "dur": (columns["end_ns"][i] - start) / 1e3,
                "args": {
                    "iterations": columns["iterations"][i], "decoding": decoding,
                    "prompt_tokens": prompt, "waiting": columns["waiting"][i],
                    "kv_blocks": columns["kv_blocks"][i],
                },
            }  # fmt: skip
            stream.write(json.dumps(step) + ",\n")
        for i in range(min(len(outcome), REQUESTS)):
            request = int(outcome.rows[i])
            at, first, last = (
                int(column[i]) for column in (outcome.arrival_ns, outcome.first_ns, outcome.last_ns)
            )
            spans = [("to the first token", at, first), ("tokens", first, last)]
            for name, start, end in spans if first >= 0 else [("failed", at, last)]:
                span = {
                    "name": name, "ph": "X", "pid": 1, "tid": request,
                    "ts": start / 1e3, "dur": (end - start) / 1e3,
                }  # fmt: skip
                stream.write(json.dumps(span) + ",\n")
        stream.write('{"name":"process_name","ph":"M","pid":1,"args":{"name":"requests"}}\n]}\n')
