"""`flow-flexcim plan | prune | eval | simulate | report`, also as `crosslayer flow-flexcim ...`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from crosslayer.cli_group import registry_of
from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.progress import progress_for

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    help="Per-block N:M pruning (FLOW) and the FlexCiM accelerator.",
)  # fmt: skip

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model, such as smollm2-135m, or a folder.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A parameter of flow, such as sparsity=0.5."),
]
Chip = Annotated[
    list[str] | None,
    typer.Option("--chip", metavar="KEY=VALUE", help="A parameter of flexcim, such as macros=16."),
]
Seed = Annotated[int, typer.Option(min=0, help="Chooses the calibration articles.")]
Out = Annotated[Path, typer.Option(metavar="PATH", help="Where to write.")]
_HEAD = "# Written by `flow-flexcim report`, which may write it again.\n"


@app.command()
def plan(ctx: typer.Context, model: Model, out: Out, set_: Set = None, seed: Seed = 0) -> None:
    """Make a plan and write it: JSON, or with a name in .txt the released solver's lines."""
    from flow_flexcim import planfile
    from flow_flexcim.linears import decoder_linears, units
    from flow_flexcim.transform import Flow

    artifact, params = _opened(ctx, model, set_)
    blocks = units(decoder_linears(artifact.spec), params.granularity, params.dense_blocks)
    planfile.prepare(out, blocks)
    if artifact.live is None:
        made = Flow(params).spec_plan(blocks)
    else:
        from flow_flexcim.planning import make_plan
        from flow_flexcim.prune import calibrate, calibration_windows

        context = _context(seed, out.parent)
        windows = calibration_windows(artifact.live, params, context)
        inputs = calibrate(artifact.live, blocks, windows, params, context)
        made, _ = make_plan(artifact.live, blocks, inputs, windows, params, context)
    planfile.write(out, blocks, made)
    for block, pattern in zip(blocks, made.patterns, strict=True):
        print(f"{block.name:<24} {pattern}")
    print(f"sparsity {made.sparsity:.6g} of {made.weights} weights; written to {out}")


@app.command()
def prune(ctx: typer.Context, model: Model, out: Out, set_: Set = None, seed: Seed = 0) -> None:
    """Prune a model and write its packed linears and its plan into the folder --out."""
    from flow_flexcim.transform import Flow

    _make_folder(out)
    artifact, params = _opened(ctx, model, set_)
    result = Flow(params).transform(artifact, _context(seed, out))
    _print_metrics(result.metrics)
    for name, file in result.files.items():
        print(f"{name}: {file}")


@app.command("eval")
def evaluate(
    ctx: typer.Context,
    model: Model,
    pruned: Annotated[
        Path, typer.Option(metavar="DIR", help="What `prune` wrote with the same --set.")
    ],
    set_: Set = None,
    text: Annotated[str, typer.Option(help="A named text or a UTF-8 file.")] = "wikipedia-sample",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of its evaluation split.")] = 2048,
) -> None:
    """Perplexity of a pruned model beside the unpruned one, on articles that no plan has seen."""
    from crosslayer.evaluators import Perplexity
    from crosslayer.evaluators_params import PerplexityParams
    from crosslayer.kinds import Instance, Stack

    artifact, params = _opened(ctx, model, set_)
    if artifact.live is None:
        raise InputError(f"{model} has shapes and no weights, so there is nothing to evaluate")
    changed = _restored(artifact, params, pruned, model)
    stack = Stack((Instance("model", changed),), originals={"model": artifact})
    evaluator = Perplexity(PerplexityParams(text=text, tokens=tokens))
    _print_metrics(evaluator.evaluate(stack, _context(0, pruned)).metrics)


@app.command()
def simulate(
    ctx: typer.Context,
    model: Model,
    set_: Set = None,
    chip: Chip = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens at once; 1 is a decode step.")] = 1,
    pruned: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="What `prune` wrote with the same --set, hardware=flexcim among them: its real "
            "masks say how many passes a tile takes. Left out: random masks of the plan.",
        ),
    ] = None,
) -> None:
    """Price the linears of a pruned model, layer by layer, and all presets side by side."""
    from flow_flexcim.flexcim.layers import layer_table, preset_table
    from flow_flexcim.transform import Flow

    artifact, params = _opened(ctx, model, set_)
    hardware = _parameters(ctx, "accelerator_model", "flexcim", {"as_int8": True} | _values(chip))
    if pruned is None:
        result = Flow(params).transform(artifact.replace(live=None), _context(0, Path()))
    elif params.hardware == "any":
        raise InputError("--pruned counts passes of real masks: add --set hardware=flexcim")
    else:
        result = _restored(artifact, params, pruned, model)
    for table in (
        layer_table(result.spec, hardware, tokens),
        preset_table(result.spec, hardware, tokens),
    ):
        _print_table(table)


