"""What a point's results depend on, as a hash, and how much memory it may take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from crosslayer.contracts.model import ModelSpec
from crosslayer.kinds import ModelArtifact
from crosslayer.pipeline.backends import backend_part
from crosslayer.pipeline.parts import Part, resolve
from crosslayer.pipeline.schema import Pipeline
from crosslayer.pipeline.topology import topology_of
from crosslayer.registry import Registry
from crosslayer.stepkey import library_versions, part_inputs, source_digest, step_key
from crosslayer.traces.workload import workload_inputs

BYTES_PER_PARAMETER = 4  # a live model computes in fp32
LIVE_COPIES = 2  # the model as it came and the one that a transform makes of it
SLACK_BYTES = 400 << 20  # Python, NumPy, the report
LIVE_SLACK_BYTES = 800 << 20  # torch beside that, and activations


@dataclass(frozen=True)
class Identity:
    """key: a hash of all that a point's results depend on. need_bytes: of memory it may take."""

    key: str
    need_bytes: int


def identity(pipeline: Pipeline, registry: Registry, threads: int) -> Identity:
    """Of a pipeline without a problem. The key covers every default filled in and what the keys of
    its steps stand on: code, versions, the content of files, the seed, and where a model is live
    the threads. The need is two fp32 copies of each live model, and slack.
    """
    folder = pipeline.folder
    models = [_model(part, registry) for part in _models(pipeline, registry)]
    live = sum(spec.parameters for spec, is_live in models if is_live)
    topology = topology_of(pipeline.network, folder)
    served = [step.served(pipeline.workload) for step in pipeline.simulate]
    key = step_key(
        "point",
        document=pipeline.document(),
        placed=[one.model_dump(mode="json") for one in pipeline.placed()],
        parts=[part_inputs(part) for part in _parts(pipeline, registry)],
        network=topology and topology.to_json(),
        workloads=[workload_inputs(one, folder) for one in (pipeline.workload, *served)],
        source=source_digest("crosslayer"),
        libraries=library_versions(),
        threads=threads if live else None,
    )
    weights = live * BYTES_PER_PARAMETER * LIVE_COPIES
    return Identity(key, SLACK_BYTES + (weights + LIVE_SLACK_BYTES if weights else 0))


def _models(pipeline: Pipeline, registry: Registry) -> Iterator[Part]:
    for table in pipeline.models:
        yield resolve(registry, "model", table.use, table.params, pipeline.folder)


def _model(part: Part, registry: Registry) -> tuple[ModelSpec, bool]:
    """The model's shapes, and whether it comes with weights, which are not opened here."""
    live = bool(getattr(part.params, "live", False))
    if live:  # they may be a download
        part = dataclasses.replace(part, values={**part.values, "live": False})
    made: ModelArtifact = part.build(registry)
    return made.spec, live or made.live is not None


def _parts(pipeline: Pipeline, registry: Registry) -> Iterator[Part]:
    """Every component of the pipeline."""
    folder = pipeline.folder
    yield from _models(pipeline, registry)
    for kind, tables in (
        ("model_transform", pipeline.transforms),
        ("accelerator_model", pipeline.accelerators),
        ("serving_policy", (pipeline.policy,) if pipeline.policy else ()),
        ("simulator", pipeline.simulate),
        ("evaluator", pipeline.evaluate),
    ):
        for table in tables:
            yield resolve(registry, kind, table.use, table.params, folder)
    for accelerator in pipeline.accelerators:
        for use in accelerator.fallback:
            yield resolve(registry, "accelerator_model", use, {}, folder)
    for backend in pipeline.backends:
        yield backend_part(backend, folder)
