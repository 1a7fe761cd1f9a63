"""What `hermes-sim explain` prints: the time of one request, part by part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslayer.cli_listing import print_json
from crosslayer.discovery import discover
from crosslayer.errors import InputError, nearest
from crosslayer.kinds import RunContext, Stack
from crosslayer.pipeline.check import check_file
from crosslayer.pipeline.source import PipelineErrors
from hermes_sim.outcome import Outcome

if TYPE_CHECKING:
    from crosslayer.contracts.requests import RequestTrace
    from hermes_sim.params import HermesParams


def explain(file: Path, request: str, as_json: bool) -> None:
    """Simulate the pipeline's hermes step and print one request."""
    outcome = simulated(file)
    ids = [str(one) for one in (outcome.ids if outcome.ids is not None else outcome.rows)]
    if not ids:
        raise InputError(f"{file}: no request has ended by until_s; raise it")
    if request not in ids:
        raise InputError(f"no request {request!r} has ended; {nearest(request, ids)}")
    row = ids.index(request)
    data = as_data(outcome, row, request)
    if as_json:
        print_json(data)
        return
    tokens = f"{data['prompt_tokens']} prompt and {data['output_tokens']} output tokens"
    print(f"request {request}: {tokens}")
    print(f"  arrives       {data['arrival_s']:.6f} s")
    if data["ttft_s"] is not None:
        print(f"  first token   {data['ttft_s']:.6f} s later")
    print(f"  over          {data['e2e_s']:.6f} s later, {data['preemptions']} preemptions")
    for name, seconds in data["parts_s"].items():
        share = seconds / data["e2e_s"] if data["e2e_s"] else 0.0
        print(f"    {name:<22}{seconds:>12.6f} s {share:>7.1%} {'#' * round(40 * share)}")


def as_data(outcome: Outcome, row: int, request: str) -> dict[str, Any]:
    """One request's numbers; the parts add up to its end-to-end time."""
    first = int(outcome.first_ns[row])
    arrival = int(outcome.arrival_ns[row])
    return {
        "request": request,
        "arrival_s": arrival / 1e9,
        "ttft_s": (first - arrival) / 1e9 if first >= 0 else None,
        "e2e_s": (int(outcome.last_ns[row]) - arrival) / 1e9,
        "prompt_tokens": int(outcome.prompt_tokens[row]),
        "output_tokens": int(outcome.output_tokens[row]),
        "cached_tokens": int(outcome.cached_tokens[row]),
        "preemptions": int(outcome.preemptions[row]),
        "parts_s": {
            name: int(spent[row]) / 1e9 for name, spent in outcome.breakdown.items() if spent[row]
        },
    }


def simulated(file: Path) -> Outcome:
    """What became of the requests of a pipeline's first hermes step; nothing is written."""
    from hermes_sim.build import build
    from hermes_sim.simulator import Hermes

    stack, trace, params, context = first_step(file)
    cluster, _, _ = build(stack, params, context.stream_seed("hermes"))
    return Hermes(params).run(replace(stack), trace, cluster)


def first_step(file: Path) -> tuple[Stack, RequestTrace, HermesParams, RunContext]:
    """What a pipeline's first hermes step gets: the stack, the requests as it serves them, its
    parameters, and its context.
    """
    import tempfile

    from crosslayer.execution import Execution
    from crosslayer.machine import allowed_cores
    from crosslayer.pipeline.parts import resolve
    from crosslayer.pipeline.topology import topology_of
    from crosslayer.progress import Progress
    from crosslayer.traces.closed_loop import ClosedLoop
    from crosslayer.traces.workload import requests_of
    from hermes_sim.agents import agent_trace

    registry = discover()
    pipeline, problems = check_file(file, registry)
    if pipeline is None:
        raise PipelineErrors(problems)
    steps = [table for table in pipeline.simulate if table.use == "hermes"]
    if not steps:
        raise InputError(f"{file}: has no [[simulate]] with use = 'hermes'")
    if pipeline.policy is not None:
        raise InputError(f"{file}: explain follows requests without a [policy]; leave it out")
    table = steps[0]
    with tempfile.TemporaryDirectory(prefix="hermes-explain-") as folder:
        quiet = pipeline.model_copy(update={"simulate": (), "evaluate": ()})
        execution = Execution(
            quiet, registry, Path(folder), Path(folder, "scratch"), allowed_cores(), Progress()
        )
        models = execution._models()
        instances = tuple(one for one, _ in execution._instances(models))
        stack = Stack(instances, network=topology_of(pipeline.network, pipeline.folder))
        context = RunContext(seed=pipeline.seed, output=Path(folder))
        trace = requests_of(table.served(pipeline.workload), pipeline.folder, context)
        if trace is None or isinstance(trace, ClosedLoop):
            raise InputError(f"{file}: explain needs a trace, or arrivals that do not wait")
        params: Any = resolve(
            registry, "simulator", table.use, table.params, pipeline.folder
        ).params
        if params.agents is not None:
            seed = context.stream_seed("hermes", "agents")
            trace = agent_trace(trace, params.agents, seed)
        return stack, trace, params, context
