"""Recorded calls: JSON lines, one a sample, found again by what was asked.

A line: {"key", "model", "messages", "sampling", "sample", "prompt_tokens", "result"}. The key is
SHA-256 over the model, messages, sampling (without n, how many samples one call took) and the
sample's number, as canonical JSON. No time and no address is kept, so equal answers are equal
bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import Field, ValidationError

from crosslayer.backends.protocol import (
    Generation,
    OnDone,
    Prompt,
    Sample,
    Sampling,
    TextBackend,
    Usage,
)
from crosslayer.contracts.base import Value
from crosslayer.contracts.calls import Message
from crosslayer.errors import InputError


class Record(Value):
    """One sample that was drawn."""

    key: str
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    sample: int = Field(ge=0)
    prompt_tokens: int = Field(ge=0)
    result: Sample

    def line(self) -> bytes:
        """The record as a line of a recording."""
        return canonical(json.loads(self.to_json())) + b"\n"


def canonical(value: Any) -> bytes:
    """Equal values, equal bytes: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def call_key(model: str, prompt: Prompt, sample: int) -> str:
    """The content hash of one sample of a prompt."""
    asked = {
        "model": model,
        "messages": [message.model_dump() for message in prompt.messages],
        "sampling": prompt.sampling.model_dump(mode="json", exclude={"n"}),
        "sample": sample,
    }
    return hashlib.sha256(canonical(asked)).hexdigest()


def record_of(model: str, prompt: Prompt, sample: int, made: Generation) -> Record:
    """One sample of a prompt; made: the generation of it alone."""
    return Record(
        key=call_key(model, prompt, sample),
        model=model,
        messages=prompt.messages,
        sampling=prompt.sampling.model_copy(update={"n": 1}),
        sample=sample,
        prompt_tokens=made.prompt_tokens,
        result=made.samples[0],
    )


def read_records(file: Path) -> tuple[Record, ...]:
    """The records of a file. Errors: InputError with file, line and column for what is none."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: the recording cannot be read: {error.strerror}") from error
    return tuple(_parsed(file, raw))


def _parsed(file: Path, raw: bytes) -> Iterator[Record]:
    if raw and not raw.endswith(b"\n"):
        last = raw.count(b"\n") + 1
        raise InputError(
            f"{file}:{last}: the last line is cut, its recording was interrupted; record to the"
            " same file again, which drops the line and makes the missing calls"
        )
    for number, line in enumerate(raw.split(b"\n")[:-1], 1):
        try:
            record = Record.from_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            what = f"{where}: {first['msg']}" if where else first["msg"]
            raise InputError(f"{file}:{number}: is no recorded call: {what}") from None
        prompt = Prompt(messages=record.messages, sampling=record.sampling)
        if record.key != call_key(record.model, prompt, record.sample):
            raise InputError(
                f"{file}:{number}: the key does not fit what was asked; the line was edited, so"
                " take it out or record it again"
            )
        yield record


def joined(
    known: Mapping[str, Record], model: str, prompt: Prompt
) -> tuple[Generation | None, int | None]:
    """(the generation that the records hold, None), or (None, the first sample they lack)."""
    found = []
    for i in range(prompt.sampling.n):
        record = known.get(call_key(model, prompt, i))
        if record is None:
            return None, i
        found.append(record)
    samples = tuple(record.result for record in found)
    return Generation(prompt_tokens=found[0].prompt_tokens, samples=samples), None


class Recorder:
    """A backend that writes down what another one says, as it says it; a context manager.

    What the file holds already is answered from it, so an interrupted session goes on where it
    stopped and no call is paid for twice. The samples of a prompt are asked for one by one, and
    each is written when it is there, whatever becomes of the others. Lines are appended whole; the
    recorders of several models may share a file, two processes may not. A prompt without a seed at
    a temperature above 0 is recorded like any other: asked again, it gets the recorded answer.
    Errors: InputError for a file that holds something else.
    """

    def __init__(self, backend: TextBackend, file: str | Path) -> None:
        self.model = backend.model
        self.backend = backend
        self._file = Path(file)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._drop_a_cut_line()
        self._known = {record.key: record for record in read_records(self._file)}

    def _drop_a_cut_line(self) -> None:
        """An interrupted write left a line without its end: it was never a record."""
        raw = self._file.read_bytes()
        if raw and not raw.endswith(b"\n"):
            os.ftruncate(self._stream, raw.rfind(b"\n") + 1)

    def generate(
        self, prompts: Sequence[Prompt], done: OnDone | None = None
    ) -> tuple[Generation, ...]:
        """What was recorded, and for the rest what the backend says, written before it is told."""
        found: dict[int, Generation] = {}
        missing: list[tuple[int, int]] = []  # (prompt, sample)
        left = [0] * len(prompts)

        def over(i: int) -> None:
            generation, _ = joined(self._known, self.model, prompts[i])
            assert generation is not None
            found[i] = generation
            if done is not None:
                done(i, generation)

        for i, prompt in enumerate(prompts):
            keys = (call_key(self.model, prompt, n) for n in range(prompt.sampling.n))
            lacking = [(i, n) for n, key in enumerate(keys) if key not in self._known]
            missing += lacking
            left[i] = len(lacking)
            if not lacking:
                over(i)

        def write(position: int, generation: Generation) -> None:
            i, n = missing[position]
            self._write(record_of(self.model, prompts[i], n, generation))
            left[i] -= 1
            if not left[i]:
                over(i)

        if missing:
            single = {i: prompts[i].sampling.singly() for i, _ in missing}
            asked = [prompts[i].model_copy(update={"sampling": single[i][n]}) for i, n in missing]
            self.backend.generate(asked, write)
        return tuple(found[i] for i in range(len(prompts)))

    def _write(self, made: Record) -> None:
        if made.key not in self._known:
            os.write(self._stream, made.line())
            self._known[made.key] = made

    def usage(self) -> Usage:
        """Of the backend: what came from the file cost nothing."""
        return self.backend.usage()

    def close(self) -> None:
        """Close the file; the recorder cannot be used afterwards."""
        if self._stream >= 0:
            os.close(self._stream)
            self._stream = -1

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