@app.command()
def report(
    ctx: typer.Context, model: Model, out: Out, set_: Set = None, chip: Chip = None, seed: Seed = 0
) -> None:
    """Run MODEL with flow on flexcim as a pipeline; its report is in the folder --out."""
    import crosslayer
    from crosslayer.pipeline.toml_text import toml_text

    _make_folder(out)
    file = out / "pipeline.toml"
    if file.exists() and not file.read_text(encoding="utf-8").startswith(_HEAD):
        raise InputError(f"{file} is not one that `report` wrote, so it stays; name another folder")
    artifact, _ = _opened(ctx, model, set_)
    values = _values(set_)
    for key in ("plan_file", "calibration_text"):  # from here, not from the pipeline file's folder
        if isinstance(values.get(key), str) and Path(values[key]).is_file():
            values[key] = str(Path(values[key]).resolve())
    document: dict[str, Any] = {
        "pipeline": {"name": "flow-flexcim", "seed": seed},
        "model": {"use": str(Path(model).resolve()) if Path(model).is_dir() else model},
        "transform": [{"use": "flow"} | values],
        "accelerator": {"use": "flexcim", "fallback": "roofline:jetson-tx2", "as_int8": True}
        | _values(chip),
        "workload": {"prompt_tokens": 128, "output_tokens": 32},
        "simulate": [{"use": "flexcim-layers", "tokens": 128}],
    }
    if artifact.live is not None:
        document["evaluate"] = {"perplexity": {"text": "wikipedia-sample", "tokens": 2048}}
    file.write_text(_HEAD + toml_text(document), encoding="utf-8")
    run = crosslayer.run(
        file, registry=registry_of(ctx), runs_dir=out, progress=progress_for(sys.stderr)
    )
    _print_metrics(run.report.metrics)
    print(f"report: {run.directory / 'report.html'}")


def main() -> None:
    """The console script: the same command of crosslayer, with its errors and exit codes."""
    from crosslayer.cli import main as crosslayer_main

    crosslayer_main(["flow-flexcim", *sys.argv[1:]])


def _opened(ctx: typer.Context, model: str, given: list[str] | None) -> tuple[ModelArtifact, Any]:
    registry = registry_of(ctx)
    params = _parameters(ctx, "model_transform", "flow", _values(given))
    folder = Path(model).is_dir()
    use, values = ("directory", {"path": str(Path(model).resolve())}) if folder else (model, {})
    artifact: Any = registry.build("model", use, values)
    return artifact, params


def _restored(artifact: ModelArtifact, params: Any, pruned: Path, model: str) -> ModelArtifact:
    """The model with the linears that `prune` wrote into the folder."""
    from flow_flexcim.transform import FILE, Flow

    file = pruned / "flow-linears.safetensors"
    if artifact.live is None:
        raise InputError(f"{model} has shapes and no weights, so {pruned} cannot be put into it")
    if not file.is_file():
        raise InputError(f"there is no {file}; write it by `flow-flexcim prune {model} --out DIR`")
    return Flow(params).restore(artifact, {FILE: file}, _context(0, pruned))


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}; name a folder") from None


def _parameters(ctx: typer.Context, kind: str, use: str, values: dict[str, Any]) -> Any:
    return registry_of(ctx).parameters(kind, use, values)


def _values(given: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE pairs, values as in `crosslayer sweep`: TOML, or the text where it is none."""
    from crosslayer.sweeps.settings import read_value

    found = {}
    for pair in given or []:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"{pair!r} is no KEY=VALUE, such as sparsity=0.5")
        found[key] = read_value(text)
    return found


def _context(seed: int, output: Path) -> RunContext:
    logger = logging.getLogger("crosslayer")
    return RunContext(seed, output, progress_for(sys.stderr), logger)


def _print_metrics(metrics: Sequence[Any]) -> None:
    for metric in metrics:
        unit = "" if metric.unit == "1" else metric.unit
        print(f"{metric.name:<32} {metric.value:>12.6g} {unit:<10} {metric.provenance}")


def _print_table(table: Any) -> None:
    heads = [f"{c.name} ({c.unit})" if c.unit not in ("", "1") else c.name for c in table.columns]
    rows = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    print(f"{table.title}: modelled")
    for row in [heads, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print(table.note + "\n" if table.note else "")
