"""Typed reading of a config.json: aliases, defaults, and errors that name the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosslayer.contracts.hf_defaults import ALIASES, DEFAULTS
from crosslayer.errors import InputError

_FORMATS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


class Keys:
    """The keys of one config.json; a missing one has its model type's default.

    Every reader raises InputError with the key's name when the value makes no model.
    """

    def __init__(self, config: Mapping[str, Any], model_type: str) -> None:
        self.model_type = model_type
        self._config = config
        self.defaults = DEFAULTS[model_type]
        self._aliases = ALIASES.get(model_type, {})

    def error(self, key: str, problem: str) -> InputError:
        """An InputError that names the model type and the key as the config spells it."""
        return InputError(f"{self.model_type} config: {self._spelled(key)} {problem}")

    def value(self, key: str) -> Any:
        """The value as it stands; None where it is null or has no default."""
        spelled = self._spelled(key)
        if spelled in self._config:
            return self._config[spelled]
        return self.defaults.get(key)

    def integer(self, key: str, low: int = 1) -> int:
        """A whole number of at least `low`."""
        found = self.optional_integer(key, low)
        if found is None:
            raise self.error(key, f"is null; it must be a whole number of at least {low}")
        return found

    def optional_integer(self, key: str, low: int = 1) -> int | None:
        """A whole number of at least `low`, or None for null."""
        value = self.value(key)
        if value is None:
            return None
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < low:
            raise self.error(key, f"is {value!r}; it must be a whole number of at least {low}")
        return int(value)

    def flag(self, key: str) -> bool:
        """true or false."""
        value = self.value(key)
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}; it must be true or false")
        return value

    def text(self, key: str) -> str:
        """A non-empty string."""
        value = self.value(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, f"is {value!r}; it must be a name")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A number from low to high."""
        value = self.value(key)
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if not known or not low <= value <= high:
            raise self.error(key, f"is {value!r}; it must be a number from {low:g} to {high:g}")
        return float(value)

    def integers(self, key: str) -> frozenset[int]:
        """A list of whole numbers; null is the empty one."""
        value = self.value(key) or ()
        if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
            raise self.error(key, f"is {value!r}; it must be a list of whole numbers")
        return frozenset(value)

    def multiple(self, key: str, divisor_key: str) -> int:
        """`key` divided by `divisor_key`, which must divide it."""
        value, divisor = self.integer(key), self.integer(divisor_key)
        if value % divisor:
            other = self._spelled(divisor_key)
            raise self.error(key, f"is {value}, no multiple of {other} {divisor}")
        return value // divisor

    def number_format(self) -> str:
        """The number format of `dtype` (`torch_dtype` in older files); bf16 where neither says."""
        value = self._config.get("dtype") or self._config.get("torch_dtype")
        return _FORMATS.get(str(value).removeprefix("torch."), "bf16")

    def _spelled(self, key: str) -> str:
        alias = self._aliases.get(key)
        return alias if alias is not None and key not in self._config else key
