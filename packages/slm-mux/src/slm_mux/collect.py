"""Collect records from live backends: resumable, a row as soon as its samples are there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from crosslayer.backends.protocol import Generation, OnDone, Prompt, Sampling, TextBackend
from crosslayer.errors import InputError
from crosslayer.progress import Progress
from crosslayer.questions import Question
from slm_mux.engine import sample_seed
from slm_mux.records import Recorded, Row, read_rows


def collect(
    backends: Mapping[str, TextBackend],
    questions: Sequence[Question],
    file: Path,
    samples: int,
    sampling: Sampling,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> int:
    """Ask every member every question that the file lacks, `samples` times; how many rows are new.

    A line that an interruption cut is dropped and its question asked again. Errors: InputError
    where the file holds other samples than asked for; BackendError where a
    member gave no answer to some, after the others were written.
    """
    progress = progress or Progress()
    _drop_a_cut_line(file)
    there = {(row.model, row.qid): row for row in read_rows(file)} if _size(file) else {}
    for row in there.values():
        if len(row.samples) != samples or row.temperature != sampling.temperature:
            raise InputError(
                f"{file}: {row.model} on {row.qid!r} has {len(row.samples)} samples at temperature"
                f" {row.temperature}, not {samples} at {sampling.temperature}; write to another"
                " file"
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    new = 0
    with file.open("a", encoding="utf-8") as out:
        for name, backend in backends.items():
            missing = [one for one in questions if (name, one.id) not in there]
            progress.say(f"{name}: {len(missing)} of {len(questions)} questions to ask")
            if missing:
                prompts = [_prompt(one, name, samples, sampling, seed) for one in missing]
                backend.generate(prompts, _writer(out, name, missing, sampling, progress))
                new += len(missing)
    return new


def _writer(
    out: TextIO, name: str, asked: Sequence[Question], sampling: Sampling, progress: Progress
) -> OnDone:
    written = 0

    def write(i: int, made: Generation) -> None:
        nonlocal written
        row = _row(name, asked[i], made, sampling.temperature)
        out.write(json.dumps(row.model_dump(exclude_none=True), ensure_ascii=False) + "\n")
        out.flush()
        written += 1
        if written % 50 == 0:
            progress.say(f"{name}: {written} of {len(asked)}")

    return write


def _prompt(asked: Question, name: str, samples: int, sampling: Sampling, seed: int) -> Prompt:
    first = sample_seed(seed, f"{name}/{asked.id}", 0)
    return Prompt(messages=asked.asked(), sampling=sampling.replace(n=samples, seed=first))


def _row(name: str, asked: Question, made: Generation, temperature: float) -> Row:
    samples = tuple(
        Recorded(text=one.text, tokens_in=made.prompt_tokens, tokens_out=one.tokens)
        for one in made.samples
    )
    return Row(
        model=name, qid=asked.id, gold=asked.answer, samples=samples, temperature=temperature
    )


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _drop_a_cut_line(file: Path) -> None:
    if _size(file):
        with file.open("rb+") as stream:
            raw = stream.read()
            if not raw.endswith(b"\n"):
                os.ftruncate(stream.fileno(), raw.rfind(b"\n") + 1)
