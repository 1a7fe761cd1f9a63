"""The evaluator `policy-accuracy`: the share of questions that a policy over a pool answers right.

The policy loop runs with the pool's backends: live models, endpoints or recordings, with real token
counts. Questions are asked one after another, each to an idle pool, so that an answer depends on
nothing but the question and the seed; the first calls of all questions are made together ahead.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crosslayer.backends.members import MemberBackend
from crosslayer.backends.protocol import Sampling, TextBackend
from crosslayer.backends.recording import Recorder
from crosslayer.backends.transformers import TransformersBackend
from crosslayer.call_service import IsolatedService
from crosslayer.contracts.calls import LLMCall, Request
from crosslayer.contracts.report import Cell, Column, Metric, Provenance, Report, Table
from crosslayer.contracts.serving import Answer, Pool, PoolMember, ServedRequest
from crosslayer.errors import InputError
from crosslayer.intervals import CONFIDENCE, wilson
from crosslayer.policy_loop import PolicyLoop, call_seed
from crosslayer.questions import MATCHES, Question, read_questions
from crosslayer.serve import OneCall
from crosslayer.serving_params import PolicyAccuracyParams
from crosslayer.written import write_csv, written

if TYPE_CHECKING:
    from crosslayer.kinds import RunContext, ServingPolicy, Stack

COLUMNS = (
    Column(name="question"),
    Column(name="answer"),
    Column(name="reference"),
    Column(name="right"),
    Column(name="calls"),
    Column(name="prompt tokens", unit="token"),
    Column(name="output tokens", unit="token"),
    Column(name="members"),
)


class PolicyAccuracy:
    """Accuracy with its Wilson interval, and the tokens and calls it took."""

    def __init__(self, params: PolicyAccuracyParams) -> None:
        self.params = params

    def evaluate(self, stack: Stack, context: RunContext) -> Report:
        """Metrics policy_accuracy (a fraction), tokens and calls a question; a table of answers.

        Errors: InputError for the data, and where the pool has no member with words.
        """
        params = self.params
        questions = read_questions(params.data, params.questions)
        speakers = stack.backends or _live(stack)
        if not speakers:
            raise InputError(
                "policy-accuracy needs somebody to ask: a live [model], or a [[backend]]"
            )
        pool = stack.pool or Pool(members=tuple(PoolMember(name=name) for name in speakers))
        backends: dict[str, TextBackend] = dict(speakers)
        calls = context.output / "calls.jsonl"
        anew = any(getattr(backend, "asks_always", False) for backend in speakers.values())
        # No answer is paid for twice, whatever becomes of this run.
        outlives = params.record and context.unfinished is not None and not anew
        file = context.unfinished / calls.name if outlives and context.unfinished else calls
        earlier = 0
        with ExitStack() as open_files:
            if params.record:
                for name, backend in speakers.items():
                    backends[name] = open_files.enter_context(Recorder(backend, file))
                earlier = _lines(file)
            if earlier:
                context.progress.say(f"{earlier} calls were answered in a run that did not finish")
            try:
                asked = self._ask(questions, stack.policy or OneCall(), pool, backends, context)
            except BaseException:
                if outlives:
                    kept = f"{_lines(file)} answered calls are kept"
                    context.progress.say(f"{kept}; the same step goes on from there")
                raise
        if outlives:
            shutil.copyfile(file, calls)
        used = {member for one in asked for member, _ in one.said}
        kinds: set[Provenance] = {_provenance(speakers[name]) for name in used}
        policy = type(stack.policy).__name__ if stack.policy else "one call"
        source = (
            f"{policy} over {', '.join(pool.names)} on {params.data.name},"
            f" {len(questions)} questions"
        )
        rows = [self._row(one) for one in asked]
        files = [write_csv(context.output / "answers.csv", "answers", COLUMNS, rows)]
        if params.record:
            files.append(written(calls, "calls", "application/jsonl"))
        notes = [
            f"Interval: Wilson at {CONFIDENCE:.0%}. Match: {params.match}. Token counts are the"
            " models' own; calls that the policy cancelled were asked and count whole.",
        ]
        if earlier:
            notes.append(f"{earlier} calls were answered in earlier runs that did not finish.")
        return Report(
            title="Accuracy of the policy",
            metrics=_metrics(rows, "recorded" if "recorded" in kinds else "measured", source),
            tables=(_members(asked), _answers(rows, params.table_rows)),
            files=tuple(files),
            notes=tuple(notes),
        )

    def _ask(
        self,
        questions: tuple[Question, ...],
        policy: ServingPolicy,
        pool: Pool,
        backends: Mapping[str, TextBackend],
        context: RunContext,
    ) -> list[_Asked]:
        params = self.params
        sampling = Sampling(
            temperature=params.temperature, max_tokens=params.max_tokens, stop=params.stop
        )
        backend = _Noting(MemberBackend(backends, sampling))
        counting = [b for b in map(_inner, backends.values()) if hasattr(b, "count_tokens")]
        count = counting[0].count_tokens if counting else None
        requests = [self._request(question, count) for question in questions]
        first = list(_first_calls(requests, policy, pool, context.seed))
        context.progress.say(f"asking {len(questions)} questions, {len(first)} calls to begin with")
        answers = context.progress.track(first, "asking")
        backend.members.ask_ahead(first, lambda: next(answers, None))
        for _ in answers:
            pass  # ends the bar
        loop = PolicyLoop(policy, pool, _service(pool), backend, seed=context.seed)
        asked = []
        for request in context.progress.track(requests, "deciding"):
            backend.said = []
            loop.submit(request.model_copy(update={"arrival_ns": loop.now_ns}))
            (served,) = loop.advance()[1]
            asked.append(_Asked(served, backend.said))
        return asked

    def _request(self, question: Question, count: Any) -> Request:
        messages = question.asked(self.params.system)
        call = LLMCall(
            prompt_tokens=count(messages) if count else 0,
            messages=messages,
            prompt_id=question.id,
            max_tokens=self.params.max_tokens,
        )
        return Request(
            id=question.id, arrival_ns=0, nodes=(call,), reference_answer=question.answer
        )

    def _row(self, one: _Asked) -> tuple[Cell, ...]:
        reference = one.served.request.reference_answer or ""
        answer = one.served.answer
        right = answer is not None and MATCHES[self.params.match](answer, reference)
        return (
            one.served.request.id,
            answer,
            reference,
            right,
            len(one.said),
            sum(said.prompt_tokens or 0 for _, said in one.said),
            sum(said.output_tokens for _, said in one.said),
            ", ".join(dict.fromkeys(member for member, _ in one.said)),
        )


class _Asked(NamedTuple):
    """A question, and what was said to every call of it, read by the policy or not."""

    served: ServedRequest
    said: list[tuple[str, Answer]]


class _Noting:
    """Notes who says what: calls that a policy cancels were made all the same."""

    def __init__(self, members: MemberBackend) -> None:
        self.members = members
        self.said: list[tuple[str, Answer]] = []

    def answer(self, call: LLMCall, seed: int) -> Answer:
        answer = self.members.answer(call, seed)
        self.said.append((call.model or "", answer))
        return answer


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n")


def _live(stack: Stack) -> dict[str, TextBackend]:
    """The live models of a stack that names no backends: one made in Python."""
    return {
        instance.name: TransformersBackend(instance.model.live, instance.name)
        for instance in stack.instances
        if instance.model.live is not None
    }


def _first_calls(
    requests: list[Request], policy: ServingPolicy, pool: Pool, seed: int
) -> Iterator[tuple[LLMCall, int]]:
    """What the loop will ask first, with the seeds that it will give."""
    for request in requests:
        seen = request.model_copy(update={"reference_answer": None})
        for call in policy.plan(seen, pool).calls:
            yield call, call_seed(seed, f"{request.id}/{call.id}")


def _service(pool: Pool) -> IsolatedService:
    """When calls end: as predicted where that is known for all members, else at once, in order."""
    if all(member.call_seconds is not None for member in pool.members):

        def seconds_of(call: LLMCall) -> tuple[float, float]:
            member = pool.member(call.model)
            whole = member.predicted_seconds(call.prompt_tokens, call.output_tokens or 0)
            return min(member.predicted_seconds(call.prompt_tokens, 1), whole), whole

        return IsolatedService(seconds_of)
    return IsolatedService(lambda call: (0.0, 0.0))


def _inner(backend: Any) -> Any:
    """The backend that a recorder writes down."""
    return getattr(backend, "backend", backend)


def _provenance(backend: Any) -> Provenance:
    return "recorded" if getattr(_inner(backend), "recorded", False) else "measured"


def _metrics(
    rows: list[tuple[Cell, ...]], provenance: Provenance, source: str
) -> tuple[Metric, ...]:
    right = sum(bool(row[3]) for row in rows)
    common: dict[str, Any] = {"provenance": provenance, "source": source, "samples": len(rows)}
    made = [
        Metric(
            name="policy_accuracy",
            value=right / len(rows),
            unit="fraction",
            better="higher",
            interval=wilson(right, len(rows)),
            confidence=CONFIDENCE,
            **common,
        )
    ]
    for name, column, unit in (
        ("calls_per_question", 4, "call/question"),
        ("prompt_tokens_per_question", 5, "token/question"),
        ("output_tokens_per_question", 6, "token/question"),
    ):
        mean = math.fsum(float(row[column] or 0) for row in rows) / len(rows)
        made.append(Metric(name=name, value=mean, unit=unit, better="lower", **common))
    return tuple(made)


def _members(asked: list[_Asked]) -> Table:
    """Who was asked how often, and what that took."""
    rows: dict[str, list[int]] = {}
    for one in asked:
        for member, said in one.said:
            row = rows.setdefault(member, [0, 0, 0, 0])
            row[0] += 1
            row[1] += said.prompt_tokens or 0
            row[2] += said.output_tokens
            row[3] += said.finish_reason == "length"
    columns = (
        Column(name="member"),
        Column(name="calls"),
        Column(name="prompt tokens", unit="token"),
        Column(name="output tokens", unit="token"),
        Column(name="cut at the limit"),
    )
    cells = tuple((name, *row) for name, row in sorted(rows.items()))
    return Table(name="members", title="Calls by pool member", columns=columns, rows=cells)


def _answers(rows: list[tuple[Cell, ...]], shown: int) -> Table:
    note = ""
    if len(rows) > shown:
        note = f"The first {shown} of {len(rows)} questions; answers.csv has all of them."
    return Table(
        name="answers", title="Answers", columns=COLUMNS, rows=tuple(rows[:shown]), note=note
    )
