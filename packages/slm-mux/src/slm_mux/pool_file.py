"""A pool file: who answers, and how. TOML, data only.

```toml
k = 3
extractor = "number"

[[member]]
name = "qwen"
accuracy = 0.71
use = "openai"
base_url = "http://127.0.0.1:8000/v1"
model = "qwen2.5-7b-instruct"
```

`use`: openai, replay, smollm2, family (with `member`), or directory (with `path`, a Hugging Face
folder). `system` puts a system message before every conversation. Every other key at the top is a
setting of the engine. [pools] gives names to subsets.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crosslayer.backends.components import BACKENDS
from crosslayer.backends.params import OpenAIParams, ReplayParams
from crosslayer.backends.protocol import TextBackend
from crosslayer.errors import InputError, nearest
from slm_mux.callers import Prompted
from slm_mux.engine import Settings

USES = ("openai", "replay", "smollm2", "family", "directory")


class _Member(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, pattern=r"^[^\s:]+$")
    accuracy: float = Field(ge=0, le=1)
    use: str
    system: str | None = None


class _Pools(BaseModel):
    pools: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]


@dataclass(frozen=True)
class PoolFile:
    """Members' backends by name, the engine's settings, and named pools."""

    backends: Mapping[str, TextBackend]
    settings: Settings
    pools: Mapping[str, tuple[str, ...]]


def read_pool(file: Path) -> PoolFile:
    """The pool of a file. Nothing is opened yet but recordings. Errors: InputError naming file and
    key.
    """
    try:
        data = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file}: cannot be read as TOML: {error}") from error
    return pool_of(data, str(file), file.parent)


def pool_of(data: dict[str, Any], where: str, folder: Path) -> PoolFile:
    """The pool of a parsed file."""
    data = dict(data)
    tables, pools = data.pop("member", []), data.pop("pools", {})
    if not isinstance(tables, list) or not tables:
        raise InputError(f"{where}: needs a [[member]] or more")
    if "accuracies" in data:
        raise InputError(f"{where}: accuracies: each stands under its [[member]], as 'accuracy'")
    backends: dict[str, TextBackend] = {}
    accuracies: dict[str, float] = {}
    for number, table in enumerate(tables):
        place = f"{where}: member {number}"
        member: Any = _valid(_Member, table, place)
        if member.name in backends:
            raise InputError(f"{place}: the name {member.name!r} is used twice")
        backend = _backend(member, dict(member.model_extra), f"{where}: {member.name}", folder)
        if member.system is not None:
            backend = Prompted(backend, member.system, member.name)
        backends[member.name] = backend
        accuracies[member.name] = member.accuracy
    settings: Any = _valid(Settings, {**data, "accuracies": accuracies}, where)
    named: Any = _valid(_Pools, {"pools": pools}, where)
    for name, members in named.pools.items():
        for one in members:
            if one not in backends:
                raise InputError(f"{where}: pool {name!r} names {one!r}; {nearest(one, backends)}")
    return PoolFile(backends, settings, named.pools)


def _valid(model: type[BaseModel], values: Any, where: str) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        known = [name for name in model.model_fields if name != "accuracies"]
        hint = f"; {nearest(key, known)}" if first["type"] == "extra_forbidden" else ""
        raise InputError(f"{where}: {key or 'it'}: {what}{hint}") from None


def _backend(member: Any, values: dict[str, Any], where: str, folder: Path) -> TextBackend:
    use = member.use
    if use in ("openai", "replay"):
        if use == "replay" and isinstance(values.get("file"), str):
            values["file"] = folder / values["file"]
        model: type[BaseModel] = OpenAIParams if use == "openai" else ReplayParams
        params = _valid(model, values, where)
        if use == "openai":
            from crosslayer.backends.openai import OpenAIBackend

            assert isinstance(params, OpenAIParams)
            return OpenAIBackend(params)
        from crosslayer.backends.replay import recorded

        assert isinstance(params, ReplayParams)
        return recorded(params)
    key = {"smollm2": None, "family": "member", "directory": "path"}.get(use, "")
    if key == "":
        raise InputError(f"{where}: no backend {use!r}; {nearest(use, [*USES, *BACKENDS])}")
    unknown = sorted(set(values) - {key})
    if unknown:
        raise InputError(f"{where}: {use} has no key {unknown[0]!r}")
    value = values.get(key) if key else ""
    if not isinstance(value, str):
        raise InputError(f"{where}: {use} needs {key!r}, a text")
    return _live(use, str(folder / value) if use == "directory" else value)


@cache
def _live(use: str, which: str) -> TextBackend:
    """A live model; one that several members name is opened once."""
    from crosslayer.backends.transformers import TransformersBackend
    from crosslayer.live import TransformersModel, require_live_parts

    require_live_parts()
    if use == "smollm2":
        from crosslayer.models.smollm2 import smollm2

        live = smollm2().live
        assert live is not None
        return TransformersBackend(live, "smollm2-135m")
    if use == "family":
        from slm_mux.family import member_folder

        return TransformersBackend(
            TransformersModel.from_directory(member_folder(which)), which, rows=64
        )
    return TransformersBackend(TransformersModel.from_directory(which), Path(which).name)
