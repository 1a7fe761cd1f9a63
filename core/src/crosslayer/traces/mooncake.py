"""Reads Mooncake's JSONL: timestamp (ms), input_length, output_length, hash_ids (512 tokens each).

An id stands for a block and all blocks before it, which is what a prefix hash is. Keys that the
release does not have are passed over.
"""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from crosslayer.contracts.requests import Prefixes, RequestTrace
from crosslayer.traces import json_lines
from crosslayer.traces.formats import MOONCAKE_BLOCK_TOKENS
from crosslayer.traces.json_lines import BadField, column_of
from crosslayer.traces.problems import Problems
from crosslayer.traces.rows import Lines, no_rows, order_of, trace_of

MILLISECOND = 1_000_000


def read_mooncake(path: Path, sort: bool) -> RequestTrace:
    """The trace of a Mooncake file. Errors: TraceErrors with the first 20 problems."""
    problems, lines = Problems(str(path)), Lines()
    times, prompts, outputs = array("q"), array("q"), array("q")
    hashes, ends = array("Q"), array("q", [0])
    for line, text, value in json_lines.objects(path, 1, problems):
        try:
            at = json_lines.instant(value, "timestamp", MILLISECOND)
            prompt = json_lines.count(value, "input_length")
            output = json_lines.count(value, "output_length")
            blocks = json_lines.hashes(value, "hash_ids", prompt, MOONCAKE_BLOCK_TOKENS)
        except BadField as error:
            problems.add(line, column_of(text, error.field), error.field, str(error))
            continue
        lines.one(line)
        times.append(at)
        prompts.append(prompt)
        outputs.append(output)
        hashes.extend(blocks)
        ends.append(len(hashes))
    instants = np.frombuffer(times, dtype=np.int64)
    order = order_of(instants, lines, problems, sort, "timestamp")
    problems.raise_any()
    if not len(instants):
        raise no_rows(str(path), 1)
    prefix = None
    if len(hashes):
        found = np.frombuffer(hashes, dtype=np.uint64)
        prefix = Prefixes(MOONCAKE_BLOCK_TOKENS, np.frombuffer(ends, dtype=np.int64), found)
    columns = (np.frombuffer(one, dtype=np.int64) for one in (prompts, outputs))
    prompt_column, output_column = columns
    return trace_of(instants, prompt_column, output_column, {}, order, prefix)
