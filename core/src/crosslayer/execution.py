"""The steps of a run, in order: model, transforms, estimates, simulations, evaluations; each cached
by its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.report import Figure, Metric, Report, Table, WrittenFile
from crosslayer.errors import ComponentError
from crosslayer.kinds import Instance, ModelArtifact, RunContext, Stack
from crosslayer.lazylive import LazyLive
from crosslayer.machine import machine_facts
from crosslayer.pipeline.parts import Part, resolve
from crosslayer.pipeline.schema import Pipeline, Simulate, names_of
from crosslayer.pipeline.topology import topology_of
from crosslayer.pipeline.workload import Workload
from crosslayer.progress import Progress
from crosslayer.registry import Registry
from crosslayer.rundir import slug
from crosslayer.stepcache import sha256_file
from crosslayer.stepkey import library_versions, model_key, part_inputs, source_digest, step_key
from crosslayer.steps import Steps, below, naming

BuildModel = Callable[[Part, Registry], ModelArtifact]


@dataclass(frozen=True)
class _Model:
    """A model at some point of the pipeline, and the hash of how it came about."""

    artifact: ModelArtifact
    key: str


class Execution:
    """Runs a checked pipeline; afterwards `steps` has what was reported, `parts` who did it, and
    `tuned` what accelerators chose for themselves, by instance.

    scratch: a folder for what no run directory needs to keep. build_model: gives a model; several
    runs in one process may share it, for no step changes its input.
    """

    def __init__(
        self, pipeline: Pipeline, registry: Registry, folder: Path, scratch: Path, threads: int,
        progress: Progress, build_model: BuildModel | None = None,
    ) -> None:  # fmt: skip
        self.pipeline, self.registry, self.scratch = pipeline, registry, scratch
        self.threads, self.progress = threads, progress
        self.steps = Steps(folder, pipeline.seed, threads, progress)
        self.parts: dict[str, list[Part]] = {}
        self.tuned: dict[str, Any] = {}
        self.build_model = build_model or Part.build
        self.live = False

    def run(self) -> None:
        """Every step. Errors: ComponentError that names the step (its exit code is that of the
        cause).
        """
        models = self._models()
        originals = dict(models)
        only = next(iter(models), "")
        for i, table in enumerate(self.pipeline.transforms):
            name = table.on or only
            part = self._part("transform", "model_transform", table.use, table.params)
            label = f"transform {i + 1} {part.name}"
            models[name] = self._transform(label, part, models[name])
        network = topology_of(self.pipeline.network, self.pipeline.folder)
        instances = self._instances(models)
        before = {
            one.name: originals[one.model or ""] for one in self.pipeline.placed() if one.name
        }
        for instance, inputs in instances:
            if instance.accelerator is not None:
                self._estimate(instance, before[instance.name], inputs, network)
        stack, served = self._served_stack(instances, before, network)
        self._simulate(stack, served, before)
        self._evaluate(instances, before, stack, served)

    def _part(self, table: str, kind: str, use: str, params: Mapping[str, Any]) -> Part:
        part = resolve(self.registry, kind, use, params, self.pipeline.folder)
        self.parts.setdefault(table, []).append(part)
        return part

    def _live_inputs(self) -> dict[str, Any]:
        """What else a result depends on where numbers are computed on a live model."""
        return {"threads": self.threads, "libraries": library_versions()}

    # Steps

    def _models(self) -> dict[str, _Model]:
        models = {}
        for name, table in zip(names_of(self.pipeline.models), self.pipeline.models, strict=True):
            part = self._part("model", "model", table.use, table.params)
            with self.steps.step(f"model {name}"):
                artifact = self.build_model(part, self.registry)
            models[name] = _Model(artifact, model_key(part, artifact))
            self.live |= artifact.live is not None
        return models

    def _transform(self, label: str, part: Part, model: _Model) -> _Model:
        before = model.artifact.replace(metrics=(), tables=(), figures=(), files={})
        live = before.live is not None
        key = step_key(
            "transform", part=part_inputs(part), model=model.key, seed=self.pipeline.seed,
            live=self._live_inputs() if live else None,
        )  # fmt: skip
        component = part.build(self.registry)

        def reopen(files: Mapping[str, Path]) -> Any:
            """The live result of the cached step: restored from its files, else made again."""
            context = self.steps.context(self.scratch / slug(label))
            with naming(label):
                if hasattr(component, "restore"):
                    try:
                        return _has_live(component.restore(before, files, context))
                    except Exception as error:
                        self.progress.say(
                            f"{label}: cannot be restored ({error}); running it again"
                        )
                else:
                    self.progress.say(f"{label}: has no way to be restored; running it again")
                return _has_live(component.transform(before, context))

        def dump(made: ModelArtifact, output: Path) -> dict[str, Any]:
            return {
                "spec": made.spec.to_json(),
                "live": made.live is not None,
                "history": [list(pair) for pair in made.history],
                "metrics": [metric.to_json() for metric in made.metrics],
                "tables": [table.to_json() for table in made.tables],
                "figures": [figure.to_json() for figure in made.figures],
                "files": {name: below(path, output, label) for name, path in made.files.items()},
            }

        def load(body: Mapping[str, Any], output: Path) -> ModelArtifact:
            files = {name: output / path for name, path in body["files"].items()}
            return ModelArtifact(
                spec=ModelSpec.from_json(body["spec"]),
                live=LazyLive(lambda: reopen(files)) if body["live"] else None,
                history=tuple((name, params) for name, params in body["history"]),
                metrics=tuple(Metric.from_json(text) for text in body["metrics"]),
                tables=tuple(Table.from_json(text) for text in body["tables"]),
                figures=tuple(Figure.from_json(text) for text in body["figures"]),
                files=files,
            )

        made, output = self.steps.cached(
            label, key, lambda context: component.transform(before, context), dump, load
        )
        written = tuple(
            WrittenFile(name=name, path=below(path, output, label), sha256=sha256_file(path))
            for name, path in sorted(made.files.items())
        )
        report = Report(
            title=label,
            metrics=made.metrics,
            tables=made.tables,
            figures=made.figures,
            files=written,
        )
        self.steps.add(part.name, report, output)
        return _Model(made, key)

    def _instances(self, models: Mapping[str, _Model]) -> list[tuple[Instance, dict[str, Any]]]:
        """Models on accelerators, each with what the choice depends on."""
        from crosslayer.pricing import with_fallback

        machines: dict[str, tuple[Any, list[dict[str, Any]]]] = {}
        for name, table in zip(
            names_of(self.pipeline.accelerators), self.pipeline.accelerators, strict=True
        ):
            parts = [self._part("accelerator", "accelerator_model", table.use, table.params)]
            for use in table.fallback:
                parts.append(self._part("fallback", "accelerator_model", use, {}))
            built = tuple(part.build(self.registry) for part in parts)
            machine_inputs = [part_inputs(part) for part in parts]
            for one, about in zip(built, machine_inputs, strict=True):
                if hasattr(one, "identity"):
                    with naming(f"accelerator {name}"):
                        about["identity"] = one.identity(self.progress)
            machines[name] = with_fallback(built), machine_inputs
        placed = []
        for one in self.pipeline.placed():
            model = models[one.model or ""]
            machine, machine_inputs = machines.get(one.accelerator or "", (None, []))
            fields = one.model_dump(exclude={"model", "accelerator"})
            instance = Instance(**fields | {"model": model.artifact, "accelerator": machine})
            inputs = {"fields": fields, "model": model.key, "accelerator": machine_inputs}
            placed.append((self._tuned(instance), inputs))
        return placed

    def _tuned(self, instance: Instance) -> Instance:
        """An accelerator that chooses its own hardware does so for the workload's prefill and
        decode steps.
        """
        from crosslayer.pricing import first_of, with_first

        tune = getattr(first_of(instance.accelerator), "tuned_for", None)
        if tune is None:
            return instance
        from crosslayer.contracts.lowering import lower
        from crosslayer.pipeline.trial import steps_of
        from crosslayer.traces.workload import with_lengths

        workload = with_lengths(self.pipeline.workload, self.pipeline.folder)
        steps = steps_of(instance.model, workload)
        graphs = tuple(lower(instance.model.spec, step, instance.parallel) for step in steps)
        with self.steps.step(f"hardware of {instance.name}"):
            chosen = tune(graphs)
        self.tuned[instance.name] = described(chosen)
        return replace(instance, accelerator=with_first(instance.accelerator, chosen))

    def _estimate(
        self, instance: Instance, original: _Model, inputs: dict[str, Any], network: Any
    ) -> None:
        from crosslayer.estimate import estimate_report
        from crosslayer.traces.workload import with_lengths

        whole = with_lengths(self.pipeline.workload, self.pipeline.folder)
        workload = whole.model_dump(include={"prompt_tokens", "output_tokens", "batch_size"})
        key = step_key(
            "estimate", spec=instance.model.spec.to_json(),
            original=original.artifact.spec.to_json(),
            fields=inputs["fields"], accelerator=inputs["accelerator"], workload=workload,
            network=network and network.to_json(), source=source_digest("crosslayer"),
        )  # fmt: skip
        self.steps.report(
            f"estimate {instance.name}", instance.name, key,
            lambda _: estimate_report(instance, original.artifact, network=network, **workload),
        )  # fmt: skip

    def _served_stack(
        self,
        instances: list[tuple[Instance, dict[str, Any]]],
        before: Mapping[str, _Model],
        network: Any,
    ) -> tuple[Stack, dict[str, Any]]:
        """The whole stack, with policy, pool and backends, and what these depend on."""
        from crosslayer.pipeline.backends import backend_part, pool_of, speakers

        pipeline = self.pipeline
        parts = {table.name: backend_part(table, pipeline.folder) for table in pipeline.backends}
        self.parts["backend"] = list(parts.values())
        policy, inputs = None, None
        if pipeline.policy is not None:
            part = self._part(
                "policy", "serving_policy", pipeline.policy.use, pipeline.policy.params
            )
            policy, inputs = part.build(self.registry), part_inputs(part)
        placed = tuple(instance for instance, _ in instances)
        asks = any(getattr(part.params, "needs_pool", False) for part in self._evaluators())
        pool = None
        if asks or policy or pipeline.pool or parts:
            with naming("pool"):
                pool = pool_of(pipeline, placed, network)
        stack = Stack(
            placed, policy, network, {name: model.artifact for name, model in before.items()},
            pool, speakers(pipeline, parts, placed),
        )  # fmt: skip
        return stack, {
            "policy": inputs,
            "pool": pool and [pipeline.pool and pipeline.pool.model_dump(), list(pool.names)],
            "backends": {name: part_inputs(part) for name, part in parts.items()},
            "network": network and network.to_json(),
            "instances": [inputs for _, inputs in instances],
            "live": self._live_inputs() if self.live else None,
        }

    def _simulate(
        self, stack: Stack, served: Mapping[str, Any], before: Mapping[str, _Model]
    ) -> None:
        from crosslayer.pipeline.backends import placed_pool

        stack = replace(stack, pool=placed_pool(stack.pool, stack.instances))
        for table in self.pipeline.simulate:
            part = self._part("simulate", "simulator", table.use, table.params)
            workload, workload_key = self._workload(table)
            key = step_key(
                "simulate", part=part_inputs(part), served=served,
                originals={name: model.key for name, model in before.items()},
                seed=self.pipeline.seed, source=source_digest("crosslayer"),
                workload=workload_key,
            )  # fmt: skip
            self._simulator(table, part, key, stack, workload)

    def _workload(self, table: Simulate) -> tuple[Workload, dict[str, Any]]:
        """What a simulator serves, and what that depends on: a step's file by its content.

        Errors: InputError that names what the step wrote, if not this file.
        """
        from crosslayer.traces.workload import workload_inputs

        served = table.served(self.pipeline.workload)
        if table.takes is None:
            return served, workload_inputs(served, self.pipeline.folder)
        step, name = table.takes
        with naming(f"simulate {table.step}"):
            file = self.steps.file_of(step, name)
        read = Workload(trace=str((self.steps.folder / file.path).absolute()))
        return read, served.table() | {"trace": file.sha256}

    def _simulator(
        self, table: Simulate, part: Part, key: str, stack: Stack, workload: Workload
    ) -> None:
        simulator = part.build(self.registry)

        def simulate(context: RunContext) -> Report:
            from crosslayer.traces.closed_loop import ClosedLoop
            from crosslayer.traces.workload import requests_of

            requests = requests_of(workload, self.pipeline.folder, context)
            closed = isinstance(requests, ClosedLoop)
            serve = simulator.simulate_closed if closed else simulator.simulate
            report: Report = serve(stack, requests, context)
            return report

        self.steps.report(
            f"simulate {table.step}", table.step, key, simulate, outside=_outside(stack)
        )

    def _evaluate(
        self,
        instances: list[tuple[Instance, dict[str, Any]]],
        before: Mapping[str, _Model],
        whole: Stack,
        served: Mapping[str, Any],
    ) -> None:
        """Quality does not depend on the accelerator, so evaluators see none, and their results
        outlive a new one; but those that ask the pool get the whole stack: policies may go by time.
        """
        stack = Stack(
            tuple(Instance(instance.name, instance.model) for instance, _ in instances),
            originals={name: model.artifact for name, model in before.items()},
        )
        keys = {
            instance.name: [inputs["model"], before[instance.name].key]
            for instance, inputs in instances
        }
        for part in self._evaluators():
            self.parts.setdefault("evaluate", []).append(part)
            asks = getattr(part.params, "needs_pool", False)
            key = step_key(
                "evaluate",
                part=part_inputs(part),
                models=keys,
                seed=self.pipeline.seed,
                live=self._live_inputs(),
                served=served if asks else None,
                machine=machine_facts() if getattr(part.params, "wall_clock", False) else None,
            )
            self._evaluator(part, key, whole if asks else stack, whole)

    def _evaluators(self) -> list[Part]:
        folder = self.pipeline.folder
        return [
            resolve(self.registry, "evaluator", table.use, table.params, folder)
            for table in self.pipeline.evaluate
        ]

    def _evaluator(self, part: Part, key: str, stack: Stack, whole: Stack) -> None:
        evaluator = part.build(self.registry)
        label = f"evaluate {part.use}"
        compare = getattr(evaluator, "compare", None)
        self.steps.report(
            label, part.name, key, lambda context: evaluator.evaluate(stack, context),
            compare and (lambda report: compare(report, whole)), _outside(stack),
        )  # fmt: skip


def _outside(stack: Stack) -> dict[str, Any]:
    """The members whose answers come from outside and may differ the next time."""
    return {name: one for name, one in stack.backends.items() if getattr(one, "outside", False)}


def _has_live(made: ModelArtifact) -> Any:
    if made.live is None:
        raise ComponentError("its result has no live model, though it was given one")
    return made.live


def described(accelerator: Any) -> dict[str, Any]:
    """What an accelerator that chose its hardware chose, as JSON values: its parameters, else its
    description.
    """
    settings = getattr(accelerator, "params", None)
    if not isinstance(settings, BaseModel):
        settings = accelerator.describe()
    chosen: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    return chosen
