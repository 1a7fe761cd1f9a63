"""Writes a trace as a file of any known format, and says what that format cannot hold."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from crosslayer.contracts.calls import NANOSECONDS
from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import InputError
from crosslayer.traces import formats

ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)  # of written dates: a trace knows no date of its own
_HOLDS = {
    "azure-llm": (),
    "burstgpt": ("model", "session", "slo_class"),
    "mooncake": ("prefix",),
}
_FIELDS = ("ids", "deadline_ns", "session", "slo_class", "model", "prefix")


def left_out(trace: RequestTrace, format: str) -> tuple[str, ...]:
    """The fields of this trace that the format has no place for."""
    if format == "crosslayer":
        return ()
    holds = _HOLDS[formats.check_format(format)]
    fields = [one for one in _FIELDS if getattr(trace, one) is not None and one not in holds]
    return (*fields, *(("details of requests",) if trace.whole and any(trace.whole) else ()))


def default_format(path: str | Path) -> str:
    """The format that a file's name asks for: azure-llm for .csv, our own for the rest."""
    return "azure-llm" if Path(path).name.removesuffix(".gz").endswith(".csv") else "crosslayer"


def write_trace(trace: RequestTrace, path: str | Path, format: str | None = None) -> None:
    """Write the trace; a name that ends in .gz is packed. The file appears when it is whole.

    format: one of `FORMATS`; None: see `default_format`. Fields that the format cannot hold are
    left out (`left_out` names them). Errors: InputError for a request that the format cannot say
    at all (several calls, an unknown output length, blocks that are not Mooncake's 512 tokens), and
    for a place that cannot be written.
    """
    target = Path(path)
    name = formats.check_format(format or default_format(target))
    if name != "crosslayer":
        _check_plain(trace, name)
    if name == "mooncake" and trace.prefix is not None:
        block = trace.prefix.block_tokens
        if block != formats.MOONCAKE_BLOCK_TOKENS:
            raise InputError(
                f"format mooncake: prefix blocks have {formats.MOONCAKE_BLOCK_TOKENS} tokens,"
                f" those of this trace {block}; write the format crosslayer"
            )
    writers: dict[str, Callable[[RequestTrace, IO[str]], None]] = {
        "azure-llm": _azure, "burstgpt": _burstgpt, "mooncake": _mooncake, "crosslayer": _own,
    }  # fmt: skip
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as raw:
            # A fixed time in the header, so that the same trace gives the same bytes.
            packed = gzip.GzipFile("", "wb", 6, raw, mtime=0) if target.suffix == ".gz" else raw
            text = io.TextIOWrapper(packed, encoding="utf-8", newline="")
            writers[name](trace, text)
            text.flush()
            text.detach()
            if packed is not raw:
                packed.close()
        os.replace(part, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _check_plain(trace: RequestTrace, format: str) -> None:
    way = "write the format crosslayer, which holds all"
    if len(trace.prompt_tokens) != len(trace):
        raise InputError(f"format {format}: a request is one model call, not several; {way}")
    if (trace.output_tokens < 0).any():
        row = int((trace.output_tokens < 0).argmax())
        raise InputError(f"format {format}: request {trace.id(row)!r} has no output length; {way}")


def _azure(trace: RequestTrace, out: IO[str]) -> None:
    out.write(",".join(formats.AZURE.header) + "\n")
    seconds: dict[int, str] = {}
    for at, prompt, output in _calls(trace):
        second, nanos = divmod(at, NANOSECONDS)
        if second not in seconds:
            seconds = {second: _date(second)}
        # Seven digits as in the 2023 release; nine where they would not be exact.
        fraction = f"{nanos // 100:07}" if nanos % 100 == 0 else f"{nanos:09}"
        out.write(f"{seconds[second]}.{fraction},{prompt},{output}\n")


def _date(second: int) -> str:
    try:
        return (ORIGIN + timedelta(seconds=second)).strftime("%Y-%m-%d %H:%M:%S")
    except OverflowError:
        raise InputError(
            f"format azure-llm: an arrival {second} s after the start has no date"
        ) from None


def _burstgpt(trace: RequestTrace, out: IO[str]) -> None:
    sessions = trace.session is not None
    layout = formats.BURSTGPT_SESSIONS if sessions else formats.BURSTGPT
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(layout.header)
    for row, (at, prompt, output) in enumerate(_calls(trace)):
        # Elapsed time is what a run measured; a trace of requests does not know it.
        session = [trace.session.at(row) or "", ""] if trace.session is not None else []
        model = trace.model.at(row) if trace.model is not None else None
        kind = trace.slo_class.at(row) if trace.slo_class is not None else None
        head = [decimal(at, NANOSECONDS), *session, model or ""]
        writer.writerow([*head, prompt, output, prompt + output, kind or ""])


def _mooncake(trace: RequestTrace, out: IO[str]) -> None:
    prefix = trace.prefix
    for row, (at, prompt, output) in enumerate(_calls(trace)):
        ids: list[int] = []
        if prefix is not None:
            ids = prefix.hashes[prefix.offsets[row] : prefix.offsets[row + 1]].tolist()
        time = decimal(at, 1_000_000)
        out.write(
            f'{{"timestamp": {time}, "input_length": {prompt}, "output_length": {output},'
            f' "hash_ids": {ids}}}\n'
        )


def _own(trace: RequestTrace, out: IO[str]) -> None:
    head = {formats.OWN_KEY: formats.OWN_VERSION} | ({"recorded": True} if trace.recorded else {})
    out.write(json.dumps(head) + "\n")
    first = trace.first_call
    for row in range(len(trace)):
        whole = trace.whole[row] if trace.whole is not None else None
        call = int(first[row])
        value = _plain(trace, row, call) if whole is None else None
        if value is None:
            request = trace.request(row)
            value = {"request": request.model_dump(mode="json", exclude_defaults=True)}
        out.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def _plain(trace: RequestTrace, row: int, call: int) -> dict[str, Any] | None:
    """A request of one plain call as a flat object; None where an empty name needs the other."""
    value: dict[str, Any] = {
        "arrival_ns": int(trace.arrival_ns[row]),
        "prompt_tokens": int(trace.prompt_tokens[call]),
    }
    if trace.output_tokens[call] >= 0:
        value["output_tokens"] = int(trace.output_tokens[call])
    if trace.ids is not None:
        value["id"] = trace.ids[row]
    if trace.deadline_ns is not None and trace.deadline_ns[row] >= 0:
        value["deadline_ns"] = int(trace.deadline_ns[row])
    for name, at in (("session", row), ("slo_class", row), ("model", call)):
        labels = getattr(trace, name)
        label = labels.at(at) if labels is not None else None
        if label == "":
            return None
        if label is not None:
            value[name] = label
    prefix = trace.prefix
    if prefix is not None and prefix.offsets[call] < prefix.offsets[call + 1]:
        found = prefix.hashes[prefix.offsets[call] : prefix.offsets[call + 1]]
        value["prefix"] = {"block_tokens": prefix.block_tokens, "hashes": found.tolist()}
    return value


def _calls(trace: RequestTrace) -> Iterator[tuple[int, int, int]]:
    """(arrival, prompt, output) of each request of one call, a block of rows at a time."""
    for start in range(0, len(trace), 65536):
        rows = slice(start, start + 65536)
        columns = (trace.arrival_ns, trace.prompt_tokens, trace.output_tokens)
        yield from zip(*(column[rows].tolist() for column in columns), strict=True)


def decimal(nanoseconds: int, unit: int) -> str:
    """Nanoseconds in a larger unit (10^6 or 10^9 of them), exactly; no dot where it is whole."""
    before, after = divmod(nanoseconds, unit)
    digits = f"{after:0{len(str(unit)) - 1}}".rstrip("0")
    return f"{before}.{digits}" if digits else str(before)
