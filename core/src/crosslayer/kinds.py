"""The four kinds of component, what they receive and what they return.

A component is any object with these methods; nothing needs to inherit. Optional methods are
documented on each protocol and looked up with `getattr`. Objects that carry live things (modules,
instances) are dataclasses; values that cross a border are in `crosslayer.contracts`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from crosslayer.progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from crosslayer.backends.protocol import TextBackend
    from crosslayer.contracts.cost import Cost, CostTable
    from crosslayer.contracts.hardware import HardwareSpec
    from crosslayer.contracts.lowering import Parallel, StepShape, StepTable
    from crosslayer.contracts.model import ModelSpec
    from crosslayer.contracts.network import Topology
    from crosslayer.contracts.ops import Op
    from crosslayer.contracts.report import Figure, Metric, Report, Table
    from crosslayer.contracts.requests import LLMCall, Request, RequestTrace
    from crosslayer.contracts.serving import (
        CallResult,
        Decision,
        FinishedCall,
        Pool,
        ServedRequest,
        ServePlan,
    )
    from crosslayer.serve import Backend


@runtime_checkable
class LiveModel(Protocol):
    """A model that runs: a torch module, its tokenizer, and how it decodes. Opened on first use.

    Evaluators feed text through `new_cache()` in pieces of `chunk_tokens` (None: the whole text is
    one piece), because a cache policy that evicts acts between pieces.
    """

    chunk_tokens: int | None

    @property
    def module(self) -> Any: ...
    @property
    def tokenizer(self) -> Any: ...
    def new_cache(self) -> Any: ...
    def copy(self) -> LiveModel: ...


@dataclass(frozen=True)
class ModelArtifact:
    """A model on its way through a pipeline: the spec always, the live module if this machine holds
    one.

    history: (component, parameters as JSON) of every transform applied. files: what the last
    transform wrote under its output directory and needs to `restore` itself, by name.
    """

    spec: ModelSpec
    live: LiveModel | None = None
    history: tuple[tuple[str, str], ...] = ()
    metrics: tuple[Metric, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    def replace(self, **changes: Any) -> ModelArtifact:
        """A copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class RunContext:
    """What a component may use of its surroundings: nothing else is global.

    seed: of this run. output: where this step may write. clock: seconds, for experiments whose
    subject is time. executor: None runs in line. threads: cores the run may use. unfinished: a
    folder for what must outlive an interruption, such as paid answers: the next run of the same
    step finds it there, and it goes when the step is over; None where nobody keeps one.
    """

    seed: int
    output: Path
    progress: Progress = field(default_factory=Progress)
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("crosslayer"))
    executor: Executor | None = None
    clock: Callable[[], float] = time.perf_counter
    threads: int = 1
    unfinished: Path | None = None

    def stream_seed(self, *names: str | int) -> int:
        """A seed for one named source of randomness: equal in every process, different for every
        name.
        """
        text = "/".join([str(self.seed), *map(str, names)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def rng(self, *names: str | int) -> np.random.Generator:
        """A NumPy generator for one named source of randomness."""
        import numpy as np

        return np.random.default_rng(self.stream_seed(*names))


class ModelTransform(Protocol):
    """Model to model: a new artifact, the input untouched.

    Optional: `restore(model, files, context) -> ModelArtifact` rebuilds a cached result from the
    input artifact and the files named in `ModelArtifact.files`; without it the step runs again.
    """

    def transform(self, model: ModelArtifact, context: RunContext) -> ModelArtifact: ...


class ServingPolicy(Protocol):
    """A request to calls, and results to an answer: two pure functions."""

    def plan(self, request: Request, pool: Pool) -> ServePlan: ...
    def decide(self, request: Request, results: Sequence[CallResult]) -> Decision: ...


class AcceleratorModel(Protocol):
    """An op to its cost. `estimate` raises UnsupportedOp with the reason.

    Optional: `estimate_many(ops: OpTable) -> CostTable`, agreeing with `estimate`;
    `estimate_graph(graph) -> Cost` where ops overlap or weights stay on chip (default: nodes in
    order); `tuned_for(graphs) -> AcceleratorModel` for generators that choose their hardware,
    called once per instance; `identity(progress) -> str` where costs depend on more than the
    parameters, such as a calibration: for cache keys, called before a run's first estimate.
    """

    def supports(self, op: Op) -> bool: ...
    def estimate(self, op: Op) -> Cost: ...
    def describe(self) -> HardwareSpec: ...


class Simulator(Protocol):
    """A whole stack and requests to a report.

    Optional: `service(stack) -> CallService`, so that another simulator can run its model calls
    inside this one; `simulate_closed(stack, loop: crosslayer.traces.ClosedLoop, context) -> Report`
    for users who wait for each answer ([workload] arrivals = "closed").
    """

    def simulate(self, stack: Stack, trace: RequestTrace | None, context: RunContext) -> Report: ...


class Evaluator(Protocol):
    """A stack to metrics of quality, or of time.

    An evaluator sees no accelerators, so that its results outlive a change of them; parameters with
    `wall_clock = True` make them those of this machine. Optional: `compare(report, stack) ->
    Report` puts what the whole stack predicts beside them: cheap, called after every evaluation,
    cached or not.
    """

    def evaluate(self, stack: Stack, context: RunContext) -> Report: ...


class CallService(Protocol):
    """Runs model calls in simulated time (integer nanoseconds).

    `advance` stops at the first instant a call finishes, never beyond it, so that an answer can
    cause the next call at that instant; it returns (now, the calls that finished at now). Calls
    submitted for a later instant wait until then. `cancel` of a finished or unknown call returns
    False. Optional: `made_tokens(call_id) -> int`, output tokens of an open call by now, with which
    a cancelled one is counted (without it: none).
    """

    def submit(self, call: LLMCall, at_ns: int) -> None: ...
    def cancel(self, call_id: str) -> bool: ...
    def advance(self, until_ns: int) -> tuple[int, tuple[FinishedCall, ...]]: ...


@dataclass(frozen=True)
class Instance:
    """A model placed on an accelerator: devices, how it is split, its role, its place, its KV
    blocks.
    """

    name: str
    model: ModelArtifact
    accelerator: AcceleratorModel | None = None
    devices: int = 1
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    role: Literal["any", "prefill", "decode"] = "any"
    place: str | None = None
    kv_blocks: int | None = None
    kv_block_tokens: int = 16

    @property
    def parallel(self) -> Parallel:
        """How lowering splits the model."""
        from crosslayer.contracts.lowering import Parallel

        return Parallel(tensor=self.tensor_parallel, pipeline=self.pipeline_parallel)


@dataclass(frozen=True)
class Stack:
    """What the runner assembles from a pipeline and hands to simulators and evaluators; every part
    is optional.

    originals: each instance's model before any transform, by instance name. pool: what the policy
    chooses from, None for a member an instance. backends: what members say, by member name.
    """

    instances: tuple[Instance, ...] = ()
    policy: ServingPolicy | None = None
    network: Topology | None = None
    originals: Mapping[str, ModelArtifact] = field(default_factory=dict)
    pool: Pool | None = None
    backends: Mapping[str, TextBackend] = field(default_factory=dict)

    def instance(self, name: str | None = None) -> Instance:
        """The instance of that name; None: the only one."""
        from crosslayer.errors import InputError, nearest

        names = [instance.name for instance in self.instances]
        if name is None and len(names) == 1:
            return self.instances[0]
        for instance in self.instances:
            if instance.name == name:
                return instance
        what = f"no instance {name!r}" if name else f"{len(names)} instances and no name"
        raise InputError(f"stack: {what}; {nearest(name or '', names)}")

    def step_costs(self, instance: Instance, steps: StepTable) -> CostTable:
        """Cost of each step of a table on one instance: the hot path of every simulator."""
        from crosslayer.stepcost import step_costs

        return step_costs(instance, steps, self.network)

    def step_cost(self, instance: Instance, step: StepShape) -> Cost:
        """One row of `step_costs`."""
        from crosslayer.contracts.lowering import StepTable

        return self.step_costs(instance, StepTable.from_shapes([step])).row(0)

    def serve(
        self,
        requests: Iterable[Request],
        service: CallService,
        backend: Backend | None = None,
        *,
        pool: Pool | None = None,
        seed: int = 0,
    ) -> tuple[ServedRequest, ...]:
        """Run the policy loop over requests in order of arrival: see `crosslayer.serve.serve`.

        backend None: lengths only. pool None: the stack's, else a member for each instance. No
        policy: one call each.
        """
        from crosslayer.call_service import stack_pool
        from crosslayer.serve import OneCall, serve

        return serve(
            requests,
            self.policy or OneCall(),
            pool or self.pool or stack_pool(self),
            service,
            backend,
            seed=seed,
        )
