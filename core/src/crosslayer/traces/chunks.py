"""A trace file as chunks of whole lines: memory does not grow with the file; .gz is unpacked."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from crosslayer.errors import InputError
from crosslayer.traces.problems import refuse

CHUNK_BYTES = 4 << 20
LINE_BYTES = 64 << 20  # no trace has a longer line
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of a file; `first_line` is the number of the first of them, from 1."""

    data: bytes
    first_line: int


def chunks(path: Path) -> Iterator[Chunk]:
    """The file in pieces that end where a line ends.

    Errors: InputError for a file that cannot be opened or read, is empty, is none (a pipe, a
    device), or is a broken gzip file.
    """
    line, rest, empty = 1, b"", True
    with _opened(path) as file, _unpacking(path):
        while piece := file.read(CHUNK_BYTES):
            if empty:
                piece, empty = piece.removeprefix(BOM), False
            end = piece.rfind(b"\n") + 1
            if not end:
                rest += piece
                if len(rest) > LINE_BYTES:
                    raise refuse(str(path), f"the line is longer than {LINE_BYTES >> 20} MB", line)
                continue
            data = rest + piece[:end]
            rest = piece[end:]
            yield Chunk(data, line)
            line += data.count(b"\n")
    if rest:
        yield Chunk(rest, line)
    elif line == 1:
        raise refuse(str(path), "the file is empty; a trace has at least one request")


def first_lines(path: Path) -> tuple[str, int]:
    """The first line that is not blank, and its number. Errors: as `chunks`; TraceErrors if it is
    not UTF-8.
    """
    for chunk in chunks(path):
        for i, raw in enumerate(chunk.data.split(b"\n")):
            if raw.strip():
                return decoded(raw.rstrip(b"\r"), str(path), chunk.first_line + i), (
                    chunk.first_line + i
                )
    raise refuse(str(path), "the file is empty; a trace has at least one request")


def decoded(raw: bytes, file: str, line: int) -> str:
    """A line as text. Errors: TraceErrors that points at the first byte that is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(raw[: error.start].decode("utf-8")) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise refuse(file, message, line, column) from None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path.is_dir():
        raise InputError(f"{path}: is a directory; name the trace file in it")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no regular file; a trace is read twice, so save it as one")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
        else:
            with gzip.open(file) as inner:
                yield inner  # type: ignore[misc]


@contextmanager
def _unpacking(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: broken gzip file: {error}; unpack it anew") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
