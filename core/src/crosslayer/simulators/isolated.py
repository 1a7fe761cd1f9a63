"""The built-in simulator `isolated`: every call alone on an idle instance of its member.

No queue, no batch, no prefix cache: the floor under what any serving system can reach with these
calls, and what a policy's extra calls cost by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crosslayer.backends.members import MemberBackend
from crosslayer.call_service import IsolatedService, stack_pool
from crosslayer.contracts.calls import LLMCall, Request
from crosslayer.contracts.report import (
    Cell,
    Column,
    Figure,
    Metric,
    Panel,
    Report,
    Series,
    Table,
)
from crosslayer.contracts.serving import CallResult, ServedRequest
from crosslayer.errors import InputError
from crosslayer.policy_loop import PolicyLoop
from crosslayer.serve import Backend, LengthsOnly, OneCall, serve_each
from crosslayer.serving_params import IsolatedParams
from crosslayer.traces.closed_loop import ClosedLoop, serve_closed
from crosslayer.written import write_csv

if TYPE_CHECKING:
    from crosslayer.contracts.requests import RequestTrace
    from crosslayer.kinds import RunContext, Stack

PERCENTILES = (50, 90, 99)
COLUMNS = (
    Column(name="request"),
    Column(name="arrival", unit="s"),
    Column(name="first token", unit="s", provenance="modelled"),
    Column(name="latency", unit="s", provenance="modelled"),
    Column(name="calls"),
    Column(name="prompt tokens", unit="token"),
    Column(name="output tokens", unit="token"),
    Column(name="members"),
)


class Isolated:
    """Prices each call with the stack's step costs; the policy loop runs over them."""

    def __init__(self, params: IsolatedParams | None = None) -> None:
        self.params = params or IsolatedParams()

    def service(self, stack: Stack) -> IsolatedService:
        """The same service for another simulator's calls."""
        return IsolatedService.for_stack(stack)

    def simulate(self, stack: Stack, trace: RequestTrace | None, context: RunContext) -> Report:
        """Percentiles of time to first token and latency, a table of requests, all in a CSV file.

        Time to first token: from arrival to the first token of any of the request's calls. A call
        counts with its prompt and the tokens it made, up to its cancellation if it had one. What
        calls say comes from the stack's backends where they have messages; else each is as long as
        it says. Errors: InputError without requests.
        """
        if trace is None or not len(trace):
            raise InputError("isolated needs requests to serve; add a [workload]")
        asks = bool(stack.backends) and all(
            call.messages for request in trace for call in request.calls
        )
        loop = self._loop(stack, MemberBackend(stack.backends) if asks else LengthsOnly(), context)
        rows: dict[str, _Row] = {}  # in order of arrival

        def arriving() -> Iterator[Request]:
            for request in context.progress.track(trace, "serving", total=len(trace)):
                rows[request.id] = _Row()
                yield request

        for one in serve_each(arriving(), loop):
            rows[one.request.id] = _row(one)
        return self._report(stack, list(rows.values()), context)

    def simulate_closed(self, stack: Stack, users: ClosedLoop, context: RunContext) -> Report:
        """The same for users who wait for an answer before they ask again."""
        loop = self._loop(stack, LengthsOnly(), context)
        return self._report(stack, [_row(one) for one in serve_closed(users, loop)], context)

    def _loop(self, stack: Stack, backend: Backend, context: RunContext) -> PolicyLoop:
        policy, pool = stack.policy or OneCall(), stack.pool or stack_pool(stack)
        return PolicyLoop(policy, pool, self.service(stack), backend, seed=context.seed)

    def _report(self, stack: Stack, served: Sequence[_Row], context: RunContext) -> Report:
        rows = [one.cells for one in served]
        file = write_csv(context.output / "requests.csv", "requests", COLUMNS, rows)
        source = f"isolated calls on {', '.join(instance.name for instance in stack.instances)}"
        return Report(
            title="Every call alone",
            metrics=tuple(_metrics(served, rows, source)),
            tables=(_table(rows, self.params.table_rows),),
            figures=(_distribution(rows, source),),
            files=(file,),
            notes=("Every call runs alone on an idle instance: no queue, batch or prefix cache.",),
        )


class _Row(NamedTuple):
    """What is kept of a request: a million of them must fit. late: None without a deadline."""

    cells: tuple[Cell, ...] = ()
    late: bool | None = None


def _row(served: ServedRequest) -> _Row:
    arrival = served.request.arrival_ns
    firsts = [
        result.finished.first_token_ns
        for result in served.results
        if result.finished.first_token_ns is not None
    ]
    ended, left = served.results + served.cancelled, served.left_running
    members = dict.fromkeys(call.model or "" for call in (*(r.call for r in ended), *left))
    spent: tuple[CallResult | LLMCall, ...] = (*ended, *left)
    cells = (
        served.request.id,
        arrival / 1e9,
        (min(firsts) - arrival) / 1e9 if firsts else None,
        served.seconds,
        len(spent),
        sum(one.prompt_tokens for one in spent),
        sum(one.output_tokens or 0 for one in spent),
        ", ".join(members),
    )
    return _Row(cells, None if served.request.deadline_ns is None else served.missed_deadline)


def _metrics(served: Sequence[_Row], rows: list[tuple[Cell, ...]], source: str) -> list[Metric]:
    common: dict[str, Any] = {"provenance": "modelled", "source": source, "samples": len(rows)}
    made = []
    for name, column in (("ttft", 2), ("latency", 3)):
        values = [float(row[column] or 0) for row in rows if row[column] is not None]
        for share, value in zip(
            PERCENTILES, np.percentile(values, PERCENTILES) if values else (), strict=False
        ):
            made.append(
                Metric(
                    name=f"{name}_p{share}_s",
                    value=float(value),
                    unit="s",
                    better="lower",
                    **common,
                )
            )
    for name, column, unit in (
        ("calls_per_request", 4, "call/request"),
        ("prompt_tokens_per_request", 5, "token/request"),
        ("output_tokens_per_request", 6, "token/request"),
    ):
        mean = float(np.mean([float(row[column] or 0) for row in rows]))
        made.append(Metric(name=name, value=mean, unit=unit, better="lower", **common))
    late_ones = [one.late for one in served if one.late is not None]
    if late_ones:
        late = sum(late_ones) / len(late_ones)
        late_of = common | {"samples": len(late_ones)}
        made.append(
            Metric(name="missed_deadlines", value=late, unit="fraction", better="lower", **late_of)
        )
    return made


def _table(rows: list[tuple[Cell, ...]], shown: int) -> Table:
    note = "Times are from the request's arrival."
    if len(rows) > shown:
        note += f" The first {shown} of {len(rows)} requests; requests.csv has all of them."
    return Table(
        name="requests", title="Requests", columns=COLUMNS, rows=tuple(rows[:shown]), note=note
    )


def _distribution(rows: list[tuple[Cell, ...]], source: str) -> Figure:
    """Latencies at 0, 1, ... 100 %: as many points for a million requests."""
    shares = np.arange(101)
    values = np.percentile([float(row[3] or 0) for row in rows], shares)
    series = Series(
        label="latency", x=tuple(float(value) for value in values), y=tuple(shares / 100)
    )
    return Figure(
        name="latency_distribution",
        title="Share of requests that are over within a time",
        x_label="latency (s)",
        panels=(Panel(series=(series,), y_label="share of requests", kind="line"),),
        provenance="modelled",
        source=source,
    )
