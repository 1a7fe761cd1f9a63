"""Parameters of the simulator `hermes`; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scheduler = Literal["static", "continuous", "mixed", "chunked", "vllm_v1"]
Router = Literal[
    "round_robin", "random", "least_requests", "least_tokens", "least_kv", "length_split",
    "prefix_aware", "session_affinity",
]  # fmt: skip


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Objectives(_Params):
    """Upper limits that a good request keeps, all of them; left out: no limit."""

    ttft_s: float | None = Field(None, gt=0, le=1e6, description="Time to first token.")
    tpot_s: float | None = Field(
        None, gt=0, le=1e6, description="Time per output token after the first."
    )
    e2e_s: float | None = Field(None, gt=0, le=1e6, description="Arrival to last token.")
    priority: int = Field(
        0, ge=-1000, le=1000, description="With queue = 'priority': lower ones are served first."
    )


class StageParams(_Params):
    """How a stage that is no model call is served: first come first served by `servers`."""

    servers: int = Field(1, ge=1, le=100_000, description="Requests that are served at once.")
    seconds: float = Field(0.0, ge=0, le=1e6, description="Fixed seconds of one request.")
    watts: float | None = Field(
        None, ge=0, le=1e6, description="Of a server while it serves; left out: not counted."
    )
    token_s: float = Field(
        0.0, ge=0, le=1e3, description="Seconds a token of the request's prompt, beside them."
    )
    vectors: int = Field(
        0, ge=0, le=10**13, description="Vectors of a search index (IVF-PQ); 0: it is no search."
    )
    code_bytes: int = Field(64, ge=1, le=1 << 20, description="Bytes of one vector's PQ code.")
    dimensions: int = Field(768, ge=1, le=1 << 20, description="Of a centroid, in fp32.")
    lists: int = Field(65_536, ge=1, le=10**9, description="Inverted lists: centroids.")
    probes: int = Field(64, ge=1, le=10**9, description="Lists that a query scans.")
    scan_bytes_per_s: float = Field(
        5e10, gt=0, le=1e16, description="Bytes that a server scans in a second."
    )
    client: str | None = Field(
        None,
        min_length=1,
        description="Instance that runs the stage as the prefill of a model: an embedder, a "
        "reranker, a guard.",
    )
    client_tokens: int = Field(
        0,
        ge=0,
        le=10**7,
        description="Tokens of that prefill; 0: those of the request's prompt.",
    )
    adds_tokens: int = Field(
        0, ge=0, le=10**7, description="Tokens that it adds to the prompt: retrieved passages."
    )


class TierParams(_Params):
    """A memory behind the accelerators' own, which keeps keys and values of prompt prefixes."""

    name: str = Field(min_length=1, max_length=100, description="Such as host, rack or remote.")
    gigabytes: float = Field(gt=0, le=1e9, description="Capacity, 1e9 bytes each.")
    bytes_per_s: float = Field(
        gt=0, le=1e15, description="Bandwidth, shared by the transfers that are on their way."
    )
    latency_s: float = Field(0.0, ge=0, le=1e3, description="Before the first byte arrives.")
    shared: bool = Field(
        True, description="One for all clients; false: one of this capacity for each client."
    )


class SpeculationParams(_Params):
    """Speculative decoding: a draft proposes tokens, one pass of the model checks them."""

    tokens: int = Field(3, ge=1, le=64, description="Drafted before each check.")
    acceptance: float = Field(
        ge=0, le=1, description="Probability that a drafted token is accepted: an assumption."
    )
    draft_share: float = Field(
        0.1,
        ge=0,
        le=10,
        description="Seconds of a drafted token of all calls, as a share of a plain decode step.",
    )


class AgentParams(_Params):
    """Every request of the workload as a graph of calls that depend on each other."""

    shape: Literal["chain", "fan_out", "loop"] = Field(
        "loop",
        description="chain: calls in a row; fan_out: a plan, branches at once, a call that joins "
        "them; loop: calls with a tool between two of them.",
    )
    calls: int = Field(
        4,
        ge=1,
        le=200,
        description="Of a chain; branches of a fan-out; turns of a loop in the mean (geometric).",
    )
    tool_s: float = Field(
        0.0, ge=0, le=1e6, description="Mean seconds of a tool in a loop (exponential)."
    )
    tool_tokens: int = Field(
        0,
        ge=0,
        le=10**6,
        description="Tokens that a tool's result, or a branch's task, adds to the prompt.",
    )
    system_tokens: int = Field(
        0, ge=0, le=10**6, description="Tokens with which the prompts of all requests begin alike."
    )


