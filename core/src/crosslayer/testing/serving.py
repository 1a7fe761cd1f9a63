"""Checks of serving policies and simulators, on a made-up pool and a small stack."""

from __future__ import annotations

from typing import Any

from crosslayer.accelerators.params import RooflineParams
from crosslayer.accelerators.roofline import Roofline
from crosslayer.call_service import IsolatedService
from crosslayer.contracts.calls import LLMCall, Request, single
from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.requests import RequestTrace
from crosslayer.contracts.serving import Answer, CallResult, FinishedCall, Pool, PoolMember, Quality
from crosslayer.errors import CrosslayerError
from crosslayer.kinds import Instance, ModelArtifact, Stack
from crosslayer.serve import serve
from crosslayer.testing.kit import CheckFailed, Subject, check
from crosslayer.testing.models import check_report, steady
from crosslayer.testing.transforms import TINY
from crosslayer.testing.writes import strays, watched_writes

POOL = Pool(
    members=tuple(
        PoolMember(name=name, quality=Quality(value=value, samples=100, data="made up for the kit"))
        for name, value in (("small", 0.5), ("medium", 0.6), ("large", 0.8))
    )
)
REQUESTS = tuple(single(f"request-{i}", i * 40_000_000, 50 + 30 * i, 8 + i) for i in range(12))


class _Answers:
    """Answers that depend on the call alone: most samples say "A"."""

    def answer(self, call: LLMCall, seed: int) -> Answer:
        word = "AAABAACA"[(call.sample + call.prompt_tokens) % 8]
        return Answer(
            output_tokens=call.output_tokens or 8,
            prompt_tokens=call.prompt_tokens,
            text=word,
            answer=word,
        )


def _service() -> IsolatedService:
    return IsolatedService(
        lambda call: (0.01, 0.01 + 0.001 * call.prompt_tokens * (1 + call.sample % 3))
    )


def _results(request: Request, calls: tuple[LLMCall, ...]) -> tuple[CallResult, ...]:
    made = []
    for i, call in enumerate(calls):
        answer = _Answers().answer(call, 0)
        end = request.arrival_ns + (i + 1) * 1_000_000
        finished = FinishedCall(
            call_id=call.id,
            submitted_ns=request.arrival_ns,
            started_ns=request.arrival_ns,
            first_token_ns=end,
            finished_ns=end,
            output_tokens=answer.output_tokens,
            instance=call.model or "small",
        )
        made.append(
            CallResult(
                call=call,
                finished=finished,
                prompt_tokens=call.prompt_tokens,
                output_tokens=answer.output_tokens,
                text=answer.text,
                answer=answer.answer,
            )
        )
    return tuple(made)


@check("serving_policy")
def planning_and_deciding_are_pure(subject: Subject) -> None:
    """The same request, pool and results give the same plan and decision, however often they are
    asked for.
    """
    policy = subject.build()
    for request in REQUESTS:
        first, second = policy.plan(request, POOL), policy.plan(request, POOL)
        if first != second:
            raise CheckFailed(
                f"two plans of {request.id} differ; draw from nothing but the request"
            )
        results = _results(request, first.calls)
        for n in range(1, len(results) + 1):
            if policy.decide(request, results[:n]) != policy.decide(request, results[:n]):
                raise CheckFailed(
                    f"two decisions on {n} results of {request.id} differ; keep no state "
                    "between calls"
                )


@check("serving_policy")
def every_request_is_answered_once(subject: Subject) -> None:
    """In the policy loop each request ends, and every call goes to a member of the pool."""
    try:
        served = serve(REQUESTS, subject.build(), POOL, _service(), _Answers())
    except CrosslayerError as error:
        raise CheckFailed(str(error)) from error
    ended = [one.request.id for one in served]
    if sorted(ended) != sorted(request.id for request in REQUESTS):
        raise CheckFailed(f"{len(REQUESTS)} requests came, {len(ended)} ended")


def _stack() -> Stack:
    artifact = ModelArtifact(ModelSpec.from_hf_config(TINY))
    accelerator = Roofline(RooflineParams(preset="a100-80g"))
    return Stack(instances=(Instance("tiny", artifact, accelerator),), originals={"tiny": artifact})


def _simulate(subject: Subject, name: str) -> Any:
    return subject.build().simulate(
        _stack(), RequestTrace.from_requests(REQUESTS), subject.context(name)
    )


@check("simulator")
def same_seed_same_simulation(subject: Subject) -> None:
    """Two simulations with one seed give the same report, wall-clock metrics apart."""
    first = _simulate(subject, "first")
    check_report(first)
    if steady(first) != steady(_simulate(subject, "second")):
        raise CheckFailed(
            "two simulations differ; draw from context.rng only, and mark times wall_clock"
        )


@check("simulator")
def a_simulation_writes_only_into_its_output_folder(subject: Subject) -> None:
    """Everything a step writes is in the run directory or the cache; each file is named in the
    report.
    """
    context = subject.context("writes")
    with watched_writes() as seen:
        report = subject.build().simulate(_stack(), RequestTrace.from_requests(REQUESTS), context)
    outside = strays(seen, context.output)
    if outside:
        raise CheckFailed(f"it writes {outside[0]}; write below context.output")
    for file in report.files:
        if not (context.output / file.path).resolve().is_relative_to(context.output.resolve()):
            raise CheckFailed(f"its file {file.name} is {file.path}, outside the run directory")
