"""Validates a pipeline whole before anything runs: all problems at once, each located.

Three passes: the form of the tables, then components, their parameters and what refers to what,
then the trial of all that is right so far: every transform on the spec alone, lowered and offered
to the accelerators.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslayer.contracts.calls import LONGEST_OUTPUT
from crosslayer.errors import CrosslayerError, InputError, nearest
from crosslayer.parameters import ParameterErrors
from crosslayer.pipeline.backends import backend_part
from crosslayer.pipeline.parts import Part, resolve
from crosslayer.pipeline.schema import Pipeline
from crosslayer.pipeline.source import PipelineErrors, Problem, Source, key_text, read_source
from crosslayer.pipeline.tables import Found, read_tables
from crosslayer.pipeline.toml_lines import KeyPath
from crosslayer.pipeline.topology import topology_of
from crosslayer.pipeline.trial import trial
from crosslayer.pipeline.workload import MOST_DECODES, MOST_REQUESTS, Workload
from crosslayer.registry import Registry

if TYPE_CHECKING:
    from crosslayer.contracts.requests import RequestTrace

KIND_OF_TABLE = {
    "model": "model", "transform": "model_transform", "accelerator": "accelerator_model",
    "policy": "serving_policy", "simulate": "simulator", "evaluate": "evaluator",
}  # fmt: skip


def check_file(path: str | Path, registry: Registry) -> tuple[Pipeline | None, tuple[Problem, ...]]:
    """The pipeline of a file, or None with everything that is wrong with it, in the order of its
    lines.

    Reads the file, builds the components, runs the transforms on specs alone; writes nothing, opens
    no weights.
    """
    source = read_source(Path(path))
    if isinstance(source, Problem):
        return None, (source,)
    return check_source(source, registry, Path(path))


def read_pipeline(path: Path) -> Pipeline:
    """The pipeline of a file by its form alone: no component is looked for, none has to be there.

    Errors: PipelineErrors.
    """
    source = read_source(path)
    if isinstance(source, Problem):
        raise PipelineErrors((source,))
    found, problems = read_tables(source)
    if problems:
        raise PipelineErrors(problems)
    return _pipeline(source, found, path)


def check_pipeline(pipeline: Pipeline, registry: Registry) -> tuple[Problem, ...]:
    """Everything that is wrong with a pipeline made in Python."""
    source = Source(str(pipeline.file or "pipeline"), pipeline.folder, pipeline.document())
    return check_source(source, registry, pipeline.file)[1]


def check_source(
    source: Source, registry: Registry, file: Path | None
) -> tuple[Pipeline | None, tuple[Problem, ...]]:
    """`check_file` of a file's data; a pipeline of it counts as written in `file`."""
    found, formless = read_tables(source)
    problems: list[Problem] = []
    parts = _Parts(source, registry, problems)
    for path, table in found.items():
        parts.add(path, table)
    serves = any(getattr(part.params, "needs_pool", False) for part in parts.found.values())
    problems += References(source, found, serves).problems
    # What more is wrong with a value that has the wrong form follows from that.
    keys = {problem.key for problem in formless}
    problems = formless + [problem for problem in problems if problem.key not in keys]
    pipeline = _pipeline(source, found, file)
    problems += trial(source, found, pipeline, parts.found, registry, problems)
    if not problems:
        return pipeline, ()
    distinct = dict.fromkeys(problems)
    return None, tuple(sorted(distinct, key=lambda p: (p.line or 0, p.column or 0, p.key)))


class _Parts:
    """Finds each named component and checks its parameters."""

    def __init__(self, source: Source, registry: Registry, problems: list[Problem]) -> None:
        self.source, self.registry, self.problems = source, registry, problems
        self.found: dict[KeyPath, Part] = {}

    def add(self, path: KeyPath, table: Any) -> None:
        if path[0] == "backend":
            self._keep(path, (*path, "use"), lambda: backend_part(table, self.source.folder))
            return
        kind = KIND_OF_TABLE.get(str(path[0]))
        if kind is None:
            return
        use_at = path if path[0] == "evaluate" else (*path, "use")
        self._resolve(kind, table.use, table.params, path, use_at)
        for i, fallback in enumerate(getattr(table, "fallback", ())):
            at = (*path, "fallback", i)
            self._resolve(kind, fallback, {}, at, at)

    def _resolve(
        self, kind: str, use: str, params: dict[str, Any], path: KeyPath, use_at: KeyPath
    ) -> None:
        folder = self.source.folder
        self._keep(path, use_at, lambda: resolve(self.registry, kind, use, params, folder))

    def _keep(self, path: KeyPath, use_at: KeyPath, find: Callable[[], Part]) -> None:
        try:
            self.found[path] = find()
        except ParameterErrors as error:
            for key, message in error.problems:
                at = (*path, *key)
                self.problems.append(self.source.problem(at, f"{key_text(at)}: {message}"))
        except CrosslayerError as error:
            self.problems.append(self.source.problem(use_at, str(error), error.exit_code))


