"""A good and several broken models, evaluators, policies and simulators."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from crosslayer.contracts.model import ModelSpec
from crosslayer.contracts.report import Metric, Report
from crosslayer.contracts.serving import Done, ServePlan, Wait
from crosslayer.kinds import ModelArtifact
from crosslayer.testing.transforms import TINY, tiny_model
from kit_zoo.transforms import stray


def good_model(params: Any) -> ModelArtifact:
    return tiny_model()


def no_artifact(params: Any) -> Any:
    return "a model"


def miscounts(params: Any) -> ModelArtifact:
    return tiny_model().replace(spec=ModelSpec.from_hf_config({**TINY, "num_hidden_layers": 2}))


def _report(value: float) -> Report:
    return Report(
        title="zoo",
        metrics=(
            Metric(
                name="value", value=value, unit="count", provenance="measured", source="the zoo"
            ),
        ),
    )


class _Made:
    def __init__(self, params: Any) -> None:
        self.params = params


def _chance() -> float:
    return float(int.from_bytes(os.urandom(4), "big"))


class Evaluator(_Made):
    def evaluate(self, stack: Any, context: Any) -> Report:
        return _report(float(stack.instance().model.spec.parameters))


class EvaluatesByChance(_Made):
    def evaluate(self, stack: Any, context: Any) -> Report:
        return _report(_chance())


class EvaluatorWrites(Evaluator):
    def evaluate(self, stack: Any, context: Any) -> Report:
        stray("evaluator")
        return super().evaluate(stack, context)


class Vote(_Made):
    """Three samples from the best member, the most frequent answer."""

    def plan(self, request: Any, pool: Any) -> ServePlan:
        best = max(pool.members, key=lambda member: member.quality.value).name
        call = request.call
        return ServePlan(
            calls=tuple(
                call.to(best, sample).replace(id=f"{call.id}-{sample}") for sample in range(3)
            )
        )

    def decide(self, request: Any, results: Any) -> Any:
        if len(results) < 3:
            return Wait()
        return Done(answer=Counter(sorted(str(r.answer) for r in results)).most_common(1)[0][0])


class PlansByChance(Vote):
    def plan(self, request: Any, pool: Any) -> ServePlan:
        plan = super().plan(request, pool)
        return plan.replace(
            calls=tuple(call.replace(id=f"{call.id}-{_chance()}") for call in plan.calls)
        )


class WaitsForEver(Vote):
    def decide(self, request: Any, results: Any) -> Any:
        return Wait()


class Simulator(_Made):
    def simulate(self, stack: Any, trace: Any, context: Any) -> Report:
        (context.output / "note.txt").write_text("simulated", encoding="utf-8")
        return _report(float(len(trace)))


class SimulatesByChance(Simulator):
    def simulate(self, stack: Any, trace: Any, context: Any) -> Report:
        return _report(_chance())


class SimulatorWrites(Simulator):
    def simulate(self, stack: Any, trace: Any, context: Any) -> Report:
        stray("simulator")
        return super().simulate(stack, trace, context)
