"""The simulator `isolated` in pipelines: every request by the price of its calls alone."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_serving import Plan, Vote, call

from crosslayer.accelerators.params import RooflineParams
from crosslayer.accelerators.roofline import Roofline
from crosslayer.backends.protocol import Generation, OnDone, Prompt, Sample, Usage
from crosslayer.call_service import stack_seconds
from crosslayer.contracts.calls import LLMCall, Message, Request, single
from crosslayer.contracts.requests import RequestTrace
from crosslayer.contracts.serving import Done, Pool, PoolMember, Wait
from crosslayer.discovery import discover
from crosslayer.errors import InputError
from crosslayer.kinds import Instance, RunContext, Stack
from crosslayer.models.presets import SpecPreset
from crosslayer.policies import Single
from crosslayer.registry import Registry
from crosslayer.runner import run
from crosslayer.serving_params import SingleParams
from crosslayer.simulators.isolated import Isolated

PIPELINE = Path(__file__).parents[2] / "pipelines" / "serving.toml"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    return discover(only=())


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "files" / "simulate-isolated" / "requests.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_serving_pipeline_reports_percentiles_of_its_requests(
    registry: Registry, tmp_path: Path
) -> None:
    report = run(PIPELINE, registry=registry, runs_dir=tmp_path, threads=1).report
    rows = rows_of(tmp_path / "serving")
    assert len(rows) == 200
    assert len(report.table("requests").rows) == 50
    assert {row["members"] for row in rows} == {"small"}
    for name, column in (("ttft", "first_token_s"), ("latency", "latency_s")):
        values = [float(row[column]) for row in rows]
        for share in (50, 90, 99):
            metric = report.metric(f"{name}_p{share}_s")
            assert metric.value == pytest.approx(np.percentile(values, share))
            assert metric.provenance == "modelled"
    arrivals = [float(row["arrival_s"]) for row in rows]
    assert arrivals == sorted(arrivals)
    assert 60 < arrivals[-1] < 160  # 200 requests at 2 a second


def test_the_best_member_is_asked_where_the_policy_names_none(
    registry: Registry, tmp_path: Path
) -> None:
    quality = '[pool.quality]\nlarge = { value = 0.7, samples = 10, data = "made up" }\n\n[policy]'
    text = PIPELINE.read_text().replace("[policy]", quality).replace('member = "small"', "")
    (tmp_path / "serving.toml").write_text(text)
    report = run(tmp_path / "serving.toml", registry=registry, runs_dir=tmp_path / "runs").report
    assert {row["members"] for row in rows_of(tmp_path / "runs" / "serving")} == {"large"}
    lock = (tmp_path / "runs" / "serving" / "pipeline.lock.toml").read_text()
    again = tmp_path / "again.toml"
    again.write_text(lock)
    assert run(again, registry=registry, runs_dir=tmp_path / "runs2").report.metrics == (
        report.metrics
    )


def test_users_of_a_closed_loop_wait_for_their_answers(registry: Registry, tmp_path: Path) -> None:
    text = PIPELINE.read_text().replace('"poisson"', '"closed"')
    text = text.replace("rate_per_s = 2.0", "users = 3\nthink_s = 0.0").replace("= 200", "= 30")
    (tmp_path / "serving.toml").write_text(text)
    run(tmp_path / "serving.toml", registry=registry, runs_dir=tmp_path / "runs")
    rows = rows_of(tmp_path / "runs" / "serving")
    assert len(rows) == 30
    times = [(_ns(r["arrival_s"]), _ns(r["latency_s"])) for r in rows]
    spans = [(arrival, arrival + latency) for arrival, latency in times]
    for at, _ in spans:
        assert sum(start <= at < end for start, end in spans) <= 3
    # three users and no thinking: somebody's answer begins every later request
    ends = np.array([end for _, end in spans])
    assert all(np.abs(ends - at).min() <= 1 for at, _ in spans if at > 0)


def stack(**changes: Any) -> Stack:
    model = SpecPreset("llama-3.1-8b")()
    accelerator = Roofline(RooflineParams(preset="h100-80g"))
    instances = tuple(Instance(name, model, accelerator) for name in ("a", "b"))
    return Stack(instances, **changes)


def context(tmp_path: Path) -> RunContext:
    return RunContext(seed=1, output=tmp_path)


@pytest.mark.parametrize(("cancel", "tokens"), [(True, (9, 10)), (False, (55,))])
def test_a_call_that_nobody_reads_counts_with_the_tokens_it_made(
    tmp_path: Path, cancel: bool, tokens: tuple[int, ...]
) -> None:
    calls = (call("short", 5, "a"), call("long", 50, "b"))
    serving = stack(policy=Plan(calls, [Done(answer="x", cancel=cancel)]))
    trace = RequestTrace.from_requests([single("r", 0, 5, 5)])
    row = Isolated().simulate(serving, trace, context(tmp_path)).table("requests").rows[0]
    assert row[4:6] == (2, 10)
    assert row[6] in tokens
    assert row[7] == "a, b"


def test_the_first_token_of_any_call_counts_and_deadlines_by_the_end(tmp_path: Path) -> None:
    calls = [call(name, 5, "a").model_copy(update={"prompt_tokens": n})
             for name, n in (("long", 4000), ("short", 10), ("middle", 400))]  # fmt: skip
    serving = stack(policy=Plan(tuple(calls), [Wait()] * 8 + [Done(answer="x")] * 4))
    first = stack_seconds(serving)(calls[1])[0]
    end = stack_seconds(serving)(calls[0])[1]
    deadlines = (end * 0.9, end * 1.1, end * 2, None)
    trace = RequestTrace.from_requests([
        single(f"r{i}", 0, 5, 5).model_copy(update={"deadline_ns": at and round(at * 1e9)})
        for i, at in enumerate(deadlines)
    ])  # fmt: skip
    report = Isolated().simulate(serving, trace, context(tmp_path))
    for row in report.table("requests").rows:
        assert row[2:4] == pytest.approx((first, end), abs=1e-8)
    missed = report.metric("missed_deadlines")
    assert (missed.value, missed.samples) == (1 / 3, 3)


def test_what_is_kept_of_a_served_request_is_small(tmp_path: Path) -> None:
    many = np.arange(1000)
    trace = RequestTrace(many * 10**8, np.full(1000, 100), np.full(1000, 5))
    serving = stack(policy=Single(SingleParams(member="a")))
    Isolated().simulate(serving, trace, context(tmp_path))  # what is imported and cached, now is
    tracemalloc.start()
    Isolated().simulate(serving, trace, context(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * len(trace)


def test_a_request_takes_what_its_calls_take_alone(tmp_path: Path) -> None:
    class All(Vote):
        def decide(self, request: Any, results: Any) -> Any:
            said = [one.model_copy(update={"answer": "A"}) for one in results]
            return super().decide(request, said)

    pool = Pool(members=(PoolMember(name="a"), PoolMember(name="b")))
    serving = stack(policy=All(samples=3, early=False, members=("a", "b")), pool=pool)
    requests = [single(f"r{i}", i * 1000, 100 * (i + 1), 10) for i in range(4)]
    report = Isolated().simulate(serving, RequestTrace.from_requests(requests), context(tmp_path))
    seconds = stack_seconds(serving)
    for request, row in zip(requests, report.table("requests").rows, strict=True):
        first, whole = seconds(request.call.to("a"))
        assert row[2] == pytest.approx(first, abs=1e-8)
        assert row[3] == pytest.approx(whole, abs=1e-8)
        assert row[4:] == (3, 3 * request.call.prompt_tokens, 30, "a, b")
    assert report.metric("calls_per_request").value == 3
    service = Isolated().service(serving)
    service.submit(requests[0].call.to("a"), 0)
    assert service.advance(10**12)[1][0].instance == "a"


def test_a_trace_with_messages_is_as_long_as_its_backends_say(tmp_path: Path) -> None:
    class Wordy:
        model = "wordy"

        def generate(
            self, prompts: list[Prompt], done: OnDone | None = None
        ) -> tuple[Generation, ...]:
            return tuple(
                Generation(prompt_tokens=40, samples=(Sample(text="x", tokens=25),))
                for _ in prompts
            )

        def usage(self) -> Usage:
            return Usage()

    call = LLMCall(model="b", prompt_tokens=0, messages=(Message(role="user", content="hi"),))
    trace = RequestTrace.from_requests([Request(id="r", arrival_ns=0, nodes=(call,))])
    serving = stack(backends={"b": Wordy()})
    report = Isolated().simulate(serving, trace, context(tmp_path))
    row = report.table("requests").rows[0]
    assert row[5:] == (40, 25, "b")
    sent = call.model_copy(update={"prompt_tokens": 40, "output_tokens": 25})
    assert row[3] == pytest.approx(stack_seconds(serving)(sent)[1], abs=1e-8)


def test_no_requests_are_an_error_that_says_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"add a \[workload\]"):
        Isolated().simulate(stack(), None, context(tmp_path))


def _ns(seconds: str) -> int:
    """Whole nanoseconds: sums of decimal seconds differ in their last digit."""
    return round(float(seconds) * 1e9)
