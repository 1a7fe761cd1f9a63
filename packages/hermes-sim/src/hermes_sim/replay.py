"""Equal clients of one model under a trace: the shortest way from a step model to times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crosslayer.contracts.requests import RequestTrace
from hermes_sim.batching import Batching
from hermes_sim.blocks import Blocks
from hermes_sim.client import Client
from hermes_sim.cluster import Cluster, Group, TraceFeed
from hermes_sim.events import Events
from hermes_sim.metrics import Calls
from hermes_sim.pipelined import client_of
from hermes_sim.router import router
from hermes_sim.step_models.protocol import StepModel
from hermes_sim.tape import Tape

UNLIMITED = 1 << 50  # KV blocks where memory is no limit


@dataclass(frozen=True)
class Replayed:
    """What became of every call, what the clients did, and who they were."""

    calls: Calls
    tape: Tape
    clients: tuple[Client, ...]

    @property
    def preemptions(self) -> int:
        """Calls that lost their blocks and were computed anew, each time counted."""
        return sum(client.preemptions for client in self.clients)

    @property
    def beyond(self) -> int:
        """Iterations that the step model has extrapolated."""
        return sum(client.beyond for client in self.clients)


def replay(
    trace: RequestTrace, model: StepModel, rules: Batching, *, kv_blocks: int | None = None,
    block_tokens: int = 16, clients: int = 1, routing: str = "least_requests", seed: int = 0,
    context_tokens: int | None = None, run_ahead: bool = True, tape_rows: int = 2_000_000,
    ranks: Sequence[int] = (),
) -> Replayed:  # fmt: skip
    """Run a trace of one call a request to its end.

    kv_blocks: of each client; None: memory is no limit. run_ahead False: one event an iteration,
    the same result. ranks: of each request, for rules with priorities.
    """
    events, tape = Events(), Tape(tape_rows)
    cluster = Cluster(
        events, {}, router(routing, np.random.default_rng(seed)), context_tokens=context_tokens
    )
    total = UNLIMITED if kv_blocks is None else kv_blocks
    made = [
        client_of(
            i, f"client {i}", model, rules, Blocks(total, block_tokens, rules.prefix_caching),
            events, cluster, tape, run_ahead=run_ahead,
        )
        for i in range(clients)
    ]  # fmt: skip
    cluster.clients = made
    cluster.groups = {"all": Group("all", made)}
    TraceFeed(cluster, trace, ["all"], ranks)
    events.run(2**63 - 1)
    return Replayed(Calls(cluster.ledger.columns()), tape, tuple(made))
