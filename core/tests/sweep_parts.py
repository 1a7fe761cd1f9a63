"""Components whose runs can be counted from other processes: each writes a line into a log.

`main` sweeps in a process of its own: PIPELINE RUNS WAIT-SECONDS POINTS.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import Field
from toy_parts import LiveToy, Machine, MachineParams, ToyModelParams, _component, _Params

from crosslayer.contracts.report import Metric, Report
from crosslayer.kinds import ModelArtifact, RunContext, Stack
from crosslayer.registry import Registry

PIPELINE = """\
[pipeline]
name = "counted"

[model]
use = "toy"

[[transform]]
use = "mark"

[accelerator]
use = "machine"

[evaluate]
worth = { power = 1.0 }
"""


def log(line: str) -> None:
    with open(os.environ["SWEEP_LOG"], "a") as file:
        file.write(f"{line}\n")


def alive(log: Path) -> list[str]:
    """Numbers of the processes that were started with this log in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"SWEEP_LOG={log}".encode() in environment.split(b"\0"):
            found.append(process.name)
    return found


class MarkParams(_Params):
    value: float = Field(0.5, ge=0, le=1, description="What it is marked with.")
    wait_s: float = Field(0.0, ge=0, description="How long it takes.")
    end: str = Field("good", description="good, error or killed.")
    notes: Path | None = Field(None, description="A file to read.")


class Mark:
    """Takes a while on a live model, and may end badly."""

    def __init__(self, params: MarkParams) -> None:
        self.params = params

    def transform(self, model: ModelArtifact, context: RunContext) -> ModelArtifact:
        if model.live is None:
            return model
        log(f"mark {self.params.value} begins")
        time.sleep(self.params.wait_s)
        if self.params.end == "error":
            raise ValueError("bad on purpose")
        if self.params.end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        print("a component that prints")
        log(f"mark {self.params.value} ends")
        return model.replace(metrics=(metric("quality", self.params.value, "higher"),))

    def restore(self, model: ModelArtifact, files: Any, context: RunContext) -> ModelArtifact:
        return model


class WorthParams(_Params):
    power: float = Field(1.0, gt=0, description="An exponent.")


class Worth:
    """A price that grows with the mark."""

    def __init__(self, params: WorthParams) -> None:
        self.params = params

    def evaluate(self, stack: Stack, context: RunContext) -> Report:
        live = stack.instances[0].model.live
        assert live is not None
        log(f"worth {os.getpid()} {len(live.module)}")
        draw = float(context.rng("worth").random())
        return Report(title="worth", metrics=(metric("price", draw**self.params.power, "lower"),))


def metric(name: str, value: float, better: Any) -> Metric:
    return Metric(
        name=name, value=value, unit="1", provenance="measured", source="a toy", better=better
    )


def registry() -> Registry:
    return Registry(
        [
            _component("model", "toy", LiveToy, ToyModelParams),
            _component("accelerator_model", "machine", Machine, MachineParams, presets=("large",)),
            _here("model_transform", "mark", Mark, MarkParams),
            _here("evaluator", "worth", Worth, WorthParams),
        ]
    )


def _here(kind: str, name: str, factory: type, params: type) -> Any:
    made = _component(kind, name, factory, params)
    component = made.component
    paths = {
        "factory": f"sweep_parts:{factory.__name__}",
        "params": f"sweep_parts:{params.__name__}",
    }
    return type(made)(kind, type(component)(name, "a toy", "", **paths), made.origin)


def marks(count: int, wait_s: float) -> dict[str, Any]:
    return {
        "transform.mark.value": [i / 16 for i in range(count)],
        "transform.mark.wait_s": [wait_s],
    }


def main() -> None:
    import crosslayer as cl
    from crosslayer.progress import PlainProgress

    pipeline, runs, wait, count = sys.argv[1:]
    options = {"runs_dir": runs, "jobs": 2, "registry": registry(), "progress": PlainProgress()}
    print(cl.sweep(pipeline, marks(int(count), float(wait)), **options).ran)  # type: ignore[arg-type]
