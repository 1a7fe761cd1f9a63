"""CSV files with a known header, read as columns; what is wrong is named with file and line."""

from __future__ import annotations

import csv
import lzma
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from crosslayer.errors import InputError

LONGEST_KERNEL_S = 1e3  # a kernel that takes longer was not measured in the unit of its column
Columns = list[tuple[str, Callable[[str], Any]]]  # names, and what reads their cells


def whole(text: str) -> int:
    """A whole number, not negative and below 2**53; "12.0" counts as one."""
    value = float(text)
    if not 0 <= value < 1 << 53 or value != int(value):
        raise ValueError
    return int(value)


def number(text: str) -> float:
    """A finite number, not negative."""
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError
    return value


def at_most(most: float) -> Callable[[str], float]:
    """Reads a number from 0 to `most`."""

    def read(text: str) -> float:
        value = number(text)
        if value > most:
            raise ValueError
        return value

    return read


def signed(text: str) -> float:
    """A finite number of either sign."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def packed(folder: Path, name: str) -> Path | None:
    """The table of that name in the folder, plain or packed (xz); None: there is none."""
    places = (folder / f"{name}.csv", folder / f"{name}.csv.xz")
    return next((path for path in places if path.is_file()), None)


def opened(path: Path) -> IO[str]:
    """The text of a file that may be packed, less the byte order mark that spreadsheets write.

    Errors: InputError for one that cannot be opened.
    """
    try:
        if path.suffix == ".xz":
            return lzma.open(path, "rt", encoding="utf-8-sig", newline="")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def header(path: Path) -> list[str]:
    """The names of a file's columns. Errors: InputError for one that cannot be read."""
    try:
        with opened(path) as stream:
            return next(csv.reader(stream), [])
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text: {error.reason}") from None
    except csv.Error as error:
        raise InputError(f"{path}:1: is no CSV: {error}") from None


def rows(
    path: Path, columns: Sequence[tuple[str, Callable[[str], Any]]]
) -> Iterator[tuple[int, list[Any]]]:
    """(line, values) of each row. Errors: InputError for a file that cannot be read, a column that
    is missing, a row that is cut off, a value that its reader refuses.
    """
    with opened(path) as stream:
        reader = csv.reader(stream)
        try:
            header = next(reader, [])
            names = [name for name, _ in columns]
            missing = [name for name in names if name not in header]
            if missing:
                raise InputError(
                    f"{path}:1: the column {missing[0]!r} is missing; a header with"
                    f" {','.join(names)} is needed"
                )
            places = [(header.index(name), name, read) for name, read in columns]
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    how = "cut off" if len(cells) < len(header) else "too long"
                    raise InputError(
                        f"{path}:{reader.line_num}: the row has {len(cells)} cells, not"
                        f" {len(header)}: it is {how}"
                    )
                made = []
                for place, name, read in places:
                    try:
                        made.append(read(cells[place]))
                    except (ValueError, OverflowError):
                        raise InputError(
                            f"{path}:{reader.line_num}: {name} is {cells[place]!r}, which is not"
                            " possible there"
                        ) from None
                yield reader.line_num, made
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is no UTF-8 text: {error.reason}") from None
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: is no CSV: {error}") from None
        except (lzma.LZMAError, EOFError) as error:
            raise InputError(f"{path}: is no whole xz file: {error}") from None
