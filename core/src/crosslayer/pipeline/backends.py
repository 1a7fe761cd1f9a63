"""[[backend]] and [pool]: who may be asked, who asks them what, and how they are opened.

A pool member is an instance, a backend, or both: then the instance says what a call costs and the
backend of the same name what it says. A live model speaks for its instance by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslayer.backends.components import BACKENDS
from crosslayer.errors import InputError, nearest
from crosslayer.pipeline.parts import Part, resolve
from crosslayer.pipeline.schema import Backend, Pipeline
from crosslayer.registry import Origin, Registered, Registry

if TYPE_CHECKING:
    from crosslayer.backends.protocol import TextBackend
    from crosslayer.contracts.serving import Pool
    from crosslayer.kinds import Instance


class _Backends(Registry):
    """The core's backends, looked up and built as components are."""

    def get(self, kind: str, use: str) -> Registered:
        if use not in BACKENDS:
            raise InputError(f"no backend {use!r}; {nearest(use, BACKENDS)}")
        from crosslayer.discovery import core_version

        origin = Origin("crosslayer", "crosslayer", core_version(), "")
        return Registered("backend", BACKENDS[use], origin)


def backend_part(table: Backend, folder: Path) -> Part:
    """The backend of a table, its parameters checked. Errors: InputError, ParameterErrors."""
    return resolve(_Backends(), "backend", table.use, table.params, folder)


def build_backend(part: Part) -> TextBackend | None:
    """The backend itself; None for one that needs a live model. Errors: DependencyError, and
    InputError for a recording that cannot be read.
    """
    if part.use == "transformers":
        return None
    backend: TextBackend = part.build(_Backends())
    return backend


def callable_names(pipeline: Pipeline) -> tuple[str, ...]:
    """Everyone who can be a member, the instances first."""
    instances = (one.name for one in pipeline.placed() if one.name and one.role == "any")
    return tuple(dict.fromkeys([*instances, *(table.name for table in pipeline.backends)]))


def member_names(pipeline: Pipeline) -> tuple[str, ...]:
    """The pool's members in order: as [pool] says, else everyone."""
    return (pipeline.pool and pipeline.pool.members) or callable_names(pipeline)


def wordless(pipeline: Pipeline, live: set[str]) -> Iterator[str]:
    """Members that nobody speaks for; live: names of the models with weights."""
    spoken = {table.name for table in pipeline.backends}
    spoken |= {one.name for one in pipeline.placed() if one.name and one.model in live}
    return (name for name in member_names(pipeline) if name not in spoken)


def speakers(
    pipeline: Pipeline, parts: Mapping[str, Part], instances: tuple[Instance, ...]
) -> dict[str, TextBackend]:
    """What each member says, by name; a member without words is left out. Nothing is opened yet.

    parts: of the [[backend]] tables by name.
    """
    from crosslayer.backends.transformers import TransformersBackend

    by_name = {instance.name: instance for instance in instances}
    found: dict[str, TextBackend] = {}
    for name in member_names(pipeline):
        part = parts.get(name)
        built = build_backend(part) if part is not None else None
        if built is not None:
            found[name] = built
            continue
        settings: Any = part and part.params
        speaker = by_name.get(settings.instance if settings else name)
        if speaker is not None and speaker.model.live is not None:
            rows = settings.rows if settings else 16
            found[name] = TransformersBackend(speaker.model.live, name, rows=rows)
    return found


def pool_of(pipeline: Pipeline, instances: tuple[Instance, ...], network: Any) -> Pool | None:
    """The members with what is known of them: spec, predicted seconds, measured quality; None for
    nobody.
    """
    from crosslayer.call_service import stack_pool
    from crosslayer.contracts.serving import Pool, PoolMember, Quality
    from crosslayer.kinds import Stack

    names = member_names(pipeline)
    if not names:
        return None
    tables = pipeline.pool.quality if pipeline.pool else {}
    quality = {name: Quality(**table.model_dump()) for name, table in tables.items()}
    placed = tuple(one for one in instances if one.name in names)
    priced = stack_pool(Stack(placed, network=network), quality).members if placed else ()
    known = {member.name: member for member in priced}
    members = [
        known.get(name) or PoolMember(name=name, quality=quality.get(name)) for name in names
    ]
    return Pool(members=tuple(members))


def placed_pool(pool: Pool | None, instances: tuple[Instance, ...]) -> Pool | None:
    """The members that a simulator can run: those with an instance."""
    if pool is None:
        return None
    names = {instance.name for instance in instances}
    members = tuple(member for member in pool.members if member.name in names)
    return pool.replace(members=members) if members else None
