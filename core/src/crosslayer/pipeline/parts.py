"""A component that a pipeline names, with its parameters checked and the files it reads found."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel

from crosslayer.parameters import ParameterErrors
from crosslayer.registry import Registered, Registry, kind_label


@dataclass(frozen=True)
class Part:
    """A component and its parameters. values: as the registry takes them, paths to read made absolute.

    reads: files and folders that a parameter names.
    """

    kind: str
    use: str
    found: Registered
    params: BaseModel | None
    values: Mapping[str, Any]
    reads: tuple[Path, ...] = ()

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
        """Whether it works on a live model only: the class attribute `needs_live` of its parameters."""
        return bool(getattr(self.params, "needs_live", default))

    def build(self, registry: Registry) -> Any:
        """The component itself."""
        return registry.build(self.kind, self.use, self.values)


def resolve(registry: Registry, kind: str, use: str, values: Mapping[str, Any], folder: Path) -> Part:
    """The component of that name with these parameters; paths in them start at `folder`.

    A parameter of type Path is read: it must exist. One whose field says `json_schema_extra={"writes": True}` is
    written, and stays inside the run directory. Errors: InputError, ParameterErrors, DependencyError.
    """
    found = registry.get(kind, use)
    params = registry.parameters(kind, use, values)
    if params is None:
        return Part(kind, use, found, None, dict(values))
    problems, reads, changed = [], [], dict(values)
    for name, writes in path_fields(type(params)):
        value = getattr(params, name)
        if value is None:
            continue
        if writes:
            pure = PurePath(value)
            if pure.is_absolute() or ".." in pure.parts:
                problems.append(((name,), f"{str(value)!r} leaves the run directory; write a path inside it"))
            continue
        path = folder / Path(value).expanduser()
        if not path.exists():
            problems.append(((name,), f"there is no file {str(value)!r} (looked in {folder})"))
        reads.append(path)
        changed[name] = str(path)
    if problems:
        raise ParameterErrors(f"{kind_label(kind)} {found.component.name!r}", tuple(problems))
    if reads:
        params = registry.parameters(kind, use, changed)
    return Part(kind, use, found, params, changed, tuple(reads))


def path_fields(model: type[BaseModel]) -> Iterator[tuple[str, bool]]:
    """The parameters of type Path, each with whether it is written."""
    for name, field in model.model_fields.items():
        if _holds_path(field.annotation):
            extra = field.json_schema_extra
            yield name, isinstance(extra, dict) and bool(extra.get("writes"))


def _holds_path(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return True
    return any(_holds_path(inner) for inner in typing.get_args(annotation))
