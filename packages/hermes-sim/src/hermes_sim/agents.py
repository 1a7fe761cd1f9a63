"""Requests of agents: graphs of calls that depend on each other, made of plain requests.

A prompt holds the system prompt, the question, and what calls and tools before it have written, so
it grows from call to call and begins as the one before. chain: calls in a row. loop: the same with
a tool between two calls, and as often as the agent finds it needs to: after each call another turn
follows with probability 1 - 1 / calls (so `calls` in the mean). fan_out: one call plans, others
work on its answer at once, the last one joins what they have written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from crosslayer.contracts.calls import LLMCall, Prefix, Request, Stage
from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import InputError

if TYPE_CHECKING:
    from hermes_sim.params import AgentParams

BLOCK_TOKENS = 16  # of the prefix hashes
SYSTEM = 1 << 62  # the hashes of the system prompt, which all requests share
MOST_TURNS = 1000  # of a loop


def agent_trace(trace: RequestTrace, params: AgentParams, seed: int) -> RequestTrace:
    """Each request as the graph of an agent, which arrives when it did. Its prompt is the question,
    and each call writes as many tokens as it did. Errors: InputError for requests that are graphs
    already, or have no output_tokens.
    """
    rng = np.random.default_rng(seed)
    return RequestTrace.from_requests(_requests(trace, params, rng))


def _requests(
    trace: RequestTrace, params: AgentParams, rng: np.random.Generator
) -> Iterator[Request]:
    for row, request in enumerate(trace):
        if len(request.nodes) > 1 or isinstance(request.nodes[0], Stage):
            raise InputError(
                f"request {request.id!r} is a graph already; leave [simulate.agents] out, or give"
                " requests of one call"
            )
        if request.call.output_tokens is None:
            raise InputError(f"request {request.id!r} has no output_tokens; an agent's calls do")
        made = _Agent(row, request.call, params)
        if params.shape == "fan_out":
            made.fan_out(params.calls)
        elif params.shape == "chain":
            made.row(params.calls, None)
        else:
            turns = min(int(rng.geometric(1 / params.calls)), MOST_TURNS)
            made.row(turns, rng.exponential(params.tool_s, turns - 1).tolist())
        yield request.model_copy(
            update={
                "nodes": tuple(made.nodes),
                "edges": tuple(made.edges),
                "session": request.session or request.id,
            }
        )


class _Agent:
    """The graph of one request."""

    def __init__(self, row: int, question: LLMCall, params: AgentParams) -> None:
        self.row_of, self.question, self.params = row, question, params
        self.output = question.output_tokens or 0
        self.start = params.system_tokens + question.prompt_tokens
        self.nodes: list[LLMCall | Stage] = []
        self.edges: list[tuple[str, str]] = []

    def row(self, calls: int, tools: list[float] | None) -> None:
        """Calls one after the other, with a tool of so many seconds between two of them."""
        prompt, before = self.start, ""
        for i in range(calls):
            name = f"call {i}"
            self._call(name, prompt, prompt, 0, [before] if before else [])
            prompt, before = prompt + self.output, name
            if tools is not None and i + 1 < calls:
                before = f"tool {i}"
                self.nodes.append(Stage(id=before, kind="tool", seconds=tools[i]))
                self.edges.append((name, before))
                prompt += self.params.tool_tokens

    def fan_out(self, branches: int) -> None:
        """A plan, branches that each get a part of the task, and what joins them."""
        self._call("plan", self.start, self.start, 0, [])
        shared = self.start + self.output
        names = [f"branch {i}" for i in range(branches)]
        for i, name in enumerate(names):
            self._call(name, shared + self.params.tool_tokens, shared, i + 1, ["plan"])
        self._call("join", shared + branches * self.output, shared, branches + 1, names)

    def _call(self, name: str, prompt: int, shared: int, branch: int, after: list[str]) -> None:
        """`shared`: tokens of the prompt that all calls of this request have; what comes behind
        them is the branch's own.
        """
        system = self.params.system_tokens // BLOCK_TOKENS
        own = self.row_of + 1
        hashes = [
            SYSTEM | i if i < system
            else own << 32 | i if (i + 1) * BLOCK_TOKENS <= shared
            else own << 32 | branch << 22 | i
            for i in range(prompt // BLOCK_TOKENS)
        ]  # fmt: skip
        self.nodes.append(
            self.question.model_copy(
                update={
                    "id": name,
                    "prompt_tokens": prompt,
                    "prefix": Prefix(block_tokens=BLOCK_TOKENS, hashes=tuple(hashes)),
                }
            )
        )
        self.edges += [(one, name) for one in after]
