"""A live model that is made when something first uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crosslayer.kinds import LiveModel


class LazyLive:
    """A LiveModel that `make` gives on first use, and everything else that model offers."""

    def __init__(self, make: Callable[[], LiveModel]) -> None:
        self._make = make
        self._made: LiveModel | None = None

    def opened(self) -> LiveModel:
        """The live model itself."""
        if self._made is None:
            self._made = self._make()
        return self._made

    @property
    def chunk_tokens(self) -> int | None:
        """Tokens a decoding step takes."""
        return self.opened().chunk_tokens

    @chunk_tokens.setter
    def chunk_tokens(self, tokens: int | None) -> None:
        self.opened().chunk_tokens = tokens

    @property
    def module(self) -> Any:
        """The torch module."""
        return self.opened().module

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.opened().tokenizer

    def new_cache(self) -> Any:
        """An empty cache."""
        return self.opened().new_cache()

    def copy(self) -> LiveModel:
        """An independent copy of the live model."""
        return self.opened().copy()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.opened(), name)
