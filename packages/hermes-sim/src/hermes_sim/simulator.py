"""The component `hermes`: a stack under a trace of requests, as a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crosslayer.backends.members import MemberBackend
from crosslayer.call_service import stack_pool
from crosslayer.contracts.calls import LAST_NS, Request
from crosslayer.contracts.report import Column, Report, WrittenFile
from crosslayer.contracts.serving import Pool, PoolMember
from crosslayer.errors import DependencyError, InputError
from crosslayer.policy_loop import PolicyLoop
from crosslayer.serve import LengthsOnly, OneCall, serve_each
from crosslayer.traces.closed_loop import ClosedLoop, serve_closed
from crosslayer.written import write_csv, written
from hermes_sim.agents import agent_trace
from hermes_sim.build import build, default_group, service_groups
from hermes_sim.chrome_trace import write_chrome_trace
from hermes_sim.cluster import Cluster, TraceFeed
from hermes_sim.flows import Flows, known_groups, needs_flows
from hermes_sim.metrics import Calls
from hermes_sim.outcome import Outcome, of_calls
from hermes_sim.params import HermesParams
from hermes_sim.report import Shown, figures, file_columns, file_rows, metrics, tables
from hermes_sim.served import ServedRows
from hermes_sim.service import HermesService
from hermes_sim.stages import StageTimes
from hermes_sim.tape import Tape

if TYPE_CHECKING:
    from crosslayer.contracts.requests import RequestTrace
    from crosslayer.kinds import RunContext, Stack


class Hermes:
    """The simulator. `service` runs other simulators' calls inside it."""

    def __init__(self, params: HermesParams | None = None) -> None:
        self.params = params or HermesParams()
        if self.params.requests_file == "parquet":
            _find("pandas", "pyarrow")

    def service(self, stack: Stack) -> HermesService:
        """A `CallService` over the stack's instances. Routing by chance takes the seed 0."""
        cluster, _, _ = build(stack, self.params, 0)
        return HermesService(cluster)

    def simulate(self, stack: Stack, trace: RequestTrace | None, context: RunContext) -> Report:
        """Percentiles of latencies, goodput, energy, cost; where time went; a file of requests.

        Errors: InputError without requests, for calls of unknown length, for a stack that does not
        fit its memory.
        """
        if trace is None or not len(trace):
            raise InputError("hermes needs requests to serve; add a [workload]")
        if self.params.agents is not None:
            trace = agent_trace(trace, self.params.agents, context.stream_seed("hermes", "agents"))
        cluster, tape, notes = build(stack, self.params, context.stream_seed("hermes"))
        if stack.policy is not None or stack.backends:
            outcome = self._with_policy(stack, trace, cluster, context, notes)
        else:
            outcome = self.run(stack, trace, cluster)
        return self._report(stack, outcome, cluster, tape, notes, context)

    def simulate_closed(self, stack: Stack, users: ClosedLoop, context: RunContext) -> Report:
        """The same for users who wait for an answer before they ask again."""
        if self.params.agents is not None:
            raise InputError(
                "users who wait ask single calls; with agents use other arrivals or a trace"
            )
        cluster, tape, notes = build(stack, self.params, context.stream_seed("hermes"))
        pool = self._pool(stack, cluster, by_model=stack.policy is None)
        books: dict[str, tuple[int, int]] = {}
        times = StageTimes(self.params.stages)
        loop = PolicyLoop(
            stack.policy or OneCall(), pool, HermesService(cluster, books), LengthsOnly(),
            seed=context.seed, stage_seconds=times,
        )  # fmt: skip
        rows = ServedRows(books)
        for one in serve_closed(users, loop, self._until_ns):
            rows.add(one)
        made = min(len(users), len(rows) + users.users)
        outcome = rows.outcome({}, censored=made - len(rows))
        return self._report(stack, outcome, cluster, tape, notes, context)

    def run(self, stack: Stack, trace: RequestTrace, cluster: Cluster) -> Outcome:
        """Run a trace on a cluster that was built for the stack, without a policy."""
        params, until = self.params, self._until_ns
        if needs_flows(trace, params):
            flows = Flows(cluster, trace, params, default_group(stack, cluster.groups))
            cluster.events.run(until)
            return flows.outcome()
        unknown = np.flatnonzero(trace.output_tokens < 0)
        if len(unknown):
            raise InputError(
                f"request {trace.id(int(unknown[0]))!r} has no output_tokens, so nothing says how"
                " long it takes"
            )
        groups = known_groups(trace, cluster.groups, default_group(stack, cluster.groups))
        ranks = []
        if params.queue == "priority":
            label = trace.slo_class
            ranks = [params.rank(label.at(row) if label else None) for row in range(len(trace))]
        TraceFeed(cluster, trace, groups, ranks)
        cluster.events.run(until)
        return of_calls(Calls(cluster.ledger.columns()), trace, cluster.reasons)

    def _with_policy(
        self, stack: Stack, trace: RequestTrace, cluster: Cluster, context: RunContext,
        notes: list[str],
    ) -> Outcome:  # fmt: skip
        if self.params.before or self.params.after or self.params.reasoning_paths > 1:
            raise InputError(
                "a policy plans each call itself; with [policy], put stages into the trace instead"
                " of `before`, `after` or `reasoning_paths`"
            )
        asks = bool(stack.backends) and all(
            call.messages for request in trace for call in request.calls
        )
        books: dict[str, tuple[int, int]] = {}
        times = StageTimes(self.params.stages)
        ranks: dict[str, int] = {}
        loop = PolicyLoop(
            stack.policy or OneCall(), self._pool(stack, cluster),
            HermesService(cluster, books, ranks),
            MemberBackend(stack.backends) if asks else LengthsOnly(),
            seed=context.seed, stage_seconds=times,
        )  # fmt: skip
        rows, position = ServedRows(books), dict[str, int]()

        def arriving() -> Iterator[Request]:
            for request in context.progress.track(trace, "serving", total=len(trace)):
                position[request.id] = len(position)
                if rank := self.params.rank(request.slo_class):
                    ranks[request.id] = rank
                yield request

        for one in serve_each(arriving(), loop, self._until_ns):
            rows.add(one)
        notes.append("Calls are planned by the policy; stages between them have servers enough.")
        outcome = rows.outcome(position, censored=len(trace) - len(rows))
        return replace(outcome, stage_ns=times.spent_ns)

    def _pool(self, stack: Stack, cluster: Cluster, by_model: bool = False) -> Pool:
        """The stack's pool; else a member an instance, or one a model where roles are split or
        `by_model` says so.
        """
        if stack.pool is not None:
            cluster.groups = service_groups(cluster.groups, stack.pool.names)
            return stack.pool
        if not by_model and all(one.role == "any" for one in stack.instances):
            return stack_pool(stack)
        specs = {one.model.spec.name: one.model.spec for one in stack.instances}
        members = [
            PoolMember(name=name, spec=specs.get(name)) for name in cluster.groups if name in specs
        ]
        return Pool(members=tuple(members))

    @property
    def _until_ns(self) -> int:
        """When the simulation ends."""
        return LAST_NS if self.params.until_s is None else round(self.params.until_s * 1e9)

    def _report(
        self, stack: Stack, outcome: Outcome, cluster: Cluster, tape: Tape,
        notes: Sequence[str], context: RunContext,
    ) -> Report:  # fmt: skip
        models = dict.fromkeys(client.model.name for client in cluster.clients)
        source = f"hermes, scheduler {self.params.scheduler}: {'; '.join(models)}"
        shown = Shown(outcome, tape, cluster.clients, self.params, source)
        failures = [f"{count} requests failed: {why}" for why, count in outcome.reasons.items()]
        if tape.rows > tape.limit:
            failures.append(f"Timeline and trace hold the first {tape.limit} steps.")
        return Report(
            title="Serving simulation",
            metrics=tuple(metrics(shown)),
            tables=tuple(tables(shown)),
            figures=tuple(figures(shown)),
            files=tuple(self._files(outcome, cluster, tape, context.output)),
            notes=(*notes, *failures),
        )

    def _files(
        self, outcome: Outcome, cluster: Cluster, tape: Tape, folder: Path
    ) -> list[WrittenFile]:
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        columns, rows = file_columns(outcome), file_rows(outcome)
        if self.params.requests_file == "parquet":
            files.append(_write_parquet(folder / "requests.parquet", columns, rows))
        else:
            files.append(write_csv(folder / "requests.csv", "requests", columns, rows))
        if self.params.chrome_trace:
            path = folder / "trace.json"
            write_chrome_trace(path, tape, cluster.clients, outcome)
            files.append(written(path, "chrome-trace", "application/json"))
        return files


def _find(*modules: str) -> None:
    """Errors: DependencyError for a module that is not installed."""
    for name in modules:
        if find_spec(name) is None:
            raise DependencyError(
                f"requests_file = 'parquet' needs {name}, which is not installed; install the core"
                " with its extra 'data', or write 'csv'"
            )


def _write_parquet(
    path: Path, columns: Sequence[Column], rows: Sequence[Sequence[object]]
) -> WrittenFile:
    from crosslayer.contracts.shown import data_frame

    names = [
        column.name.replace(" ", "_") + ("_s" if column.unit == "s" else "") for column in columns
    ]
    data_frame(names, rows).to_parquet(path, index=False)
    return written(path, "requests", "application/vnd.apache.parquet")
