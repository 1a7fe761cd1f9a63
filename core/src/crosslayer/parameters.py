"""A component's parameters: check what a pipeline file says, and describe what it may say.

Values are checked as strictly as JSON: a string is no number and 2.0 is no whole number, but a
whole number will do where a float is declared, and a list where a tuple is.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, to_jsonable_python

from crosslayer.errors import InputError, nearest

Key = tuple[str | int, ...]


class NamesText:
    """Marks a parameter whose value names a text: `check` makes sure that it is there."""


# The type of such a parameter: a built-in text (`crosslayer.texts.TEXTS`) or a UTF-8 text file.
TextName = Annotated[str, Field(min_length=1), NamesText()]


class ParameterErrors(InputError):
    """All that is wrong with a component's parameters: (key path, message) each."""

    def __init__(self, owner: str, problems: Iterable[tuple[Key, str]]) -> None:
        self.owner = owner
        self.problems = tuple(problems)
        said = "; ".join(
            f"{dotted(key)}: {message}" if key else message for key, message in self.problems
        )
        super().__init__(f"{owner}: {said}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as `describe` shows it; a nested model's are listed as "outer.inner"."""

    name: str
    type: str
    required: bool
    default: Any
    bounds: str
    description: str

    @property
    def default_text(self) -> str:
        """The default in one short line of JSON; "required", or "none" where it may be left out."""
        if self.default is None:
            return "required" if self.required else "none"
        return _shown(self.default)


def dotted(key: Sequence[str | int]) -> str:
    """A key path as text: "layers[2].keep"."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def validate(
    model: type[BaseModel], values: Mapping[str, Any], owner: str, preset: str | None = None
) -> BaseModel:
    """The parameters from values of a TOML table; every problem at once as ParameterErrors.

    preset: what the `use` of the pipeline ("roofline:a100-80g") says for the parameter `preset`.
    """
    given = dict(values)
    if preset is not None and given.setdefault("preset", preset) != preset:
        message = (
            f"{_shown(given['preset'])} contradicts the preset {preset!r} of `use`; leave one out"
        )
        raise ParameterErrors(owner, [(("preset",), message)])
    try:
        return model.model_validate_json(json.dumps(given, default=_plain), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        raise ParameterErrors(owner, _problems(model, given, details)) from None
    except InputError as error:  # from a validator of the model
        raise ParameterErrors(owner, [((), str(error))]) from error


def _plain(value: Any) -> Any:
    """TOML's dates and times as JSON writes them, and what else a Python caller hands in."""
    return value.isoformat() if hasattr(value, "isoformat") else to_jsonable_python(value)


def _problems(
    model: type[BaseModel], values: Mapping[str, Any], details: Iterable[ErrorDetails]
) -> Iterator[tuple[Key, str]]:
    # The branches of a union report one error each, at paths that end in the branch's name: join
    # them.
    joined: dict[Key, list[str]] = {}
    for detail in details:
        key = _key(values, detail)
        message = _message(model, key, detail)
        if message not in joined.setdefault(key, []):
            joined[key].append(message)
    for key, messages in joined.items():
        said = " or ".join(messages)
        hidden = model.model_config.get("hide_input_in_errors", False)  # it may be a secret
        yield key, said if hidden else _shown_with(values, key, said)


def _key(values: Mapping[str, Any], detail: ErrorDetails) -> Key:
    """The part of a pydantic location that is a path into the values."""
    key: list[str | int] = []
    here: Any = values
    for part in detail["loc"]:
        in_list = isinstance(here, list | tuple) and isinstance(part, int) and part < len(here)
        if in_list or (isinstance(here, Mapping) and part in here):
            here = here[part]
        elif detail["type"] == "missing" and part == detail["loc"][-1]:
            return (*key, part)
        else:
            continue  # the name of a union's branch
        key.append(part)
    return tuple(key)


def _message(model: type[BaseModel], key: Key, detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        owner = _model_at(model, key[:-1])
        return (
            f"unknown key; {nearest(str(key[-1]), owner.model_fields) if owner else 'leave it out'}"
        )
    if detail["type"] == "missing":
        owner = _model_at(model, key[:-1])
        field = owner.model_fields.get(str(key[-1])) if owner else None
        meaning = f" ({type_text(field.annotation)}: {field.description})" if field else ""
        return f"is required{meaning}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message.replace("Input should be", "must be", 1).replace("Input should", "must", 1)


def _shown_with(values: Mapping[str, Any], key: Key, message: str) -> str:
    """The message behind the value it is about: "1.7 must be less than or equal to 1"."""
    if not key or not message.startswith("must "):
        return message
    here: Any = values
    for part in key:
        here = here[part]
    return f"{_shown(here)} {message}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=_plain, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _model_at(model: type[BaseModel], key: Key) -> type[BaseModel] | None:
    """The model that checks the value at a key path, where the annotations say so plainly."""
    here: type[BaseModel] | None = model
    for part in key:
        if isinstance(part, int):
            continue  # an item of a list: its model was found with the list
        field = here.model_fields.get(part) if here else None
        here = _nested(field.annotation) if field else None
    return here


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The one pydantic model inside an annotation; None if there is none or several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = {model for part in typing.get_args(annotation) if (model := _nested(part))}
    return found.pop() if len(found) == 1 else None


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The parameters that have a default, as JSON values."""
    return {
        name: to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}))
        for name, field in model.model_fields.items()
        if not field.is_required()
    }


def describe(model: type[BaseModel], prefix: str = "") -> tuple[Parameter, ...]:
    """Every parameter of a model in the order of its fields, nested models flattened."""
    found: list[Parameter] = []
    for name, field in model.model_fields.items():
        default = None if field.is_required() else defaults(model)[name]
        parameter = Parameter(
            name=f"{prefix}{name}",
            type=type_text(field.annotation),
            required=field.is_required(),
            default=default,
            bounds=_bounds(field),
            description=" ".join((field.description or "").split()),
        )
        found.append(parameter)
        nested = _nested(field.annotation)
        if nested is not None:
            found += describe(nested, f"{prefix}{name}.")
    return tuple(found)


def type_text(annotation: Any) -> str:
    """A type in TOML's words: "whole number", "number", "text", "list of number"."""
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    if annotation in words:
        return words[annotation]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_text(inner[0])
    if origin is typing.Literal:
        return " or ".join(json.dumps(value) for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(part) for part in inner if part is not type(None))
    if origin in (tuple, list, Sequence, set, frozenset) and inner:
        items = dict.fromkeys(type_text(part) for part in inner if part is not Ellipsis)
        return f"list of {', '.join(items)}"
    if origin in (dict, Mapping) or (
        isinstance(annotation, type) and issubclass(annotation, BaseModel)
    ):
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return "path"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(json.dumps(to_jsonable_python(member)) for member in annotation)
    return str(getattr(annotation, "__name__", annotation))


def _number(value: Any) -> str:
    """A bound in full: 16777216, not 1.67772e+07."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return str(int(value)) if whole else str(value)


_SIGNS = (("gt", "> "), ("ge", ">= "), ("lt", "< "), ("le", "<= "), ("multiple_of", "multiple of "))
_SIZES = (
    ("min_length", "at least {} long"),
    ("max_length", "at most {} long"),
    ("pattern", "like {}"),
)


def _bounds(field: FieldInfo) -> str:
    """The constraints of a field: "> 0, <= 1"."""
    texts = []
    for constraint in field.metadata:
        for name, sign in _SIGNS:
            if getattr(constraint, name, None) is not None:
                texts.append(f"{sign}{_number(getattr(constraint, name))}")
        for name, form in _SIZES:
            if getattr(constraint, name, None) is not None:
                texts.append(form.format(getattr(constraint, name)))
    return ", ".join(texts)
