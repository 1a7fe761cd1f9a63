"""The trial before a run: every transform on the spec alone, the result lowered and offered to the
accelerators.

Nothing is opened and nothing is written but a temporary folder, which goes away. So an op that no
accelerator prices, a pattern that does not fit a layer or a missing dependency shows before the
first minute is spent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslayer import kinds
from crosslayer.errors import CrosslayerError, InputError, UnsupportedOp
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.pipeline.backends import build_backend, wordless
from crosslayer.pipeline.parts import Part
from crosslayer.pipeline.schema import Instance, Pipeline, Workload, names_of
from crosslayer.pipeline.source import Problem, Source
from crosslayer.pipeline.toml_lines import KeyPath
from crosslayer.pipeline.topology import topology_of
from crosslayer.registry import Registry

if TYPE_CHECKING:
    from crosslayer.contracts.network import Topology

Parts = Mapping[KeyPath, Part]


def trial(source: Source, pipeline: Pipeline, parts: Parts, registry: Registry) -> list[Problem]:
    """What would go wrong in a run of a pipeline whose tables and names are right."""
    return _Trial(source, pipeline, parts, registry).problems


class _Trial:
    def __init__(
        self, source: Source, pipeline: Pipeline, parts: Parts, registry: Registry
    ) -> None:
        self.source, self.pipeline, self.registry = source, pipeline, registry
        self.parts: dict[str, list[tuple[KeyPath, Part]]] = {}
        for path, part in parts.items():
            kind = "fallback" if _is_fallback(path) else str(path[0])
            self.parts.setdefault(kind, []).append((path, part))
        self.problems: list[Problem] = []
        self.models: dict[str, ModelArtifact | None] = {}
        self.live: set[str] = set()
        self._build_models()
        with tempfile.TemporaryDirectory(prefix="crosslayer-check-") as folder:
            self._transform(RunContext(seed=pipeline.seed, output=Path(folder)))
        self._backends()
        self._evaluators()
        self._simulators()
        self._accelerators()

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
        for name, (path, part) in zip(
            names_of(self.pipeline.models), self.parts.get("model", []), strict=True
        ):
            if getattr(
                part.params, "live", False
            ):  # its weights may be a download: not for a check
                self.live.add(name)
                part = replace(part, values={**part.values, "live": False})
            artifact = self._build(path, part)
            if not isinstance(artifact, ModelArtifact | None):
                self._bad(path, f"{part.label} gives a {type(artifact).__name__}, not a model", 3)
                artifact = None
            if artifact is not None and artifact.live is not None:
                self.live.add(name)
            self.models[name] = artifact and artifact.replace(live=None)

    def _transform(self, context: RunContext) -> None:
        """Each transform in order, on the spec it would get."""
        only = next(iter(self.models), "")
        pairs = zip(self.pipeline.transforms, self.parts.get("transform", []), strict=True)
        for table, (path, part) in pairs:
            name = table.on or only
            component = self._build(path, part)
            model = self.models[name]
            if part.needs_live(default=False):
                if name not in self.live:
                    self._bad(
                        path,
                        f"{part.label} needs a live model, and {name!r} is a spec without weights",
                    )
                continue
            if component is None or model is None:
                self.models[name] = None
                continue
            try:
                self.models[name] = component.transform(model, context).replace(live=None)
            except CrosslayerError as error:
                self._bad(path, f"{part.label}: {error}", error.exit_code)
                self.models[name] = None
            except Exception as error:
                self._bad(
                    path,
                    f"{part.label} fails on the spec alone: {type(error).__name__}: {error}",
                    4,
                )
                self.models[name] = None

    def _backends(self) -> None:
        """Recordings are read; no endpoint is called and no key is looked up."""
        for path, part in self.parts.get("backend", []):
            try:
                build_backend(part)
            except CrosslayerError as error:
                self._bad(path, str(error), error.exit_code)

    def _evaluators(self) -> None:
        for path, part in self.parts.get("evaluate", []):
            dead = sorted(set(self.models) - self.live)
            needs_live = part.needs_live(default=True)
            silent = list(wordless(self.pipeline, self.live))
            if needs_live and not self.models:
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
        for kind in ("policy", "simulate"):
            for i, (path, part) in enumerate(self.parts.get(kind, [])):
                built = self._build(path, part)
                if getattr(part.params, "needs_requests", False) and not self._has_requests(i):
                    self._bad(
                        path,
                        f"{part.label} serves requests, and [workload] makes none; add 'arrivals'"
                        " or a 'trace' to it",
                    )
                closed = kind == "simulate" and self._served(i).arrivals == "closed"
                if closed and built is not None and not hasattr(built, "simulate_closed"):
                    way = "it takes no arrivals = 'closed'; take another kind or a trace"
                    self._bad(path, f"{part.label} serves no closed loop: {way}")

    def _has_requests(self, step: int) -> bool:
        served = self._served(step)
        return served.arrivals is not None or served.trace is not None

    def _served(self, step: int) -> Workload:
        return self.pipeline.simulate[step].served(self.pipeline.workload)

    def _accelerators(self) -> None:
        """Every op of every instance's model must find someone who prices it."""
        from crosslayer.traces.workload import with_lengths

        machines: dict[str, tuple[Any, KeyPath]] = {}
        for name, (path, part) in zip(
            names_of(self.pipeline.accelerators), self.parts.get("accelerator", []), strict=True
        ):
            machines[name] = (self._build(path, part), path)
        fallbacks = [
            (path, self._build(path, part)) for path, part in self.parts.get("fallback", [])
        ]
        tables = sorted(
            path for path in self.source.positions if path[0] == "instance" and len(path) == 2
        )
        for i, instance in enumerate(self.pipeline.placed()):
            model = self.models.get(instance.model or "")
            if model is None or instance.accelerator is None:
                continue
            machine, at = machines[instance.accelerator]
            others = [other for path, other in fallbacks if path[: len(at)] == at]
            if machine is None or None in others:
                continue
            place: KeyPath = tables[i] if i < len(tables) else at
            network = topology_of(self.pipeline.network, self.pipeline.folder)
            workload = with_lengths(self.pipeline.workload, self.pipeline.folder)
            try:
                found = list(refusals(model, instance, workload, [machine, *others], network))
            except Exception as error:
                what = f"accelerator {instance.accelerator!r} fails on {model.spec.name}"
                self._bad(at, f"{what}: {type(error).__name__}: {error}", 4)
                continue
            for key, message in found:
                path = (*place, key) if (*place, key) in self.source.positions else (*at, "use")
                self.problems.append(self.source.problem(path, message))


def _is_fallback(path: KeyPath) -> bool:
    return path[0] == "accelerator" and "fallback" in path


def refusals(
    model: ModelArtifact,
    instance: Instance,
    workload: Workload,
    machines: list[Any],
    network: Topology | None,
) -> Iterator[tuple[str, str]]:
    """(key of the instance it is about, sentence) for everything that keeps the instance from being
    priced.
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
                refused = _unlinked(op, placed, network)
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
