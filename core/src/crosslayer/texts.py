"""Texts to calibrate and to evaluate on, split so that one never sees the other.

`wikipedia-sample` is real Wikipedia prose out of an asset (see `crosslayer.fetch`); anything else
is a UTF-8 text file. A text is a list of articles: even ones are for calibration, odd ones for
evaluation. A file has no articles, so it is cut at blank lines into pieces of about 8,000
characters, at least two, and the pieces alternate.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from crosslayer.errors import InputError, nearest
from crosslayer.fetch import catalogue, fetch
from crosslayer.places import cache_dir
from crosslayer.progress import Progress
from crosslayer.stored import stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split = Literal["all", "calibration", "evaluation"]
TEXTS = ("wikipedia-sample",)
SHORTEST_ARTICLE = 3000  # characters: shorter pages are lists of meanings and stubs
PIECE = 8000  # characters of a plain file that stand for an article
PARSER = 1  # counts up when `wikitext` gives other words for the same pages


class Article(NamedTuple):
    """A title and its prose."""

    title: str
    text: str


def articles(
    name_or_path: str | os.PathLike[str], split: Split = "all", progress: Progress | None = None
) -> tuple[Article, ...]:
    """The articles of a named text, or the pieces of a text file (from the working directory).

    split: "calibration" is every article with an even index, "evaluation" every one with an odd
    index.
    Errors: InputError for an unknown name, a missing, empty or undecodable file; DependencyError
    when the named text is not in the cache and cannot be fetched.
    """
    name = os.fspath(name_or_path)
    if name in TEXTS:
        found = _wikipedia_sample(fetch(name, progress), progress or Progress())
    else:
        found = _pieces(Path(name))
    if split == "all":
        return found
    if split not in ("calibration", "evaluation"):
        raise InputError(
            f"no split {split!r}; {nearest(split, ('all', 'calibration', 'evaluation'))}"
        )
    return found[0 if split == "calibration" else 1 :: 2]


def token_windows(
    tokenizer: Any,
    text: str | os.PathLike[str],
    split: Split,
    tokens: int,
    window: int,
    seed: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """Token ids [tokens // window, window]; no window crosses from one article into another.

    Every article gives its first window before any gives its second, so that few windows still come
    from many articles: in order, or with a seed in a seeded order. A window starts with the
    tokenizer's beginning-of-text token if that tokenizer puts one, and takes no other special
    token.
    Errors: InputError where the text holds too few windows, saying how many there are.
    """
    import numpy as np

    wanted = tokens // window
    if window < 2 or wanted < 1:
        raise InputError(
            f"{tokens} tokens in windows of {window}: a window needs two tokens or more, and one "
            "window must fit"
        )
    chosen = list(articles(text, split, progress))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(chosen))
        chosen = [chosen[i] for i in order]
    begin = [
        token
        for token in tokenizer("")["input_ids"]
        if token == getattr(tokenizer, "bos_token_id", None)
    ]
    room = window - len(begin)

    ids: list[list[int]] = []  # of each article, tokenised when its first window is due
    windows: list[list[int]] = []
    for turn in range(wanted):
        before = len(windows)
        for i, article in enumerate(chosen):
            if turn == 0:
                # A token has at most a few dozen characters, so this prefix surely holds the
                # windows that can be asked of it; long articles need not be tokenised whole for a
                # short evaluation.
                head = article.text[: 40 * window * wanted]
                ids.append(
                    list(tokenizer(head, add_special_tokens=False, verbose=False)["input_ids"])
                )
            piece = ids[i][turn * room : (turn + 1) * room]
            if len(piece) == room:
                windows.append(begin + piece)
            if len(windows) == wanted:
                return np.array(windows, dtype=np.int64)
        if len(windows) == before:
            break
    fewer = f"ask for {len(windows) * window} tokens or fewer, or " if windows else "ask "
    raise InputError(
        f"text {os.fspath(text)!r} ({split}) holds {windows_text(len(windows), window)} in "
        f"{len(chosen)} article{'s' * (len(chosen) != 1)}, {wanted} are asked for; {fewer}"
        "for shorter windows"
    )


def windows_text(count: int, tokens: int) -> str:
    """ "1 window of 256 tokens", "8 windows of 256 tokens"."""
    return f"{count} window{'s' * (count != 1)} of {tokens} tokens"


def text_file(name: str, folder: Path) -> Path | None:
    """The file that `name` means, from `folder`; None for a built-in text.

    Errors: InputError with the nearest name where there is no such text, or no text in the file.
    """
    if name in TEXTS:
        return None
    path = folder / Path(name).expanduser()
    if not path.is_file():
        hint = nearest(name, _texts_near(path, name))
        if path.is_dir():
            raise InputError(f"{name!r} is a directory, not a text; {hint}")
        raise InputError(f"no text or file is called {name!r} (looked in {folder}); {hint}")
    _pieces(path)
    return path


def _texts_near(path: Path, name: str) -> list[str]:
    """What `name` could have meant: the built-in texts, and files of its kind beside it."""
    beside = path.parent.glob(f"*{path.suffix}") if path.suffix and path.parent.is_dir() else ()
    start = name.removesuffix(path.name)
    return [*TEXTS, *(start + file.name for file in beside if file.is_file())]


@lru_cache(maxsize=1)
def _read_parsed(path: Path) -> tuple[Article, ...]:
    rows = json.loads(path.read_text("utf-8"))
    return tuple(Article(title, text) for title, text in rows)


def _wikipedia_sample(export: Path, progress: Progress) -> tuple[Article, ...]:
    """Parsed once, then read from JSON, which is named by the parser and the bytes it read."""
    from crosslayer.wikitext import pages

    sha256 = catalogue()["wikipedia-sample"].member_sha256
    key = hashlib.sha256(f"{PARSER} {SHORTEST_ARTICLE} {sha256}".encode()).hexdigest()[:12]

    def parse(path: Path) -> None:
        progress.say("wikipedia-sample: taking the markup off, once")
        rows = [page for page in pages(export) if len(page[1]) > SHORTEST_ARTICLE]
        path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")

    target = cache_dir("texts", f"wikipedia-sample-{key}.json")
    return _read_parsed(stored(target, parse, progress, "wikipedia-sample"))


def _pieces(path: Path) -> tuple[Article, ...]:
    """A text file cut at blank lines into pieces of about PIECE characters, at least two."""
    if not path.is_file():
        raise InputError(f"no text or file is called {str(path)!r}; {nearest(str(path), TEXTS)}")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}); convert it first"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    paragraphs = [part.strip() for part in text.replace("\r\n", "\n").split("\n\n") if part.strip()]
    if not paragraphs:
        raise InputError(f"{path} holds no text")
    size = min(PIECE, -(-len(text) // 2))
    pieces: list[list[str]] = [[]]
    for paragraph in paragraphs:
        if sum(map(len, pieces[-1])) >= size:
            pieces.append([])
        pieces[-1].append(paragraph)
    if len(pieces) == 1 and len(paragraphs) > 1:
        pieces = [paragraphs[:-1], paragraphs[-1:]]
    return tuple(
        Article(f"{path.name}, piece {i + 1}", "\n\n".join(piece)) for i, piece in enumerate(pieces)
    )
