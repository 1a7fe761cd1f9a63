"""The components that ship with the core, declared with the hooks that a plugin uses."""

from __future__ import annotations

import tomllib
from pathlib import Path

from crosslayer.component import Component, hookimpl

LIVE_NEEDS = ("torch", "transformers")
LIVE_INSTALL = "python -m pip install 'torch>=2.6,<3' 'transformers>=5,<6' gguf safetensors"


@hookimpl
def crosslayer_accelerator_models() -> list[Component]:
    """The roofline, whose presets are the tables of a data file, and this machine."""
    file = Path(__file__).with_name("accelerators") / "presets.toml"
    return [
        Component(
            name="roofline",
            summary="Peak rates and bandwidth: the longer of an op's arithmetic and its bytes",
            paper="doi:10.1145/1498765.1498785",
            factory="crosslayer.accelerators.roofline:Roofline",
            params="crosslayer.accelerators.params:RooflineParams",
            presets=tuple(tomllib.loads(file.read_text(encoding="utf-8"))),
        ),
        Component(
            name="cpu-local",
            summary="This machine's CPU, measured by a calibration of ten seconds at most",
            paper="",
            factory="crosslayer.accelerators.cpu_local:CpuLocal",
            params="crosslayer.accelerators.cpu_params:CpuLocalParams",
        ),
    ]


@hookimpl
def crosslayer_models() -> list[Component]:
    """SmolLM2 with its weights, and the shapes of well-known models without weights."""
    from crosslayer.models.presets import components

    smollm2 = Component(
        name="smollm2-135m",
        summary="SmolLM2-135M-Instruct with its real weights, downloaded once",
        paper="arXiv:2502.02737",
        factory="crosslayer.models.smollm2:smollm2",
        params="crosslayer.models.live_params:LiveParams",
    )
    directory = Component(
        name="directory",
        summary="A local Hugging Face directory: config.json, safetensors weights, tokenizer",
        paper="",
        factory="crosslayer.models.directory:directory",
        params="crosslayer.models.live_params:DirectoryParams",
    )
    return [smollm2, directory, *components()]


@hookimpl
def crosslayer_evaluators() -> list[Component]:
    """What is measured on a live model's text."""
    return [
        Component(
            name="perplexity",
            summary="Perplexity on a text, before and after the transforms",
            paper="",
            factory="crosslayer.evaluators:Perplexity",
            params="crosslayer.evaluators_params:PerplexityParams",
            needs=LIVE_NEEDS,
            install=LIVE_INSTALL,
        ),
        Component(
            name="next-token-agreement",
            summary="Share of positions where the most likely next token is the unmodified model's",
            paper="",
            factory="crosslayer.evaluators:NextTokenAgreement",
            params="crosslayer.evaluators_params:AgreementParams",
            needs=LIVE_NEEDS,
            install=LIVE_INSTALL,
        ),
        Component(
            name="step-time",
            summary="Seconds of a live model's prefill and decode here, beside their prediction",
            paper="",
            factory="crosslayer.step_time:StepTime",
            params="crosslayer.evaluators_params:StepTimeParams",
            needs=LIVE_NEEDS,
            install=LIVE_INSTALL,
        ),
        Component(
            name="policy-accuracy",
            summary="Share of questions that the policy over the pool answers right",
            paper="",
            factory="crosslayer.policy_accuracy:PolicyAccuracy",
            params="crosslayer.serving_params:PolicyAccuracyParams",
        ),
    ]


@hookimpl
def crosslayer_serving_policies() -> list[Component]:
    """The simplest policy there is."""
    return [
        Component(
            name="single",
            summary="One call to a named pool member, or to the best by measured quality",
            paper="",
            factory="crosslayer.policies:Single",
            params="crosslayer.serving_params:SingleParams",
        )
    ]


@hookimpl
def crosslayer_simulators() -> list[Component]:
    """The simplest simulator there is."""
    return [
        Component(
            name="isolated",
            summary="Every call alone on an idle instance: the floor under any serving system",
            paper="",
            factory="crosslayer.simulators.isolated:Isolated",
            params="crosslayer.serving_params:IsolatedParams",
        )
    ]
