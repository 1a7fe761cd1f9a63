"""Decode a text through a live model's cache in pieces, and see what the cache holds meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from crosslayer.errors import InputError
from crosslayer.evaluators import Forward
from crosslayer.kinds import LiveModel
from crosslayer.progress import Progress
from crosslayer.texts import Split, articles
from thinkv.cache import MethodCache


@dataclass(frozen=True)
class Series:
    """After each piece: tokens read, allocated bytes, tokens alive in a layer, and at the end the
    bytes by kind. nll: of each predicted token, nats; loss[i] is about token i + 1."""

    tokens: list[int]
    bytes_: list[int]
    alive: list[int]
    by_kind: dict[str, int]
    nll: Any


class Ticks:
    """What transformers' `generate` hands its tokens to: a step of progress for each new one."""

    def __init__(self, progress: Progress, tokens: int) -> None:
        self.steps = progress.track(range(tokens), "generating", total=tokens)
        self.prompt = True

    def put(self, _: Any) -> None:
        """The prompt comes first and all at once."""
        if not self.prompt:
            next(self.steps, None)
        self.prompt = False

    def end(self) -> None:
        """No more tokens, also where fewer came than were asked for."""
        for _ in self.steps:
            pass


def text_tokens(
    tokenizer: Any, text: str, split: Split, tokens: int, progress: Progress | None = None
) -> Any:
    """The first tokens [tokens] of the articles of a split, one after another.

    InputError where the split holds fewer.
    """
    found: list[int] = []
    for article in articles(text, split, progress):
        ids = tokenizer(article.text + "\n\n", add_special_tokens=False, verbose=False)
        found += ids["input_ids"]
        if len(found) >= tokens:
            return torch.tensor(found[:tokens])
    raise InputError(
        f"text {text!r} ({split}) holds {len(found)} tokens, {tokens} are asked for; ask for fewer"
    )


def read(
    live: LiveModel,
    ids: Any,
    new_cache: Callable[[], MethodCache] | None = None,
    piece: int = 16,
    progress: Progress | None = None,
    label: str = "decoding",
) -> tuple[MethodCache, Series]:
    """Feed ids [n] in pieces and keep what the cache held; None: the live model's own cache."""
    forward = Forward(live.module)
    cache = live.new_cache() if new_cache is None else new_cache()
    series: dict[str, list[int]] = {"tokens": [], "bytes_": [], "alive": []}
    nll = []
    starts: Sequence[int] = range(0, len(ids), piece)
    with torch.inference_mode():
        for start in (progress or Progress()).track(starts, label, total=len(starts)):
            part = ids[start : start + piece]
            logits = forward(part, start, cache)
            wanted = ids[start + 1 : start + 1 + len(part)]
            nll.append(
                torch.nn.functional.cross_entropy(logits[: len(wanted)], wanted, reduction="none")
            )
            cache.settle()
            series["tokens"].append(start + len(part))
            series["bytes_"].append(sum(cache.bytes().values()))
            series["alive"].append(cache.rows[0].physical)
    return cache, Series(**series, by_kind=cache.bytes(), nll=torch.cat(nll))
