"""Recorded samples: JSON lines, one a model and question, and the table of keys made from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from crosslayer.contracts.base import Value
from crosslayer.errors import InputError, nearest
from slm_mux.extract import Extractor


class Recorded(Value):
    """One sample: what was written, or the answer that a recording kept of it, or neither (it
    failed).
    """

    text: str | None = None
    answer: str | None = None
    tokens_in: int | None = Field(default=None, ge=0)
    tokens_out: int | None = Field(default=None, ge=0)
    latency_s: float | None = Field(default=None, ge=0)


class Row(Value):
    """All samples of one model for one question; gold: the right answer."""

    model: str = Field(min_length=1)
    qid: str = Field(min_length=1)
    gold: str
    samples: tuple[Recorded, ...] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0)
    prompt_id: str | None = None


@dataclass(frozen=True)
class Table:
    """Keys of every sample: keys[model][question][sample], None without an answer; gold[question].

    raw: the same with answers as they were written, for what equivalence is worth.
    """

    models: tuple[str, ...]
    questions: tuple[str, ...]
    gold: tuple[str, ...]
    keys: Mapping[str, tuple[tuple[str | None, ...], ...]]
    raw: Mapping[str, tuple[tuple[str | None, ...], ...]]
    raw_gold: tuple[str, ...]

    @property
    def samples(self) -> int:
        """Samples that every model has of every question."""
        return min(len(keys) for rows in self.keys.values() for keys in rows)

    def keys_of(self, question: int) -> dict[str, tuple[str | None, ...]]:
        """All samples of one question, by model."""
        return {model: self.keys[model][question] for model in self.models}

    def pool(self, models: Sequence[str]) -> Table:
        """The same questions for some models. Errors: InputError for none, or for one that is
        unknown or named twice.
        """
        if not models:
            raise InputError(f"a pool needs one model or more; known: {', '.join(self.models)}")
        for model in models:
            if models.count(model) > 1:
                raise InputError(f"the pool names the model {model!r} twice")
            if model not in self.models:
                raise InputError(
                    f"the records hold no model {model!r}; {nearest(model, self.keys)}"
                )
        kept = tuple(models)
        return Table(
            kept, self.questions, self.gold, {m: self.keys[m] for m in kept},
            {m: self.raw[m] for m in kept}, self.raw_gold,
        )  # fmt: skip


def read_rows(file: Path) -> tuple[Row, ...]:
    """The rows of a file. Errors: InputError with file and line for what is none."""
    try:
        return rows_of(file.read_bytes(), file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error


def rows_of(raw: bytes, file: Path) -> tuple[Row, ...]:
    """The rows in bytes that stand in a file. Errors as of `read_rows`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    rows: list[Row] = []
    lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(Row.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            what = f"{where}: {first['msg']}" if where else first["msg"]
            raise InputError(f"{file}:{number}: is no record: {what}") from None
        key = rows[-1].model, rows[-1].qid
        if lines.setdefault(key, number) != number:
            raise InputError(
                f"{file}:{number}: {key[0]} on question {key[1]!r} is line {lines[key]}'s already"
            )
    if not rows:
        raise InputError(f"{file}: holds no record")
    return tuple(rows)


def write_rows(rows: Iterable[Row], file: Path) -> int:
    """Write rows; how many. Errors: InputError for a row that is there twice, and where the file
    holds something else already: it may have taken hours to record.
    """
    rows = tuple(rows)
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if (row.model, row.qid) in seen:
            raise InputError(f"{row.model} on question {row.qid!r} is there twice")
        seen.add((row.model, row.qid))
    lines = [
        json.dumps(row.model_dump(exclude_none=True), ensure_ascii=False, sort_keys=True) + "\n"
        for row in rows
    ]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(lines).encode()
        if file.exists() and file.read_bytes() != text:
            raise InputError(f"{file}: holds something else already; write to another file")
        part = file.with_name(f"{file.name}.part")
        part.write_bytes(text)
        part.replace(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from error
    return len(lines)


def table(
    rows: Iterable[Row],
    extract: Extractor,
    *,
    alone: Extractor | None = None,
    common: bool = False,
) -> Table:
    """The keys of all samples, models and questions in order of appearance.

    alone: reads gold answers and those that a recording kept; `extract` if left out. common: keep
    the questions that all models have. Errors: InputError where models have different questions
    (and not `common`), two gold answers, or gold answers that cannot be read.
    """
    rows, alone = tuple(rows), alone or extract
    by_model: dict[str, dict[str, Row]] = {}
    gold: dict[str, str] = {}
    for row in rows:
        by_model.setdefault(row.model, {})[row.qid] = row
        if gold.setdefault(row.qid, row.gold) != row.gold:
            raise InputError(f"question {row.qid!r} has two gold answers: {gold[row.qid]!r} and "
                             f"{row.gold!r}")  # fmt: skip
    shared = [qid for qid in gold if all(qid in of for of in by_model.values())]
    if len(shared) < len(gold) and not common:
        counts = ", ".join(f"{model} {len(of)}" for model, of in by_model.items())
        raise InputError(
            f"the models were asked different questions ({counts}, {len(shared)} in common);"
            " evaluate on those by --common, or record the rest"
        )
    if not shared:
        raise InputError("the models have no question in common")
    golds = {qid: alone(gold[qid]) for qid in shared}
    unread = [qid for qid, found in golds.items() if found is None]
    if unread:
        raise InputError(
            f"{len(unread)} gold answers cannot be read by this extractor, the first is"
            f" {gold[unread[0]][:60]!r} of question {unread[0]!r}; choose another extractor"
        )
    keys: dict[str, tuple[tuple[str | None, ...], ...]] = {}
    raw: dict[str, tuple[tuple[str | None, ...], ...]] = {}
    for model, of in by_model.items():
        found = [[_read(sample, extract, alone) for sample in of[qid].samples] for qid in shared]
        keys[model] = tuple(tuple(key for key, _ in one) for one in found)
        raw[model] = tuple(tuple(text for _, text in one) for one in found)
    return Table(
        tuple(by_model), tuple(shared), tuple(one.key for one in golds.values() if one), keys, raw,
        tuple(gold[qid].strip() for qid in shared),
    )  # fmt: skip


def _read(sample: Recorded, extract: Extractor, alone: Extractor) -> tuple[str | None, str | None]:
    if sample.answer is not None:
        found = alone(sample.answer)
    else:
        found = None if sample.text is None else extract(sample.text)
    return (found.key, found.text) if found else (None, None)


def split(questions: Sequence[str], seed: int, share: float = 0.5) -> tuple[list[int], list[int]]:
    """(validation, test): positions of questions, by a hash of seed and question; never both.

    Whatever else a file holds and in which order, a question's hash is the same.
    """
    ranked = sorted(
        range(len(questions)),
        key=lambda i: hashlib.sha256(f"{seed}/{questions[i]}".encode()).digest(),
    )
    cut = round(share * len(questions))
    if not 0 < cut < len(questions):
        raise InputError(
            f"{len(questions)} questions cannot be split into a validation share of {share} and a"
            " rest; both need one question or more"
        )
    return sorted(ranked[:cut]), sorted(ranked[cut:])
