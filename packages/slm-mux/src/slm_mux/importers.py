"""Records out of other people's recordings: CHAMP, and the collect format of the paper's code.

CHAMP (arXiv 2401.06961, MIT): 270 competition problems, GPT-3.5, GPT-4, GPT-4 Turbo and PaLM 2
Medium. The models are not small and the "samples" of a question are its eight prompts that give
nothing of the solution away, not draws at one temperature; records made of it say so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crosslayer.errors import InputError
from crosslayer.fetch import fetch, read_catalogue
from crosslayer.progress import Progress
from slm_mux.canonical import number_key
from slm_mux.records import Recorded, Row

# Hints and partial solutions help, and misleading concepts harm, on purpose.
PROMPTS = (
    "0-Shot",
    "5-Shot",
    "No C w/o H",
    "Direct C w/o H",
    "Example C w/o H",
    "Name C w/o H",
    "Problem C w/o H",
    "Root C w/o H",
)
# What the released code calls the right answer: by benchmark, and what its loader also takes.
GOLD = ("reference_answer", "answer", "correct_answer", "reference")


def champ_file(progress: Progress | None = None) -> Path:
    """CHAMP's file, fetched once and checked. Errors: DependencyError where it cannot be had."""
    text = resources.files("slm_mux").joinpath("assets.toml").read_text("utf-8")
    return fetch("champ", progress, read_catalogue(text))


def champ(file: Path) -> Iterator[Row]:
    """The problems whose answer is one number, as records: the sentence in which each model sums up
    its solution, once a prompt. Errors: InputError for another file.
    """
    data = _json(file)
    try:
        problems = data["problems"].items()
        for name, problem in problems:
            gold = _one_number(problem["_answer"])
            if gold is None:
                continue
            conversations = problem["conversations"]
            for model in dict.fromkeys(key.rpartition("|")[0] for key in conversations):
                samples = tuple(
                    Recorded(text=conversations[f"{model}|{prompt}"]["messages"][-1]["text"])
                    for prompt in PROMPTS
                )
                yield Row(model=model, qid=name, gold=gold, samples=samples, prompt_id="champ")
    except (AttributeError, KeyError, IndexError, TypeError, ValidationError) as error:
        raise InputError(f"{file}: is not CHAMP's v0.json: {error!r}") from error


def _one_number(gold: str) -> str | None:
    """The number that a gold answer is: "239", "C(10, 5), or equivalently 252", "98 values"."""
    for part in re.split(r",? or equivalently ", gold):
        plain = re.sub(r"\s*(?:\(i\.e\.,[^)]*\)|values|inequalities)$", "", part.strip())
        if number_key(plain) is not None:
            return plain
    return None


def collect_format(file: Path) -> Iterator[Row]:
    """Records of the JSON that the released code's `collect` writes: responses, each with a
    question, a reference answer and samples.

    Questions have no ids there: a hash of the question's words and choices is one, so that the
    files of several models meet. Texts are kept and read anew; an extracted answer counts only
    where there is no text (theirs reads "#### 1,234" as 1). The model's name is taken from the
    file's content, never made from its name. Errors: InputError naming what is missing or twice.
    """
    data = _json(file)
    data = data if isinstance(data, dict) else {}
    model, responses = data.get("model"), _first(data, "responses", "results")
    if not isinstance(model, str) or not isinstance(responses, list):
        raise InputError(f"{file}: needs 'model', a name, and 'responses', a list")
    places: dict[str, str] = {}
    for i, response in enumerate(responses):
        where = f"{file}: responses[{i}]"
        if not isinstance(response, dict):
            raise InputError(f"{where} is no object")
        qid, gold = _qid(response), _first(response, *GOLD)
        samples = response.get("samples")
        if qid is None or gold is None or not isinstance(samples, list) or not samples:
            raise InputError(
                f"{where} needs a question or an id, a reference answer ({', '.join(GOLD)}) and"
                " samples"
            )
        if places.setdefault(qid, where) != where:
            raise InputError(f"{where} is the question of {places[qid]} again")
        read = tuple(_sample(f"{where}.samples[{j}]", one) for j, one in enumerate(samples))
        try:
            row = Row(
                model=model, qid=qid, gold=_final(str(gold)), samples=read,
                temperature=data.get("temperature"),
            )  # fmt: skip
        except ValidationError as error:
            raise _no_record(where, error) from None
        yield row


def _qid(response: dict[str, Any]) -> str | None:
    own = _first(response, "id", "question_id", "unique_id")
    if own is not None:
        return str(own)
    words = _first(response, "question", "problem", "prompt")
    if words is None:
        return None
    asked = json.dumps([words, response.get("choices")])
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _sample(where: str, one: Any) -> Recorded:
    if not isinstance(one, dict):
        raise InputError(f"{where} is no object")
    text = _first(one, "model_response", "response")
    answer = _first(one, "extracted_answer", "extracted") if text is None else None
    usage = one.get("token_usage")
    counts = usage if isinstance(usage, dict) else {}
    try:
        return Recorded(
            text=None if text is None else str(text),
            answer=None if answer in (None, "") else str(answer),
            tokens_in=counts.get("prompt_tokens"),
            tokens_out=counts.get("completion_tokens"),
        )
    except ValidationError as error:
        raise _no_record(where, error) from None


def _no_record(where: str, error: ValidationError) -> InputError:
    first = error.errors(include_url=False)[0]
    return InputError(
        f"{where} makes no record: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    )


def _final(gold: str) -> str:
    """GSM8K keeps the whole worked solution; what follows "####" is the answer."""
    return gold.rpartition("####")[2].strip()


def _first(row: dict[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: cannot be read as JSON: {error}") from error
