"""A component that a pipeline names, with its parameters checked and the files it reads found."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import BaseModel

from crosslayer.errors import InputError
from crosslayer.parameters import NamesText, ParameterErrors
from crosslayer.registry import Registered, Registry, kind_label

DIRECTORY = "directory"  # the model component that `use = "./folder"` stands for


@dataclass(frozen=True)
class Part:
    """A component and its parameters. values: as the registry takes them, paths to read made
    absolute.

    reads: the files and folders that parameters name, by parameter.
    """

    kind: str
    use: str
    found: Registered
    params: BaseModel | None
    values: Mapping[str, Any]
    reads: tuple[tuple[str, Path], ...] = ()

    @property
    def name(self) -> str:
        """The component's name, without a preset."""
        return self.found.component.name

    @property
    def label(self) -> str:
        """Kind and name in words: "model transform 'flow'"."""
        return f"{kind_label(self.kind)} {self.name!r}"

    def settings(self) -> dict[str, Any]:
        """Every parameter as JSON values, defaults filled in."""
        return {} if self.params is None else self.params.model_dump(mode="json")

    def needs_live(self, default: bool) -> bool:
        """Whether it works on a live model only: the class attribute `needs_live` of its
        parameters.
        """
        return bool(getattr(self.params, "needs_live", default))

    def build(self, registry: Registry) -> Any:
        """The component itself."""
        return registry.build(self.kind, self.use, self.values)


def resolve(
    registry: Registry, kind: str, use: str, values: Mapping[str, Any], folder: Path
) -> Part:
    """The component of that name with these parameters; paths in them start at `folder`.

    A parameter of type Path is read: it must exist. One whose field says
    `json_schema_extra={"writes": True}` is written, and stays inside the run directory. One of type
    `TextName` names a built-in text or a text file. Errors: InputError, ParameterErrors,
    DependencyError.
    """
    if kind == "model" and use[:1] in "./~" and DIRECTORY in registry.components("model"):
        if not (folder / Path(use).expanduser()).is_dir():
            raise InputError(f"there is no model folder {use!r} (looked in {folder})")
        use, values = DIRECTORY, {**values, "path": use}
    found = registry.get(kind, use)
    params = registry.parameters(kind, use, values)
    if params is None:
        return Part(kind, use, found, None, dict(values))
    problems, reads, changed = [], [], dict(values)
    for name, use_of_path in path_fields(type(params)):
        value = getattr(params, name)
        if value is None:
            continue
        if use_of_path == "writes":
            pure = PurePath(value)
            if pure.is_absolute() or ".." in pure.parts:
                problems.append(
                    ((name,), f"{str(value)!r} leaves the run directory; write a path inside it")
                )
            continue
        path = folder / Path(value).expanduser()
        if use_of_path == "text":
            from crosslayer.texts import text_file

            try:
                if text_file(value, folder) is None:
                    continue
            except InputError as error:
                problems.append(((name,), str(error)))
        elif not path.exists():
            problems.append(((name,), f"there is no file {str(value)!r} (looked in {folder})"))
        reads.append((name, path))
        changed[name] = str(path)
    if problems:
        raise ParameterErrors(f"{kind_label(kind)} {found.component.name!r}", tuple(problems))
    if reads:
        params = registry.parameters(kind, use, changed)
    return Part(kind, use, found, params, changed, tuple(reads))


def path_fields(model: type[BaseModel]) -> Iterator[tuple[str, Literal["reads", "writes", "text"]]]:
    """The parameters that are paths: to read, to write, or the name of a text."""
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("writes"):
            yield name, "writes"
        elif _holds_path(field.annotation):
            yield name, "reads"
        elif any(isinstance(one, NamesText) for one in _marks(field.annotation, field.metadata)):
            yield name, "text"


def _marks(annotation: Any, found: Sequence[Any]) -> Iterator[Any]:
    """What a field's type is annotated with, inside "or none" too."""
    yield from found
    for inner in typing.get_args(annotation):
        yield from _marks(inner, getattr(inner, "__metadata__", ()))


def _holds_path(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return True
    return any(_holds_path(inner) for inner in typing.get_args(annotation))
