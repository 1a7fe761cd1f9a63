"""What arrives: model calls, other stages, and the requests that join them.

Instants are integer nanoseconds from the start of the trace, lengths are tokens, durations float
seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from pydantic import Field, model_validator

from crosslayer.contracts.base import Value
from crosslayer.errors import InputError, nearest

NANOSECONDS = 1_000_000_000
LAST_NS = 2**63 - 1  # instants fit int64 columns
LONGEST_OUTPUT = 2**20  # tokens of one call: each is a row of the table that prices them

Scalar = str | int | float | bool | None
Parameters = tuple[tuple[str, Scalar], ...]


def nanoseconds(seconds: float) -> int:
    """Whole nanoseconds of a duration in seconds."""
    return round(seconds * NANOSECONDS)


class Message(Value):
    """One turn of a conversation."""

    role: str = Field(min_length=1)
    content: str


class Prefix(Value):
    """What a prefix cache sees of a prompt: one hash a block of `block_tokens` tokens.

    A hash covers its block and every block before it, so two prompts share exactly as many blocks
    as their leading hashes are equal. The last block may be a part of one.
    """

    block_tokens: int = Field(gt=0)
    hashes: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _hashes_fit_64_bits(self) -> Prefix:
        for value in self.hashes:
            if not 0 <= value < 2**64:
                raise ValueError(f"prefix hash {value} is no unsigned 64-bit number")
        return self


class LLMCall(Value):
    """One completion of one prompt; `model`: a pool member, None until a policy has chosen.

    output_tokens: a length known beforehand (recorded, synthetic); None where the backend finds
    out. prompt_id: the prompt's name in recorded data, for backends that look answers up. sample:
    which of several independent completions of the same prompt. parameters: of decoding, for the
    backend (("temperature", 0.3), ...). A precision is a pool member, never an argument of a call.
    """

    id: str = Field(default="call", min_length=1)
    model: str | None = None
    prompt_tokens: int = Field(ge=0, le=LAST_NS)
    prefix: Prefix | None = None
    output_tokens: int | None = Field(default=None, ge=0, le=LAST_NS)
    max_tokens: int | None = Field(default=None, gt=0, le=LAST_NS)
    messages: tuple[Message, ...] | None = None
    prompt_id: str | None = None
    sample: int = Field(default=0, ge=0)
    parameters: Parameters = ()

    @model_validator(mode="after")
    def _lengths_agree(self) -> LLMCall:
        if self.prefix and len(self.prefix.hashes) > -(
            -self.prompt_tokens // self.prefix.block_tokens
        ):
            raise ValueError(
                f"call {self.id!r}: {len(self.prefix.hashes)} prefix hashes of"
                f" {self.prefix.block_tokens} tokens for a prompt of {self.prompt_tokens}"
            )
        output, limit = self.output_tokens, self.max_tokens
        if output is not None and limit is not None and output > limit:
            raise ValueError(f"call {self.id!r}: output_tokens {output} is over max_tokens {limit}")
        return self

    def to(self, model: str, sample: int = 0) -> LLMCall:
        """The same prompt for one pool member; the id tells members and samples apart."""
        return self.model_copy(
            update={"id": f"{self.id}/{model}/{sample}", "model": model, "sample": sample}
        )


class Stage(Value):
    """What is no model call: retrieval, a tool, acting. `seconds` None: its simulator knows."""

    id: str = Field(min_length=1)
    kind: str = Field(min_length=1)
    seconds: float | None = Field(default=None, ge=0)
    parameters: Parameters = ()


class Request(Value):
    """Calls and stages with their dependencies: `edges` holds (before, after) pairs of node ids.

    arrival_ns, deadline_ns: instants. session: requests of one conversation or agent share it.
    reference_answer: what an evaluator compares with; policies must not read it.
    """

    id: str = Field(min_length=1)
    arrival_ns: int = Field(ge=0, le=LAST_NS)
    nodes: tuple[LLMCall | Stage, ...] = Field(min_length=1)
    edges: tuple[tuple[str, str], ...] = ()
    session: str | None = None
    deadline_ns: int | None = Field(default=None, ge=0, le=LAST_NS)
    slo_class: str | None = None
    reference_answer: str | None = None

    @model_validator(mode="after")
    def _nodes_form_a_graph(self) -> Request:
        ids = [node.id for node in self.nodes]
        if len(set(ids)) < len(ids):
            twice = sorted({name for name in ids if ids.count(name) > 1})
            raise ValueError(f"request {self.id!r}: node id {twice[0]!r} is used twice")
        for edge in self.edges:
            for name in edge:
                if name not in ids:
                    raise ValueError(
                        f"request {self.id!r}: edge {edge} names no node {name!r};"
                        f" {nearest(name, ids)}"
                    )
        try:
            if self.edges:
                TopologicalSorter(self.before).prepare()
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))
            raise ValueError(f"request {self.id!r}: nodes wait for each other: {circle}") from None
        if self.deadline_ns is not None and self.deadline_ns < self.arrival_ns:
            raise ValueError(
                f"request {self.id!r}: deadline_ns {self.deadline_ns} is before its"
                f" arrival_ns {self.arrival_ns}"
            )
        return self

    @property
    def before(self) -> Mapping[str, tuple[str, ...]]:
        """The nodes that each node waits for, by id, in the order of the edges."""
        found: dict[str, dict[str, None]] = {node.id: {} for node in self.nodes}
        for first, second in self.edges:
            found[second][first] = None
        return {name: tuple(waits) for name, waits in found.items()}

    @property
    def calls(self) -> tuple[LLMCall, ...]:
        """The model calls among the nodes, in order."""
        return tuple(node for node in self.nodes if isinstance(node, LLMCall))

    @property
    def call(self) -> LLMCall:
        """The only model call: what a policy plans for. Errors: InputError if it is not one."""
        calls = self.calls
        if len(calls) != 1:
            raise InputError(
                f"request {self.id!r} has {len(calls)} model calls, not one; read `calls`,"
                " or let `serve` give each of them to the policy"
            )
        return calls[0]

    def part(self, call: LLMCall, at_ns: int) -> Request:
        """The request that a policy sees for one of several model calls: that call alone, ready
        at `at_ns`.
        """
        return self.model_copy(
            update={
                "id": f"{self.id}/{call.id}",
                "arrival_ns": at_ns,
                "nodes": (call,),
                "edges": (),
            }
        )


def single(
    id: str, arrival_ns: int, prompt_tokens: int, output_tokens: int | None = None
) -> Request:
    """A request of one model call, the common case."""
    call = LLMCall(prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    return Request(id=id, arrival_ns=arrival_ns, nodes=(call,))


def in_order_of_arrival(requests: Iterable[Request]) -> Iterator[Request]:
    """The requests as they come. Errors: InputError for a step back in time or an id twice."""
    last, seen = -1, set()
    for request in requests:
        if request.arrival_ns < last:
            raise InputError(
                f"request {request.id!r} arrives at {request.arrival_ns} ns, before the one in"
                f" front of it ({last} ns); sort the trace by arrival"
            )
        if request.id in seen:
            raise InputError(
                f"request id {request.id!r} is used twice; ids must be unique in a trace"
            )
        last = request.arrival_ns
        seen.add(request.id)
        yield request
