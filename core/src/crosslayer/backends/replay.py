"""Answers from a recording: offline, and byte for byte what was said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crosslayer.backends.params import ReplayParams
from crosslayer.backends.protocol import Generation, OnDone, Prompt, Sampling, Usage
from crosslayer.backends.recording import Record, call_key, canonical, joined, read_records
from crosslayer.errors import InputError, nearest


class ReplayBackend:
    """A recorded session. model: whose answers, None where the file has one model's.

    strict: only exactly what was asked is answered. Otherwise a call with other sampling gets a
    recorded sample of the same messages: sample i gets the i-th of those, in the file's order,
    beginning again at the end; its seed, temperature and limits are then the recording's.
    Errors: InputError, on opening for a bad line or an unknown model, later for an unknown call.
    """

    recorded = True  # what it says is no measurement of this run

    def __init__(self, file: str | Path, model: str | None = None, *, strict: bool = True) -> None:
        self._file, self._strict = Path(file), strict
        every = read_records(self._file)
        models = list(dict.fromkeys(record.model for record in every))
        if not models:
            raise InputError(f"{file}: the recording is empty")
        if model is None and len(models) > 1:
            raise InputError(f"{file}: holds calls of {', '.join(models)}; say which 'model'")
        if model is not None and model not in models:
            raise InputError(f"{file}: holds no call of model {model!r}; {nearest(model, models)}")
        self.model = model or models[0]
        self._lines: dict[str, int] = {}
        self._known: dict[str, Record] = {}
        self._same_words: dict[bytes, list[Record]] = {}
        for line, record in enumerate(every, 1):
            if record.model == self.model and record.key not in self._known:
                self._known[record.key] = record
                self._lines[record.key] = line
                self._same_words.setdefault(_words(record), []).append(record)
        self._usage = Usage()

    def generate(
        self, prompts: Sequence[Prompt], done: OnDone | None = None
    ) -> tuple[Generation, ...]:
        """The recorded answers."""
        made = []
        for i, prompt in enumerate(prompts):
            made.append(self._one(prompt))
            if done is not None:
                done(i, made[-1])
        return tuple(made)

    def usage(self) -> Usage:
        """Samples and tokens that were repeated; nothing was sent."""
        return self._usage

    def _one(self, prompt: Prompt) -> Generation:
        generation, lacks = joined(self._known, self.model, prompt)
        if lacks is not None:
            same = self._same_words.get(_words(prompt), [])
            if self._strict or not same:
                raise InputError(self._unknown(prompt, lacks, same))
            samples = tuple(same[i % len(same)].result for i in range(prompt.sampling.n))
            generation = Generation(prompt_tokens=same[0].prompt_tokens, samples=samples)
        assert generation is not None
        tokens = sum(sample.tokens for sample in generation.samples)
        self._usage = self._usage.replace(
            samples=self._usage.samples + len(generation.samples),
            prompt_tokens=self._usage.prompt_tokens + generation.prompt_tokens,
            output_tokens=self._usage.output_tokens + tokens,
        )
        return generation

    def _unknown(self, prompt: Prompt, sample: int, same: list[Record]) -> str:
        """Where the nearest recorded call stands and what it differs in."""
        key = call_key(self.model, prompt, sample)
        asked = f"sample {sample} of {prompt.messages[-1].content[:60]!r} (key {key[:12]})"
        sentence = f"{self._file}: has no recorded call for {asked} of {self.model!r}; "
        if same:
            near = min(same, key=lambda record: len(_differences(record, prompt, sample)))
            differences = ", ".join(_differences(near, prompt, sample))
            line = self._lines[near.key]
            return sentence + (
                f"line {line} asked the same with {differences}; strict = false would take it"
            )
        words = {record.messages[-1].content: record for record in self._known.values()}
        hint = nearest(prompt.messages[-1].content, [text[:200] for text in words])
        close = [text for text in words if hint == f"did you mean {text[:200]!r}?"]
        if close:
            line = self._lines[words[close[0]].key]
            return sentence + f"the nearest prompt is line {line}, {close[0][:60]!r}"
        return sentence + "no recorded prompt is near it; record it first"


def recorded(params: ReplayParams) -> ReplayBackend:
    """The backend of a [[backend]] table."""
    return ReplayBackend(params.file, params.model, strict=params.strict)


def _words(asked: Record | Prompt) -> bytes:
    return canonical([message.model_dump() for message in asked.messages])


def _differences(record: Record, prompt: Prompt, sample: int) -> list[str]:
    """What the record was asked for instead."""
    found = [
        f"{name} = {getattr(record.sampling, name)!r}"
        for name in Sampling.model_fields
        if name != "n" and getattr(record.sampling, name) != getattr(prompt.sampling, name)
    ]
    return found + ([f"sample = {record.sample}"] if record.sample != sample else [])
