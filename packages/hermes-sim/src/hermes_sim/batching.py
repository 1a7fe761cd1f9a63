"""Which calls are in a step, by name: the schedulers of one client.

static: a batch is served until its last call ends. continuous: iteration-level admission (Orca,
OSDI 2022) with whole prompts in steps of their own, before decoding goes on. mixed: prompts join
decoding steps whole. chunked: a token budget a step, decodes first, prompt chunks fill the rest
(Sarathi-Serve, arXiv 2403.02310). vllm_v1: chunked, as vLLM 0.19 does it, with prefix caching and
admission of prompts that fit whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from crosslayer.errors import InputError, nearest

ENDLESS = 1 << 60


@dataclass(frozen=True, slots=True)
class Batching:
    """A scheduler as values.

    max_calls: at once. token_budget: tokens of one step. chunks: whether a prompt may take several
    steps. alone: prompts get steps without decodes. drain: nobody joins before all have ended.
    whole_prompt_fits: a prompt is admitted only if all of it has free blocks. reserve: blocks for
    the whole output are taken at admission. prefix_caching: blocks keep their content. queue: who
    is first in it: "fcfs"; "priority": the lowest rank, and blocks are taken from the highest
    (vLLM); "least_work_left": the fewest tokens to compute and to make.
    """

    name: str
    max_calls: int = 256
    token_budget: int = ENDLESS
    chunks: bool = False
    alone: bool = False
    drain: bool = False
    whole_prompt_fits: bool = True
    reserve: bool = False
    prefix_caching: bool = False
    queue: str = "fcfs"


QUEUES = ("fcfs", "priority", "least_work_left")
SCHEDULERS = ("static", "continuous", "mixed", "chunked", "vllm_v1")


def batching(
    name: str,
    max_calls: int = 256,
    token_budget: int | None = None,
    prefix_caching: bool | None = None,
    queue: str = "fcfs",
) -> Batching:
    """The scheduler of that name.

    token_budget None: 512 for chunked, 2048 for vllm_v1 and continuous, none for the others.
    Errors: InputError for an unknown name or a budget that cannot hold one token a call.
    """
    if name not in SCHEDULERS:
        raise InputError(f"no scheduler is called {name!r}; {nearest(name, SCHEDULERS)}")
    if queue not in QUEUES:
        raise InputError(f"no order of a queue is called {queue!r}; {nearest(queue, QUEUES)}")
    chunks = name in ("chunked", "vllm_v1")
    default = {"chunked": 512, "vllm_v1": 2048, "continuous": 2048}.get(name, ENDLESS)
    budget = token_budget or default
    if chunks and budget < max_calls:
        raise InputError(
            f"scheduler {name}: token_budget = {budget} is less than max_calls = {max_calls},"
            " so decoding calls would starve; raise token_budget or lower max_calls"
        )
    return Batching(
        name,
        max_calls,
        budget,
        chunks=chunks,
        alone=name in ("static", "continuous"),
        drain=name == "static",
        whole_prompt_fits=name != "chunked",
        reserve=name == "static",
        prefix_caching=name == "vllm_v1" if prefix_caching is None else prefix_caching,
        queue=queue,
    )