class HermesParams(_Params):
    """Discrete-event simulation of the whole stack under a trace of requests."""

    needs_requests: ClassVar[bool] = True

    scheduler: Scheduler = Field(
        "vllm_v1",
        description="Which calls are in a step. static: a batch until its last call ends; "
        "continuous: whole prompts in steps of their own (Orca); mixed: whole prompts beside "
        "decodes; chunked: prompts in chunks beside decodes (Sarathi); vllm_v1: chunked as vLLM "
        "does it, with prefix caching.",
    )
    max_calls: int = Field(256, ge=1, le=1 << 20, description="Calls of one client at once.")
    token_budget: int | None = Field(
        None, ge=1, le=1 << 30, description="Tokens of one step; left out: the scheduler's own."
    )
    prefix_caching: bool | None = Field(
        None, description="Whether freed blocks keep their content; left out: only under vllm_v1."
    )
    queue: Literal["fcfs", "priority", "least_work_left"] = Field(
        "fcfs",
        description="Order of a client's queue. priority: that of the request's SLO class, whose "
        "last ones lose their blocks first; least_work_left: the shortest call first.",
    )
    router: Router = Field("least_requests", description="Which client of a group gets a call.")
    decode_router: Router | None = Field(
        None, description="The same for calls that a prefill client hands over; left out: router."
    )
    split_tokens: int = Field(
        2048, ge=1, le=1 << 30, description="Router length_split: longer prompts go to one half."
    )
    hand_off: Literal["whole", "layerwise"] = Field(
        "whole",
        description="Keys and values to decode clients: after the prefill, or layer by layer with "
        "it, so that only the rest is waited for.",
    )
    hand_off_scope: Literal["global", "local"] = Field(
        "global",
        description="To any decode client of the model, or the one of the same position (pairs).",
    )
    hand_off_bytes_per_s: float = Field(
        5e10, gt=0, le=1e15, description="Rate of a hand-off where no [network] has a way for it."
    )
    kv_memory: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of the memory that weights and KV blocks may fill, where an instance "
        "gives no kv_blocks.",
    )
    context_tokens: int | None = Field(
        None, ge=1, le=1 << 40, description="Longest call that is taken; left out: what fits."
    )
    profile: Path | None = Field(
        None,
        description="What prices steps instead of the accelerators: a folder with a kernel profile "
        "(LLMServingSim's or vidur's format), a splitwise table (.csv) or a fit of `hermes-sim "
        "fit` (.json).",
    )
    profile_network: Path | None = Field(
        None,
        description="Folder of vidur's all_reduce.csv and send_recv.csv; left out: the profile's.",
    )
    profile_model: str | None = Field(
        None, min_length=1, description="Which model of a splitwise table; left out: the only one."
    )
    profile_hardware: str | None = Field(
        None, min_length=1, description="Which hardware of it; left out: the only one."
    )
    before: tuple[str, ...] = Field(
        (), description="Stages of every request before its call, in order: names of `stages`."
    )
    after: tuple[str, ...] = Field((), description="The same after its call.")
    stages: dict[str, StageParams] = Field(
        {}, description="How stages are served, by their name: [simulate.stages.search]."
    )
    speculation: SpeculationParams | None = Field(
        None, description="Speculative decoding of clients that decode; left out: none."
    )
    agents: AgentParams | None = Field(
        None,
        description="Makes an agent's graph of calls of each request; left out: as they come.",
    )
    reasoning_paths: int = Field(
        1, ge=1, le=1024, description="Chains of thought of a call, which share its prompt."
    )
    reasoning_scale: float = Field(
        1.0, gt=0, le=1000, description="Output tokens of a chain, as a multiple of the call's."
    )
    reasoning_end: Literal["all", "majority"] = Field(
        "all", description="When the call is over: with its last chain, or with more than half."
    )
    tiers: tuple[TierParams, ...] = Field(
        (), max_length=16, description="Memories behind the clients' own, fastest first."
    )
    tier_policy: Literal["cheaper", "always"] = Field(
        "cheaper",
        description="A prefix found in a tier is fetched if that is quicker than computing it, or "
        "always.",
    )
    slo: dict[str, Objectives] = Field(
        {},
        description="Objectives by SLO class: [simulate.slo.default] counts for all without one.",
    )
    dollars_per_device_hour: float | None = Field(
        None, ge=0, le=1e6, description="Price of a device; left out: no cost is reported."
    )
    idle_watts: float | None = Field(
        None, ge=0, le=1e6, description="Of a device that waits; left out: energy of steps alone."
    )
    until_s: float | None = Field(
        None, gt=0, le=1e9, description="End of the simulation; calls that are open then are "
        "censored. Left out: when all have ended.",
    )  # fmt: skip
    skip_s: float = Field(
        0.0, ge=0, le=1e9, description="Requests that arrive before count in no latency (warm-up)."
    )
    run_ahead: bool = Field(
        True, description="Take equal iterations in one event; false: one by one, equal results."
    )
    table_rows: int = Field(
        50, ge=0, le=100_000, description="Requests that the report shows; the file has all."
    )
    requests_file: Literal["csv", "parquet"] = Field(
        "csv", description="Format of the table of requests."
    )
    chrome_trace: bool = Field(
        True, description="Write trace.json, for chrome://tracing or Perfetto."
    )
    trace_steps: int = Field(
        200_000, ge=1, le=10**8, description="Steps that are kept for timeline and trace."
    )

    @model_validator(mode="after")
    def _stages_are_known(self) -> HermesParams:
        for name in (*self.before, *self.after):
            if name not in self.stages:
                known = ", ".join(self.stages) or "none"
                raise ValueError(
                    f"the stage {name!r} is not described; add [simulate.stages.{name}]"
                    f" (there: {known})"
                )
        if self.queue == "priority" and not any(one.priority for one in self.slo.values()):
            raise ValueError(
                "queue = 'priority', but no class has one; add priority to [simulate.slo.NAME]"
            )
        names = [tier.name for tier in self.tiers]
        if len(set(names)) < len(names):
            raise ValueError("two tiers have one name; names must differ")
        return self

    def rank(self, slo_class: str | None) -> int:
        """The priority of a request of this class; "default" counts for those without one."""
        found = self.slo.get(slo_class or "default", self.slo.get("default"))
        return 0 if found is None else found.priority