class References:
    """Names: given where they must be, unique, and known where they are used."""

    def __init__(self, source: Source, found: Found, serves: bool) -> None:
        """serves: whether an evaluator serves requests."""
        self.source = source
        self.tables = {
            name: [(path, table) for path, table in found.items() if path[0] == name]
            for name in ("model", "transform", "accelerator", "instance", "backend", "simulate")
        }
        self.found = found
        self.problems: list[Problem] = []
        self.nodes = self._network()
        self.models = self._names("model")
        self.accelerators = self._names("accelerator")
        for path, table in self.tables["transform"]:
            self._names_one(path, "on", table.on, "model", self.models)
        self._instances()
        self._simulators()
        self._workload()
        self._pool()
        if ("policy",) in found and not self.tables["simulate"] and not serves:
            self._bad(
                ("policy",),
                "[policy] plans requests, and nothing here serves any; add a [[simulate]] step, or"
                " evaluate policy-accuracy",
            )

    def _bad(self, path: KeyPath, message: str) -> None:
        self.problems.append(self.source.problem(path, message))

    def _names(self, kind: str) -> list[str]:
        """What models or accelerators are called; several need a name each."""
        tables = self.tables[kind]
        if len(tables) > 1:
            for path, table in tables:
                if table.name is None:
                    self._bad(path, f"one of {len(tables)} [[{kind}]] tables needs a 'name'")
        names = [table.name or table.use for _, table in tables]
        self._unique(kind, [(path, table.name) for path, table in tables if table.name])
        return names

    def _unique(self, kind: str, names: list[tuple[KeyPath, str]]) -> None:
        seen: set[str] = set()
        for path, name in names:
            if name in seen:
                self._bad(
                    (*path, "name"), f"two [[{kind}]] tables are called {name!r}; names must differ"
                )
            seen.add(name)

    def _names_one(
        self, path: KeyPath, key: str, name: str | None, kind: str, known: list[str]
    ) -> None:
        """A reference to a model or an accelerator; it may be left out where there is only one."""
        if name is None:
            if len(known) > 1:
                self._bad(
                    path,
                    f"{key_text(path)} needs {key!r}: which of the {len(known)} {kind}s; "
                    f"{nearest('', known)}",
                )
        elif name not in known and known:
            self._bad(
                (*path, key),
                f"{key_text((*path, key))}: no {kind} is called {name!r}; {nearest(name, known)}",
            )
        elif not known and f"{kind}" not in self.source.document:
            self._bad(
                (*path, key),
                f"{key_text((*path, key))}: no {kind} is called {name!r}: there is no [{kind}]",
            )

    def _instances(self) -> None:
        tables = self.tables["instance"]
        if len(self.tables["accelerator"]) > 1 and "instance" not in self.source.document:
            path = self.tables["accelerator"][1][0]
            self._bad(
                path,
                "several accelerators need [[instance]] tables that say which model runs on which",
            )
        named = []
        for path, table in tables:
            self._names_one(path, "model", table.model, "model", self.models)
            self._names_one(
                path, "accelerator", table.accelerator, "accelerator", self.accelerators
            )
            devices = table.tensor_parallel * table.pipeline_parallel
            if table.devices not in (None, devices):
                self._bad(
                    (*path, "devices"),
                    f"{table.devices} devices, but tensor_parallel x pipeline_parallel = {devices}",
                )
            if table.place is not None and table.place not in self.nodes:
                hint = nearest(table.place, self.nodes) if self.nodes else "there is no [network]"
                self._bad(
                    (*path, "place"), f"no node of the network is called {table.place!r}; {hint}"
                )
            named.append((path, table.name or table.model or "".join(self.models[:1])))
        self._unique("instance", named)

    def _pool(self) -> None:
        """Backends have names of their own; the pool names instances and backends."""
        backends = [(path, table.name) for path, table in self.tables["backend"]]
        self._unique("backend", backends)
        named = [table.name or table.model for _, table in self.tables["instance"]]
        instances = [name for name in named if name] or self.models
        for path, table in self.tables["backend"]:
            on = table.params.get("instance")
            if table.use == "transformers" and isinstance(on, str) and on not in instances:
                hint = nearest(on, instances) if instances else "there is no [model]"
                self._bad((*path, "instance"), f"no model or instance is called {on!r}; {hint}")
        pool = self.found.get(("pool",))
        if pool is None:
            return
        known = [*instances, *(name for _, name in backends)]
        for i, name in enumerate(pool.members):
            if name not in known:
                self._bad(
                    ("pool", "members", i),
                    f"no instance or backend is called {name!r}; {nearest(name, known)}",
                )
        members = pool.members or known
        for name in pool.quality:
            if name not in members:
                self._bad(
                    ("pool", "quality", name),
                    f"no member of the pool is called {name!r}; {nearest(name, members)}",
                )

    def _simulators(self) -> None:
        earlier: list[str] = []
        for path, table in self.tables["simulate"]:
            if table.step in earlier:
                self._bad(
                    path, f"two [[simulate]] steps are called {table.step!r}; give one a 'name'"
                )
            if table.trace is not None and table.trace.startswith("@"):
                step, slash, file = table.trace[1:].partition("/")
                if not slash or not file:
                    self._bad((*path, "trace"), f"{table.trace!r} must look like '@step/file'")
                elif step not in earlier:
                    hint = nearest(step, earlier) if earlier else "no step comes before it"
                    self._bad((*path, "trace"), f"no earlier step is called {step!r}; {hint}")
            elif table.trace is not None:
                trace = self._trace_file((*path, "trace"), table.trace)
                if trace is not None:
                    self._fits((*path, "trace"), trace, len(trace))
            if table.calls is not None:
                self._bad(
                    (*path, "calls"),
                    f"calls = {table.calls!r}: a simulator cannot have its model calls run by "
                    "another yet",
                )
            earlier.append(table.step)

    def _workload(self) -> None:
        table = self.found.get(("workload",), Workload())
        for key in ("trace", "lengths"):
            name = getattr(table, key)
            if name:
                at = ("workload", key)
                trace = self._trace_file(at, name, table.format, table.sort)
                if trace is not None:
                    self._fits(at, trace, table.requests or len(trace), table.batch_size)
                if key == "trace" and trace is not None and (table.requests or 0) > len(trace):
                    self._bad(
                        ("workload", "requests"),
                        f"{table.requests} requests are more than the {len(trace)} of {name};"
                        " leave `requests` out to take them all",
                    )

    def _fits(self, path: KeyPath, trace: RequestTrace, requests: int, batch: int = 1) -> None:
        """A run holds the requests it serves and the decodes it prices in memory."""
        longest = int(trace.output_tokens.max(initial=0))
        if longest > LONGEST_OUTPUT:
            self._bad(path, f"has a call of {longest} output tokens; {LONGEST_OUTPUT} are the most")
        elif batch * longest > MOST_DECODES:
            self._bad(
                path,
                f"batch_size x the longest output is {batch * longest}, and a run holds"
                f" {MOST_DECODES} decodes at most in memory; lower batch_size",
            )
        if path[-1] == "trace" and min(len(trace), requests) > MOST_REQUESTS:
            self._bad(
                path,
                f"has {len(trace)} requests, and a run serves {MOST_REQUESTS} at most; write"
                " 'requests' into [workload], or a shorter file",
            )

    def _trace_file(
        self, path: KeyPath, name: str, format: str | None = None, sort: bool = False
    ) -> RequestTrace | None:
        """A file of requests, which must be there and whole."""
        if not (self.source.folder / name).is_file():
            self._bad(path, f"there is no file {name!r} (looked in {self.source.folder})")
            return None
        from crosslayer.traces.problems import TraceErrors
        from crosslayer.traces.workload import known_trace

        try:
            return known_trace(self.source.folder / name, format, sort)
        except TraceErrors as error:
            first = error.problems[0]
            more = f" (and {error.count - 1} more problems)" if error.count > 1 else ""
            place = f"{name}:{first.line}:{first.column}"
            self._bad(path, f"the trace cannot be used: {place}: {first.message}{more}")
        except InputError as error:
            self._bad((*path[:-1], "format") if "trace format" in str(error) else path, str(error))
        return None

    def _network(self) -> tuple[str, ...]:
        table = self.found.get(("network",))
        if table is None:
            return ()
        try:
            topology = topology_of(table, self.source.folder)
        except InputError as error:
            self._bad(("network", "topology" if table.topology else "links"), str(error))
            return ()
        return topology.nodes if topology else ()


def _pipeline(source: Source, found: Found, file: Path | None) -> Pipeline:
    """The tables as one value; a file without a name is called after itself."""
    about = found.get(("pipeline",))

    def several(name: str) -> tuple[Any, ...]:
        return tuple(table for path, table in found.items() if path[0] == name)

    return Pipeline(
        name=(about and about.name) or (file.stem if file else "pipeline"),
        seed=about.seed if about else 0,
        models=several("model"),
        transforms=several("transform"),
        accelerators=several("accelerator"),
        instances=several("instance"),
        backends=several("backend"),
        pool=found.get(("pool",)),
        policy=found.get(("policy",)),
        network=found.get(("network",)),
        workload=found.get(("workload",), Workload()),
        simulate=several("simulate"),
        evaluate=several("evaluate"),
        locked=found.get(("lock",), {}),
        file=file,
    )
