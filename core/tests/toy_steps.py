"""Two small simulators of which one writes the requests that the other serves."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from toy_parts import CALLS, _Params

from crosslayer.contracts.report import Metric, Report
from crosslayer.contracts.requests import RequestTrace
from crosslayer.kinds import RunContext, Stack
from crosslayer.traces import write_trace
from crosslayer.written import written


class EmitParams(_Params):
    requests: int = Field(3, ge=1, description="How many requests it writes.")
    label: str = Field("", description="Changes nothing.")


class Emit:
    """A simulator that writes requests for a later step: request i has i + 1 prompt tokens."""

    def __init__(self, params: EmitParams) -> None:
        self.params = params

    def simulate(self, stack: Stack, trace: Any, context: RunContext) -> Report:
        CALLS.append("emit")
        numbers = list(range(self.params.requests))
        made = RequestTrace(numbers, [n + 1 for n in numbers], [1 for _ in numbers])  # type: ignore[arg-type]
        path = context.output / "emitted.jsonl"
        write_trace(made, path)
        (context.output / "notes.txt").write_text("no requests")
        files = (
            written(path, "requests", "application/jsonl"),
            written(context.output / "notes.txt", "notes", "text/plain"),
        )
        return Report(title="emit", files=files)


class TakeParams(_Params):
    needs_requests: ClassVar[bool] = True
    scale: float = Field(1.0, description="Multiplies what it counts.")


class Take:
    """A simulator that adds up the prompt tokens of its requests."""

    def __init__(self, params: TakeParams) -> None:
        self.params = params

    def simulate(self, stack: Stack, trace: Any, context: RunContext) -> Report:
        CALLS.append("take")
        total = self.params.scale * sum(call.prompt_tokens for one in trace for call in one.calls)
        metric = Metric(
            name="prompt_tokens", value=total, unit="token", provenance="modelled", source="toy"
        )
        return Report(title="take", metrics=(metric,))
