"""The trial before a run: every transform on the spec alone, the result lowered and offered to the
accelerators.

Nothing is opened and nothing is written but a temporary folder, which goes away. So an op that no
accelerator prices, a pattern that does not fit a layer or a missing dependency shows before the
first minute is spent. Tables with problems are left out; what is found then says so where it may
depend on them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslayer import kinds
from crosslayer.errors import CrosslayerError, InputError, UnsupportedOp
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.pipeline.backends import build_backend, wordless
from crosslayer.pipeline.parts import Part
from crosslayer.pipeline.schema import Instance, Pipeline
from crosslayer.pipeline.source import Problem, Source, key_text
from crosslayer.pipeline.tables import Found
from crosslayer.pipeline.toml_lines import KeyPath
from crosslayer.pipeline.topology import topology_of
from crosslayer.pipeline.workload import Workload
from crosslayer.registry import Registry

if TYPE_CHECKING:
    from crosslayer.contracts.network import Topology

Parts = Mapping[KeyPath, Part]


def trial(
    source: Source, found: Found, pipeline: Pipeline, parts: Parts, registry: Registry,
    problems: Sequence[Problem] = (),
) -> list[Problem]:  # fmt: skip
    """What would go wrong in a run, as far as the tables are right.

    found: the tables that are well formed; pipeline: made of them. parts: the components that are
    right. problems: those that are known already.
    """
    return _Trial(source, found, pipeline, parts, registry, problems).problems


class _Trial:
    def __init__(
        self, source: Source, found: Found, pipeline: Pipeline, parts: Parts, registry: Registry,
        known: Sequence[Problem],
    ) -> None:  # fmt: skip
        self.source, self.pipeline, self.registry = source, pipeline, registry
        self.found, self.parts = found, parts
        self.faulty = {re.split(r"[.\[]", problem.key)[0] for problem in known}
        self.problems: list[Problem] = []
        self.models: dict[str, ModelArtifact | None] = {}
        self.live: set[str] = set()
        self.left_out: dict[str, list[str]] = {}  # of each model: transforms that have problems
        self._build_models()
        with tempfile.TemporaryDirectory(prefix="crosslayer-check-") as folder:
            self._transform(RunContext(seed=pipeline.seed, output=Path(folder)))
        self._backends()
        self._evaluators()
        self._simulators()
        self._accelerators()

    def _tables(self, kind: str) -> list[tuple[KeyPath, Any, Part | None]]:
        """The well formed tables of a kind, with their components where these are right."""
        return [
            (path, table, self.parts.get(path))
            for path, table in self.found.items()
            if path[0] == kind
        ]

    def _whole(self, kind: str) -> bool:
        """Whether every table of a kind is well formed."""
        given = self.source.document.get(kind, [])
        return len(self._tables(kind)) == (len(given) if isinstance(given, list) else 1)

    def _bad(self, path: KeyPath, message: str, exit_code: int = 2) -> None:
        at = path if path[0] == "evaluate" or _is_fallback(path) else (*path, "use")
        self.problems.append(self.source.problem(at, message, exit_code))

    def _build(self, path: KeyPath, part: Part) -> Any:
        """The component; None and a problem if it cannot be built."""
        try:
            return part.build(self.registry)
        except CrosslayerError as error:
            self._bad(path, str(error), error.exit_code)
        return None

    def _build_models(self) -> None:
        for path, table, part in self._tables("model"):
            name = table.name or table.use
            self.models[name] = None
            if part is None:
                continue
            if getattr(part.params, "live", False):  # its weights may be a download
                self.live.add(name)
                part = replace(part, values={**part.values, "live": False})
            artifact = self._build(path, part)
            if not isinstance(artifact, ModelArtifact | None):
                self._bad(path, f"{part.label} gives a {type(artifact).__name__}, not a model", 3)
                artifact = None
            if artifact is not None and artifact.live is not None:
                self.live.add(name)
            self.models[name] = artifact and artifact.replace(live=None)

    def _spec_only(self, name: str) -> bool:
        return self.models.get(name) is not None and name not in self.live

    def _leave_out(self, path: KeyPath, models: Sequence[str]) -> None:
        for name in models:
            self.left_out.setdefault(name, []).append(key_text(path))

    def _but(self, name: str) -> str:
        """What of a model's transforms a problem was found without."""
        left_out = self.left_out.get(name)
        return f" (found without {', '.join(left_out)})" if left_out else ""

    def _transform(self, context: RunContext) -> None:
        """Each transform in order, on the spec it would get."""
        if not self._whole("transform"):
            self._leave_out(("transform",), list(self.models))
        for path, table, part in self._tables("transform"):
            meant = [table.on] if table.on else list(self.models)
            component = self._build(path, part) if part else None
            if part is None or component is None or len(meant) != 1:
                self._leave_out(path, meant)
                continue
            name = meant[0]
            if part.needs_live(default=False):
                if self._spec_only(name):
                    self._bad(
                        path,
                        f"{part.label} needs a live model, and {name!r} is a spec without weights",
                    )
                continue
            model = self.models.get(name)
            if model is None:
                continue
            but = self._but(name)
            try:
                self.models[name] = component.transform(model, context).replace(live=None)
            except CrosslayerError as error:
                self._bad(path, f"{part.label}: {error}{but}", error.exit_code)
                self._leave_out(path, meant)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}{but}"
                self._bad(path, f"{part.label} fails on the spec alone: {reason}", 4)
                self._leave_out(path, meant)

    def _backends(self) -> None:
        """Recordings are read; no endpoint is called and no key is looked up."""
        for path, _, part in self._tables("backend"):
            try:
                if part is not None:
                    build_backend(part)
            except CrosslayerError as error:
                self._bad(path, str(error), error.exit_code)

    def _evaluators(self) -> None:
        silent: list[str] = []
        if not self.faulty & {"model", "instance", "backend", "pool"}:
            silent = list(wordless(self.pipeline, self.live))
        dead = sorted(filter(self._spec_only, self.models))
        for path, _, part in self._tables("evaluate"):
            if part is None:
                continue
            needs_live = part.needs_live(default=True)
            if needs_live and "model" not in self.source.document:
                self._bad(path, f"{part.label} needs a live model, and there is no [model]")
            elif getattr(part.params, "needs_pool", False) and silent:
                self._bad(
                    path,
                    f"{part.label} asks the pool, and {silent[0]!r} has no weights and no backend;"
                    " give it a [[backend]] of that name, or leave it out of 'members' of [pool]",
                )
            elif needs_live and dead:
                self._bad(
                    path,
                    f"{part.label} needs a live model, and {dead[0]!r} is a spec without weights",
                )
            else:
                self._build(path, part)

    def _simulators(self) -> None:
        for path, _, part in self._tables("policy"):
            if part is not None:
                self._build(path, part)
        for path, table, part in self._tables("simulate"):
            built = self._build(path, part) if part else None
            if part is None or (table.trace is None and "workload" in self.faulty):
                continue
            served = table.served(self.pipeline.workload)
            makes = served.arrivals is not None or served.trace is not None
            if getattr(part.params, "needs_requests", False) and not makes:
                self._bad(
                    path,
                    f"{part.label} serves requests, and [workload] makes none; add 'arrivals'"
                    " or a 'trace' to it",
                )
            closed = served.arrivals == "closed"
            if closed and built is not None and not hasattr(built, "simulate_closed"):
                way = "it takes no arrivals = 'closed'; take another kind or a trace"
                self._bad(path, f"{part.label} serves no closed loop: {way}")

    def _machines(self) -> dict[str, tuple[KeyPath, list[Any]]]:
        """Each accelerator with its fallbacks, by name; one that lacks a part of these is none."""
        machines = {}
        for path, table, _ in self._tables("accelerator"):
            paths = [path, *((*path, "fallback", i) for i in range(len(table.fallback)))]
            parts = [(at, self.parts.get(at)) for at in paths]
            built = [self._build(at, part) if part else None for at, part in parts]
            if None not in built:
                machines[table.name or table.use] = (path, built)
        return machines

    def _accelerators(self) -> None:
        """Every op of every instance's model must find someone who prices it."""
        from crosslayer.traces.workload import with_lengths

        machines = self._machines()
        if not all(map(self._whole, ("model", "accelerator"))):
            return
        if "instance" in self.source.document and not self._whole("instance"):
            return
        tables = [path for path, _, _ in self._tables("instance")]
        workload = Workload()
        if "workload" not in self.faulty:
            workload = with_lengths(self.pipeline.workload, self.pipeline.folder)
        linked = not self.faulty & {"network", "instance"}  # else collectives are not tried
        network = topology_of(self.pipeline.network, self.pipeline.folder) if linked else None
        for i, instance in enumerate(self.pipeline.placed()):
            name = instance.model or ""
            model = self.models.get(name)
            if model is None or instance.accelerator not in machines:
                continue
            at, chain = machines[instance.accelerator]
            place: KeyPath = tables[i] if i < len(tables) else at
            try:
                refused = list(refusals(model, instance, workload, chain, network, linked))
            except Exception as error:
                what = f"accelerator {instance.accelerator!r} fails on {model.spec.name}"
                self._bad(at, f"{what}: {type(error).__name__}: {error}{self._but(name)}", 4)
                continue
            for key, message in refused:
                path = (*place, key) if (*place, key) in self.source.positions else (*at, "use")
                self.problems.append(self.source.problem(path, f"{message}{self._but(name)}"))


