"""What a pipeline file says, as values: one class for each kind of table, and `Pipeline` for the
whole.

A table that names a component (`use`) holds the component's own parameters beside its few keys
here; they are kept in `params` and checked against the component's own model, not here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from crosslayer.pipeline.table import Table
from crosslayer.pipeline.workload import Workload

NAME = Field(None, min_length=1, max_length=1000)


class _Use(Table):
    """A table that names a component; keys that are not ours are the component's parameters."""

    use: str = Field(min_length=1)
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _split(cls, table: Any) -> Any:
        if isinstance(table, str):
            return {"use": table}
        if isinstance(table, cls):
            return table
        if not isinstance(table, dict):
            raise ValueError(f"{table!r} is no component; write its name, or a table with 'use'")
        own = cls.model_fields.keys() - {"params"}
        split: dict[str, Any] = {key: value for key, value in table.items() if key in own}
        return split | {"params": {key: value for key, value in table.items() if key not in own}}

    def table(self) -> dict[str, Any]:
        """The table as a pipeline file has it."""
        own = self.model_dump(exclude={"params"}, exclude_defaults=True)
        return own | dict(self.params)


class About(Table):
    """[pipeline]: the run's name (the file's, if left out) and its seed."""

    name: str | None = NAME
    seed: int = Field(0, ge=0, lt=2**63)


class Model(_Use):
    """[model] or [[model]]."""

    name: str | None = NAME


class Transform(_Use):
    """[[transform]]; `on` names the model where there are several."""

    on: str | None = None


