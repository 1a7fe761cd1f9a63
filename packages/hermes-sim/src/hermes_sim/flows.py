"""Requests of several stages: a graph of stages and calls, each started when what it waits for is
over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crosslayer.contracts.calls import LLMCall, Request, Stage, nanoseconds
from crosslayer.errors import InputError, nearest
from hermes_sim.calls import CANCELLED, FAILED, FINISHED, PHASES, Call
from hermes_sim.cluster import Cluster
from hermes_sim.events import ARRIVE, END
from hermes_sim.outcome import LABELS, Outcome
from hermes_sim.stages import StageServers, stage_seconds

if TYPE_CHECKING:
    from crosslayer.contracts.requests import RequestTrace
    from hermes_sim.params import HermesParams

Shares = list[tuple[str, int]]


@dataclass
class _Node:
    """A node of a request on its way. shares: what its time went to, from ready to over."""

    id: str
    what: LLMCall | Stage
    waits: int = 0
    followers: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    ready_ns: int = -1
    over_ns: int = -1
    shares: Shares = field(default_factory=list)
    call: Call | None = None  # the chain that ended it
    chains: list[Call] = field(default_factory=list)
    ended: int = 0


@dataclass
class _Job:
    row: int
    request: Request
    nodes: dict[str, _Node]
    open: int
    adds_tokens: int = 0
    calls: list[Call] = field(default_factory=list)
    made_tokens: int = 0
    failed: str = ""
    over: bool = False


class Flows:
    """Runs the requests of a trace through stages and calls. `outcome` has what became of them."""

    def __init__(
        self, cluster: Cluster, trace: RequestTrace, params: HermesParams, default: str | None
    ) -> None:
        """default: the group of calls that name nobody; None: each has to."""
        self.default = default
        self.cluster, self.trace, self.params = cluster, trace, params
        self.events = cluster.events
        self.servers = {
            name: StageServers(name, stage.servers, self.events)
            for name, stage in params.stages.items()
        }
        self._rows: list[tuple[Any, ...]] = []
        self._shares: list[Counter[str]] = []
        self._reasons: Counter[str] = Counter()
        self._calls = 0
        self.path: dict[int, list[tuple[str, int, int, Shares]]] = {}
        cluster.ended = self._call_over
        self._check()
        if len(trace):
            self.events.push(int(trace.arrival_ns[0]), ARRIVE, self._arrive, 0)

    def _check(self) -> None:
        """Every stage has someone who serves it. Errors: InputError, before anything runs."""
        for name, stage in self.params.stages.items():
            if stage.client is not None and stage.client not in self.cluster.groups:
                raise InputError(
                    f"stage {name!r}: no instance is called {stage.client!r};"
                    f" {nearest(stage.client, self.cluster.groups)}"
                )
        for request in filter(None, self.trace.whole or ()):
            for node in request.nodes:
                if isinstance(node, Stage):
                    if node.seconds is None and node.kind not in self.params.stages:
                        raise InputError(
                            f"stage {node.id!r} of request {request.id!r}: nobody serves"
                            f" {node.kind!r} and it has no seconds; add"
                            f" [simulate.stages.{node.kind}]"
                        )
                elif node.output_tokens is None:
                    raise InputError(
                        f"call {node.id!r} of request {request.id!r} has no output_tokens"
                    )

    # Requests

    def _arrive(self, now: int, row: int) -> None:
        if row + 1 < len(self.trace):
            self.events.push(int(self.trace.arrival_ns[row + 1]), ARRIVE, self._arrive, row + 1)
        job = self._job(row)
        for node in [node for node in job.nodes.values() if not node.waits]:
            self._start(job, node, now)

    def _job(self, row: int) -> _Job:
        request = self.trace.request(row)
        nodes = {node.id: _Node(node.id, node) for node in request.nodes}
        edges = list(request.edges)
        roots = [name for name in nodes if all(after != name for _, after in edges)]
        leaves = [name for name in nodes if all(before != name for before, _ in edges)]
        previous: list[str] = []
        for name in self.params.before:
            id = f"before {name}"
            nodes[id] = _Node(id, Stage(id=id, kind=name))
            edges += [(one, id) for one in previous]
            previous = [id]
        edges += [(one, root) for one in previous for root in roots]
        previous = leaves
        for name in self.params.after:
            id = f"after {name}"
            nodes[id] = _Node(id, Stage(id=id, kind=name))
            edges += [(one, id) for one in previous]
            previous = [id]
        for before, after in dict.fromkeys(edges):
            nodes[after].waits += 1
            nodes[after].before.append(before)
            nodes[before].followers.append(after)
        return _Job(row, request, nodes, len(nodes))

    def _start(self, job: _Job, node: _Node, now: int) -> None:
        node.ready_ns = now
        if isinstance(node.what, LLMCall):
            self._start_chains(job, node, node.what, now)
        else:
            self._start_stage(job, node, node.what, now)

    def _start_stage(self, job: _Job, node: _Node, stage: Stage, now: int) -> None:
        params = self.params.stages.get(stage.kind)
        tokens = job.request.calls[0].prompt_tokens if job.request.calls else 0
        if params is not None:
            job.adds_tokens += params.adds_tokens
            if params.client is not None:
                tokens = params.client_tokens or max(1, tokens)
                call = self._call(job, node, now, tokens, 1)
                self.cluster.submit(call, now, params.client)
                return
        seconds = stage.seconds
        if seconds is None:
            assert params is not None
            seconds = stage_seconds(params, tokens)
        duration = nanoseconds(seconds)

        def done(then: int) -> None:
            node.shares = [
                (f"{stage.kind} queue", then - duration - node.ready_ns),
                (stage.kind, duration),
            ]
            self._over(job, node, then)

        if params is not None:
            self.servers[stage.kind].serve(duration, now, done)
        else:
            self.events.push(now + duration, END, lambda then, _: done(then))

    def _start_chains(self, job: _Job, node: _Node, what: LLMCall, now: int) -> None:
        params = self.params
        group = what.model if what.model in self.cluster.groups else self.default
        group = self.cluster.group(group)
        output = max(1, round((what.output_tokens or 0) * params.reasoning_scale))
        prompt = max(1, what.prompt_tokens + job.adds_tokens)
        for _ in range(params.reasoning_paths):
            call = self._call(job, node, now, prompt, output)
            call.session = job.request.session
            call.rank = params.rank(job.request.slo_class)
            if what.prefix is not None:
                call.chunks, call.chunk_tokens = what.prefix.hashes, what.prefix.block_tokens
            elif params.reasoning_paths > 1:  # chains share their prompt, counted once
                call.chunks, call.chunk_tokens = (1 << 63 | node.chains[0].row,), prompt
            self.cluster.submit(call, now, group)

    def _call(self, job: _Job, node: _Node, now: int, prompt: int, output: int) -> Call:
        call = Call(self._calls, now, prompt, output)
        self._calls += 1
        call.tag = (job, node)
        node.chains.append(call)
        job.calls.append(call)
        return call

    def _call_over(self, call: Call, now: int, status: int, reason: str) -> None:
        job, node = call.tag
        if isinstance(node.what, LLMCall):
            job.made_tokens += call.generated
        if status == CANCELLED:
            return
        node.ended += 1
        if status == FAILED:
            job.failed = reason
        wanted = len(node.chains)
        if isinstance(node.what, LLMCall):
            wanted = max(wanted, self.params.reasoning_paths)
            if self.params.reasoning_end == "majority":
                wanted = wanted // 2 + 1
        if node.over_ns >= 0 or node.ended < wanted:
            return
        node.call = call
        kind = "" if isinstance(node.what, LLMCall) else f"{node.what.kind}: "
        node.shares = [
            (kind + LABELS[phase], spent) for phase, spent in zip(PHASES, call.spent, strict=True)
        ]
        for other in node.chains:
            if other.last_ns < 0 and not other.cancelled:
                self.cluster.cancel(other, now)
        self._over(job, node, now)

    def _over(self, job: _Job, node: _Node, now: int) -> None:
        node.over_ns = now
        job.open -= 1
        if job.over:
            return
        if not job.open or job.failed:
            job.over = True
            self._end(job, node, now)
            return
        for name in node.followers:
            follower = job.nodes[name]
            follower.waits -= 1
            if not follower.waits:
                self._start(job, follower, now)

    def _end(self, job: _Job, last: _Node, now: int) -> None:
        """Books a request: the way back through what each node waited for last is its whole
        time.
        """
        way: list[_Node] = [last]
        while way[-1].before:
            over = [job.nodes[name] for name in way[-1].before]
            way.append(max(over, key=lambda node: node.over_ns))
        shares: Counter[str] = Counter()
        steps = []
        first = -1
        after = 0
        for node in way:
            for name, spent in node.shares:
                shares[name] += spent
            steps.append((node.id, node.ready_ns, node.over_ns, node.shares))
            if first < 0 and node.call is not None and isinstance(node.what, LLMCall):
                first, after = node.call.first_ns, now - node.over_ns
        self._shares.append(shares)
        self.path[job.row] = steps[::-1]
        if job.failed:
            self._reasons[job.failed] += 1
        chains = [call for call in job.calls if isinstance(call.tag[1].what, LLMCall)]
        answer = next((n.call for n in way if n.call and isinstance(n.what, LLMCall)), None)
        self._rows.append(
            (
                job.row, job.request.arrival_ns, first, now, sum(c.prompt for c in chains),
                answer.generated if answer else 0, FAILED if job.failed else FINISHED,
                sum(c.preemptions for c in chains), sum(c.cached_tokens for c in chains), after,
                len(chains), job.made_tokens,
            )
        )  # fmt: skip

    def outcome(self) -> Outcome:
        """The requests that have ended, in order of arrival."""
        order = sorted(range(len(self._rows)), key=lambda i: self._rows[i][0])
        table = np.array([self._rows[i] for i in order], dtype=np.int64).reshape(-1, 12)
        names = sorted({name for shares in self._shares for name in shares})
        breakdown = {
            name: np.array([self._shares[i][name] for i in order], dtype=np.int64) for name in names
        }
        label = self.trace.slo_class
        rows, arrival, first, last, prompt, output, status, preemptions, cached, *more = table.T
        after, calls, made = more
        return Outcome(
            rows,
            arrival,
            first,
            last,
            prompt,
            output,
            status,
            preemptions,
            cached,
            breakdown=breakdown,
            classes=None if label is None else [label.at(int(row)) for row in rows],
            censored=len(self.trace) - len(order),
            after_ns=after,
            calls=calls,
            made_tokens=made,
            reasons=self._reasons,
            ids=[self.trace.id(int(row)) for row in rows],
            stage_ns={name: one.busy_ns for name, one in self.servers.items()},
        )


def needs_flows(trace: RequestTrace, params: HermesParams) -> bool:
    """Whether requests are more than one plain call."""
    graphs = any(
        request is not None and (len(request.nodes) > 1 or isinstance(request.nodes[0], Stage))
        for request in trace.whole or ()
    )
    chains = params.reasoning_paths > 1 or params.reasoning_scale != 1
    return graphs or chains or bool(params.before or params.after)


def known_groups(trace: RequestTrace, groups: Mapping[str, Any], default: str | None) -> list[str]:
    """The group of each request of one call; labels that name nobody go to the only group.

    Errors: InputError where there are several models and nothing says which.
    """
    if trace.model is None or not any(name in groups for name in trace.model.names):
        if default is None:
            raise InputError(
                "requests name no model and the stack has several; add a policy that chooses, or"
                f" name them in the trace ({', '.join(groups)})"
            )
        return [default]
    found = []
    for row in range(len(trace)):
        name = trace.model.at(row)
        if name is None or name not in groups:
            if default is None:
                raise InputError(
                    f"request {trace.id(row)!r} names the model {name!r};"
                    f" {nearest(name or '', groups)}"
                )
            name = default
        found.append(name)
    return found
