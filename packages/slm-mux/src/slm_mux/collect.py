"""Collect records from live backends: resumable, a row as soon as its samples are there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from io import FileIO
from pathlib import Path

from crosslayer.backends.protocol import (
    BackendError,
    Generation,
    OnDone,
    Prompt,
    Sampling,
    TextBackend,
)
from crosslayer.errors import InputError
from crosslayer.filelock import exclusive
from crosslayer.progress import Progress
from crosslayer.questions import Question
from slm_mux.engine import sample_seed
from slm_mux.records import Recorded, Row, rows_of

BEGIN = b'{"model": '  # of every line


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
    where the file is none of records, holds other samples or other questions than asked for, or
    cannot be written; BackendError where a member gave no answer to some, after all that the
    others said was written.
    """
    progress = progress or Progress()
    waits = f"{file}: another collect writes to it; waiting for it to end"
    with exclusive(Path(f"{file}.lock"), lambda: progress.say(waits)):
        there = {(row.model, row.qid): row for row in _resumed(file)}
        _same(file, there, backends, questions, samples, sampling)
        return _collect(backends, questions, file, samples, sampling, seed, progress, there)


def _collect(
    backends: Mapping[str, TextBackend],
    questions: Sequence[Question],
    file: Path,
    samples: int,
    sampling: Sampling,
    seed: int,
    progress: Progress,
    there: Collection[tuple[str, str]],
) -> int:
    new, failed = 0, []
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("ab", buffering=0)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from error
    with opened as out:
        for name, backend in backends.items():
            missing = [one for one in questions if (name, one.id) not in there]
            progress.say(f"{name}: {len(missing)} of {len(questions)} questions to ask")
            if missing:
                prompts = [_prompt(one, name, samples, sampling, seed) for one in missing]
                try:
                    backend.generate(prompts, _writer(out, name, missing, sampling, progress))
                except BackendError as error:
                    progress.say(f"{name}: {error}")
                    failed.append(error)
                new += len(missing)
    if failed:
        raise failed[0]
    return new


def _writer(
    out: FileIO, name: str, asked: Sequence[Question], sampling: Sampling, progress: Progress
) -> OnDone:
    written = 0

    def write(i: int, made: Generation) -> None:
        nonlocal written
        row = _row(name, asked[i], made, sampling.temperature)
        line = json.dumps(row.model_dump(exclude_none=True), ensure_ascii=False) + "\n"
        _append(out, line.encode())
        written += 1
        if written % 50 == 0:
            progress.say(f"{name}: {written} of {len(asked)}")

    return write


def _append(out: FileIO, line: bytes) -> None:
    try:
        while line:
            line = line[out.write(line) :]
    except OSError as error:  # a full disk
        raise InputError(
            f"{out.name}: cannot be written: {error.strerror}; it keeps what was recorded, and the"
            " same command goes on with it"
        ) from error


def _prompt(asked: Question, name: str, samples: int, sampling: Sampling, seed: int) -> Prompt:
    first = sample_seed(seed, f"{name}/{asked.id}", 0)
    return Prompt(messages=asked.asked(), sampling=sampling.replace(n=samples, seed=first))


def _row(name: str, asked: Question, made: Generation, temperature: float) -> Row:
    samples = tuple(
        Recorded(text=one.text, tokens_in=made.prompt_tokens, tokens_out=one.tokens)
        for one in made.samples
    )
    return Row(
        model=name, qid=asked.id, gold=asked.answer, samples=samples, temperature=temperature,
        prompt_id=_prompt_id(asked),
    )  # fmt: skip


def _prompt_id(asked: Question) -> str:
    """A hash of the words: ids such as "1" name other questions in another file."""
    words = json.dumps([message.model_dump() for message in asked.asked()])
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _same(
    file: Path,
    there: Mapping[tuple[str, str], Row],
    backends: Mapping[str, TextBackend],
    questions: Sequence[Question],
    samples: int,
    sampling: Sampling,
) -> None:
    for row in there.values():
        if len(row.samples) != samples or row.temperature != sampling.temperature:
            raise InputError(
                f"{file}: {row.model} on {row.qid!r} has {len(row.samples)} samples at temperature"
                f" {row.temperature}, not {samples} at {sampling.temperature}; write to another"
                " file"
            )
    for name in backends:
        for asked in questions:
            held = there.get((name, asked.id))
            if held and (held.gold, held.prompt_id) != (asked.answer, _prompt_id(asked)):
                raise InputError(
                    f"{file}: {name} was asked another question under the id {asked.id!r}, or one"
                    " with another answer; write to another file"
                )


def _resumed(file: Path) -> tuple[Row, ...]:
    """What the file holds. Of a last line without an end, one that was cut is dropped and a whole
    one is ended, but nothing is touched unless everything else is records.
    """
    try:
        raw = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    end = raw.rfind(b"\n") + 1
    last = raw[end:]
    cut = bool(last) and last.startswith(BEGIN[: len(last)]) and not _is_json(last)
    kept = raw[:end] if cut else raw
    rows = rows_of(kept, file) if kept else ()
    if cut:
        os.truncate(file, end)
    elif last:
        with file.open("ab") as stream:
            stream.write(b"\n")
    return rows


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