class Accelerator(_Use):
    """[accelerator] or [[accelerator]]; `fallback` prices the ops that this one refuses, first that
    can.
    """

    name: str | None = NAME
    fallback: tuple[str, ...] = ()

    @field_validator("fallback", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (
            (value,)
            if isinstance(value, str)
            else tuple(value)
            if isinstance(value, list)
            else value
        )


class Instance(Table):
    """[[instance]]: a model on an accelerator; devices are tensor_parallel x pipeline_parallel if
    left out.
    """

    name: str | None = NAME
    model: str | None = None
    accelerator: str | None = None
    devices: int | None = Field(None, ge=1)
    tensor_parallel: int = Field(1, ge=1)
    pipeline_parallel: int = Field(1, ge=1)
    role: Literal["any", "prefill", "decode"] = "any"
    place: str | None = None
    kv_blocks: int | None = Field(None, ge=1)
    kv_block_tokens: int = Field(16, ge=1)


class Policy(_Use):
    """[policy]: the serving policy."""


class Backend(_Use):
    """[[backend]]: who answers for the pool member of that name: `use` openai, replay or
    transformers.
    """

    name: str = Field(min_length=1, max_length=100)


class Measured(Table):
    """A measured share of right answers, over how many samples, on which data."""

    value: float = Field(ge=0, le=1)
    samples: int = Field(ge=1)
    data: str = Field(min_length=1)


class Members(Table):
    """[pool]: what a policy chooses from, in this order (left out: every instance and backend), and
    the measured quality of some.
    """

    members: tuple[str, ...] = ()
    quality: dict[str, Measured] = Field(default_factory=dict)

    @field_validator("members", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _members_differ(self) -> Members:
        twice = sorted({name for name in self.members if self.members.count(name) > 1})
        if twice:
            raise ValueError(f"[pool] names the member {twice[0]!r} twice")
        return self


class Network(Table):
    """[network]: a topology file (TOML, relative to the pipeline file), or links written here."""

    topology: str | None = None
    links: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Network:
        if (self.topology is None) == (self.links is None):
            raise ValueError(
                "[network] takes either 'topology' (a file) or 'links', not both and not neither"
            )
        return self


class Simulate(_Use):
    """[[simulate]]; `calls`: who runs its model calls. `trace`: a file of requests, or that of an
    earlier step, "@step/file", as its report names it.
    """

    name: str | None = NAME
    calls: str | None = None
    trace: str | None = None

    @property
    def step(self) -> str:
        """What later steps call this one."""
        return self.name or self.use.partition(":")[0]

    @property
    def takes(self) -> tuple[str, str] | None:
        """Step and file of a trace "@step/file"; None for a file of its own, or none."""
        if self.trace is None or not self.trace.startswith("@"):
            return None
        step, _, file = self.trace[1:].partition("/")
        return step, file

    def served(self, workload: Workload) -> Workload:
        """The workload of this step: its own trace, else that of the pipeline."""
        return workload if self.trace is None else Workload(trace=self.trace)


class Evaluate(_Use):
    """One key of [evaluate]."""


class Pipeline(Table):
    """A model, what is done to it, where it runs, and what to find out.

    In Python: `Pipeline(model="smollm2-135m", transforms=[{"use": "flow", "sparsity": 0.5}],
    accelerator="roofline:a100-80g", evaluate={"perplexity": {"tokens": 2048}}).run()`. A component
    is its name, or a dict with `use` and its parameters, as in a file; `file` is where relative
    paths start and what the run keeps a copy of.
    """

    name: str = Field("pipeline", min_length=1, max_length=1000)
    seed: int = Field(0, ge=0, lt=2**63)
    models: tuple[Model, ...] = ()
    transforms: tuple[Transform, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    instances: tuple[Instance, ...] = ()
    backends: tuple[Backend, ...] = ()
    pool: Members | None = None
    policy: Policy | None = None
    network: Network | None = None
    workload: Workload = Workload()
    simulate: tuple[Simulate, ...] = ()
    evaluate: tuple[Evaluate, ...] = ()
    file: Path | None = None
    locked: dict[str, Any] = Field(default_factory=dict)  # what a lock file says of its run

    @model_validator(mode="wrap")
    @classmethod
    def _in_sentences(cls, given: Any, validate: Any) -> Any:
        """What is wrong as PipelineErrors, as for a file."""
        from crosslayer.pipeline.source import PipelineErrors, Source
        from crosslayer.pipeline.tables import problems_of

        try:
            return validate(given)
        except ValidationError as error:
            source = Source("pipeline", Path.cwd(), {})
            problems = tuple(problems_of(source, cls, (), "Pipeline(...)", error))
        raise PipelineErrors(problems)

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = dict(given)
        for one in ("model", "transform", "accelerator", "instance", "backend"):
            if one in given:
                given[one + "s"] = given.pop(one)
        if isinstance(given.get("evaluate"), dict):
            for use, params in given["evaluate"].items():
                if not isinstance(params, dict):
                    raise ValueError(
                        f"evaluate.{use} must be a dict of its parameters, not {params!r}"
                    )
            given["evaluate"] = [
                {**params, "use": use} for use, params in given["evaluate"].items()
            ]
        for several in (
            "models",
            "transforms",
            "accelerators",
            "instances",
            "backends",
            "simulate",
            "evaluate",
        ):
            value = given.get(several, ())
            given[several] = tuple(value) if isinstance(value, list | tuple) else (value,)
        return given

    def document(self) -> dict[str, Any]:
        """The pipeline as the data of a pipeline file."""
        document: dict[str, Any] = {
            "pipeline": {"name": self.name, "seed": self.seed},
            "model": [model.table() for model in self.models],
            "transform": [transform.table() for transform in self.transforms],
            "accelerator": [accelerator.table() for accelerator in self.accelerators],
            "instance": [instance.model_dump(exclude_none=True) for instance in self.instances],
            "backend": [backend.table() for backend in self.backends],
            "pool": self.pool and self.pool.model_dump(mode="json", exclude_defaults=True),
            "policy": self.policy and self.policy.table(),
            "network": self.network and self.network.model_dump(exclude_none=True),
            "workload": self.workload.table(),
            "simulate": [step.table() for step in self.simulate],
            "evaluate": {step.use: dict(step.params) for step in self.evaluate},
        }
        for several in ("model", "accelerator"):
            if len(document[several]) == 1:
                document[several] = document[several][0]
        return {name: table for name, table in document.items() if table}

    def placed(self) -> tuple[Instance, ...]:
        """The instances, defaults filled in: without [[instance]], one a model on the only
        accelerator.
        """
        models = names_of(self.models)
        machines = names_of(self.accelerators)
        only_model = models[0] if len(models) == 1 else None
        only_machine = machines[0] if len(machines) == 1 else None
        given = self.instances or tuple(Instance(model=name) for name in models)
        return tuple(
            one.model_copy(
                update={
                    "name": one.name or one.model or only_model,
                    "model": one.model or only_model,
                    "accelerator": one.accelerator or only_machine,
                    "devices": one.devices or one.tensor_parallel * one.pipeline_parallel,
                }
            )
            for one in given
        )

    def run(self, **options: Any) -> Any:
        """`crosslayer.run` of this pipeline: the same options, the same `Run`."""
        from crosslayer.runner import run

        return run(self, **options)

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.file.absolute().parent if self.file else Path.cwd()


def names_of(tables: tuple[Model, ...] | tuple[Accelerator, ...]) -> tuple[str, ...]:
    """What models or accelerators are called: their `name`, else their `use`."""
    return tuple(table.name or table.use for table in tables)