def _is_fallback(path: KeyPath) -> bool:
    return path[0] == "accelerator" and "fallback" in path


def refusals(
    model: ModelArtifact,
    instance: Instance,
    workload: Workload,
    machines: list[Any],
    network: Topology | None,
    linked: bool = True,
) -> Iterator[tuple[str, str]]:
    """(key of the instance it is about, sentence) for everything that keeps the instance from being
    priced. linked: whether collectives are tried.
    """
    from crosslayer.contracts.lowering import Parallel, lower
    from crosslayer.contracts.ops import Collective

    blocks = len(model.spec.blocks)
    if instance.pipeline_parallel > blocks:
        yield (
            "pipeline_parallel",
            f"pipeline_parallel = {instance.pipeline_parallel}, but {model.spec.name} has "
            f"{blocks} blocks",
        )
        return
    parallel = Parallel(instance.tensor_parallel, instance.pipeline_parallel)
    placed = kinds.Instance(
        instance.name or "", model, machines[0], devices=parallel.devices, place=instance.place,
        tensor_parallel=parallel.tensor, pipeline_parallel=parallel.pipeline,
    )  # fmt: skip
    seen = set()
    for step in steps_of(model, workload):
        try:
            graph = lower(model.spec, step, parallel)
        except CrosslayerError as error:
            yield "tensor_parallel", f"{model.spec.name}: {error}"
            return
        for op in graph.nodes:
            what = type(op).__name__
            if isinstance(op, Collective):
                refused = _unlinked(op, placed, network) if linked else None
            else:
                refused = _refusal(op, machines)
            if refused and (what, refused) not in seen:
                seen.add((what, refused))
                yield (
                    "accelerator",
                    (
                        f"accelerator {instance.accelerator!r} cannot price {what} {op.name!r} "
                        f"of {model.spec.name}: {refused}"
                    ),
                )


def _unlinked(op: Any, placed: kinds.Instance, network: Topology | None) -> str | None:
    """Why no way leads between the instance's devices; None if one does."""
    from crosslayer.stepcost import price_collective

    try:
        price_collective(placed, op, network)
    except InputError as error:
        return str(error)
    return None


def steps_of(model: ModelArtifact, workload: Workload) -> tuple[Any, Any]:
    """The workload's prefill step, and its decode step half-way through the output."""
    from crosslayer.contracts.lowering import StepShape

    prefill = [(workload.prompt_tokens, 0, 0)] * workload.batch_size
    decode = [
        (1, workload.prompt_tokens, max(1, workload.output_tokens // 2))
    ] * workload.batch_size
    return StepShape.from_sequences(model.spec, prefill), StepShape.from_sequences(
        model.spec, decode
    )


def _refusal(op: Any, machines: list[Any]) -> str | None:
    """Why no machine prices an op, offered whole and once in plain parts; None if one does."""
    from crosslayer.pricing import takes

    if any(takes(machine, op) for machine in machines):
        return None
    try:
        machines[0].estimate(op)
    except UnsupportedOp as error:
        reason = str(error).rstrip(".")
    else:
        reason = "it says that it does not support it"
    way = (
        "none of its fallbacks does either"
        if len(machines) > 1
        else "name a 'fallback' accelerator that can"
    )
    return f"{reason}; {way}"
