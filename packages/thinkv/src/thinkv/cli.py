"""`crosslayer thinkv ...`: calibrate a model, generate, look at thoughts, simulate the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer
from pydantic import BaseModel

from crosslayer.errors import ComponentError, InputError
from thinkv.params import ThinKVParams

if TYPE_CHECKING:
    from crosslayer.kinds import ModelArtifact
    from crosslayer.progress import Progress
    from thinkv.calibration import Calibration

M = TypeVar("M", bound=BaseModel)
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model with weights (smollm2-135m) or its folder.")
]
Text = Annotated[str, typer.Option("--text", metavar="TEXT", help="A named text or a UTF-8 file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CalibrationFile = Annotated[
    Path | None, typer.Option("--calibration", metavar="FILE", help="JSON of `calibrate`.")
]
Budget = Annotated[
    int, typer.Option("--budget", min=0, help="k, generated tokens to keep in a layer; 0: all.")
]
Bits = Annotated[str, typer.Option("--bits", help="Bits of R, E and T.")]


@app.callback()
def about() -> None:
    """Calibrate, run, trace, compare and simulate the thought-adaptive KV cache."""


@app.command()
def calibrate(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="To write.")],
    text: Text = "wikipedia-sample",
    traces: Annotated[int, typer.Option(min=1, help="Texts to replay, one trace each.")] = 4,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of a trace.")] = 1024,
    generate: Annotated[
        int, typer.Option(min=0, help="Of them, tokens that the model writes itself, sampled.")
    ] = 0,
    agreement: Annotated[
        float, typer.Option(help="Share of traces in which a layer must be trimodal.")
    ] = 1.0,
    layers: Annotated[int, typer.Option(min=1, help="Layers that vote together.")] = 4,
    head_reduce: Annotated[str, typer.Option(help="max-logit or mean.")] = "max-logit",
    bandwidth: Annotated[float | None, typer.Option(help="Left out: Scott's rule.")] = None,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Accept one type of thought where layers differ.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Find the layers and thresholds that tell thoughts apart, and write them as JSON.

    Exits 4 where the layers do not show three modes, unless --fallback is given; the file is
    written in either case.
    """
    from crosslayer.progress import progress_for
    from thinkv.calibration import CalibrationSettings, writable
    from thinkv.replay import calibrate as fit_model

    settings = _checked(
        CalibrationSettings,
        layers=layers,
        agreement=agreement,
        head_reduce=head_reduce,
        bandwidth=bandwidth,
    )
    writable(output)
    artifact, progress = _open(model), progress_for()
    ids = _traces(artifact, text, traces, tokens, generate, seed, progress)
    found = fit_model(artifact.live, ids, settings, artifact.spec.name, progress)  # type: ignore[arg-type]
    found.save(output)
    if as_json:
        print(found.model_dump_json())
    else:
        print(f"{output}: {found.status}, {found.reason}")
        for one in found.per_layer:
            print(f"  layer {one.layer:3d}: modes {', '.join(map(str, one.modes))}")
    if found.status == "fallback" and not fallback:
        raise ComponentError(
            f"{artifact.spec.name} does not tell thoughts apart: {found.reason}; {output} holds "
            "the fallback, give --fallback to accept it"
        )


@app.command()
def run(
    model: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to continue.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 256,
    budget: Budget = 1024,
    bits: Bits = "R4E4T2",
    calibration: CalibrationFile = None,
    sample: Annotated[bool, typer.Option("--sample", help="Sample instead of greedy.")] = False,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Generate through the cache and say what it holds at the end."""
    import torch

    from crosslayer.progress import progress_for
    from thinkv.attaching import attach
    from thinkv.measure import Ticks

    artifact = _open(model)
    assert artifact.live is not None
    tokenizer, module = artifact.live.tokenizer, artifact.live.module
    inputs = tokenizer(prompt, return_tensors="pt")
    if not inputs["input_ids"].shape[1]:
        raise InputError("the prompt has no tokens; write something to continue")
    torch.manual_seed(seed)
    with attach(module, _params(budget, bits), _calibration(calibration)) as attached:
        out = module.generate(
            **inputs,
            past_key_values=attached.new_cache(),
            max_new_tokens=tokens,
            do_sample=sample,
            pad_token_id=tokenizer.eos_token_id or 0,
            streamer=Ticks(progress_for(), tokens),
        )
        report = attached.report()
    new = out[0, inputs["input_ids"].shape[1] :]
    said = tokenizer.decode(new, skip_special_tokens=True)
    if as_json:
        print(json.dumps({"text": said, "tokens": len(new)} | report))
        return
    print(said)
    (one,) = report["sequences"]
    total = sum(report["bytes"].values())
    print(
        f"\n{one['logical_tokens']} tokens seen, {one['physical_tokens']} alive in each layer, "
        f"{total} bytes; full cache in bf16: {artifact.spec.kv_bytes(0, one['logical_tokens']):.0f}"
    )
    if one["budget_unreachable"]:
        print(f"the budget cannot be reached: the floor is {one['floor_tokens']} tokens")


@app.command()
def trace(
    model: Model,
    text: Text = "wikipedia-sample",
    tokens: Annotated[int, typer.Option(min=16, help="Tokens of the text to read.")] = 1024,
    budget: Budget = 1024,
    bits: Bits = "R4E4T2",
    calibration: CalibrationFile = None,
    as_json: AsJson = False,
) -> None:
    """Read a text through the cache and print the type of each segment and what is left of it."""
    import dataclasses

    from crosslayer.progress import progress_for
    from thinkv.cache import attached
    from thinkv.calibration import model_hash
    from thinkv.measure import read, text_tokens
    from thinkv.transform import cache_of, settings_of

    artifact = _open(model)
    assert artifact.live is not None
    module, found = artifact.live.module, _calibration(calibration)
    if found is not None:
        found.require(model_hash(module))
    settings = dataclasses.replace(settings_of(_params(budget, bits), found), prompt_tokens=0)
    ids = text_tokens(artifact.live.tokenizer, text, "evaluation", tokens)
    with attached(module):
        cache, series = read(
            artifact.live, ids, lambda: cache_of(module, settings), progress=progress_for()
        )
    row: Any = cache.rows[0]
    sparsity = {start: value for start, value, _ in row.history}
    segments = [
        {
            "start": s.start,
            "type": s.thought.name.lower(),
            "sparsity": sparsity.get(s.start),
            "alive": s.alive,
        }
        for s in row.timeline.segments
    ]
    if as_json:
        print(json.dumps({"segments": segments, "bytes": series.by_kind}))
        return
    for one in segments:
        shown = "" if one["sparsity"] is None else f"{one['sparsity']:.3f}"
        print(f"{one['start']:7d}  {one['type']:10s} {shown:6s} {one['alive']:4d} alive")
    print(f"{sum(series.by_kind.values())} bytes of {artifact.spec.kv_bytes(0, tokens):.0f}")


@app.command()
def bench(
    model: Model,
    text: Text = "wikipedia-sample",
    tokens: Annotated[int, typer.Option(min=32, help="Tokens of the text to read.")] = 1024,
    share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Of the bytes of a full fp16 cache.")
    ] = 0.2,
    methods: Annotated[
        str, typer.Option(help="Names, with commas between them.")
    ] = "full,window,random,h2o,snapkv,rkv,kivi4,kivi2,tbq,tbe,thinkv",
    calibration: CalibrationFile = None,
    seed: Annotated[int, typer.Option(help="Of random eviction.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read one text through several cache methods at equal bytes and compare the loss.

    Measured here, on one text: no intervals. full, kivi and tbq hold what they hold.
    """
    from crosslayer.progress import progress_for
    from thinkv.cache import MethodCache, attached
    from thinkv.calibration import model_hash
    from thinkv.measure import read, text_tokens
    from thinkv.methods import full_layer_bytes, method, shape_of
    from thinkv.transform import settings_of

    artifact = _open(model)
    assert artifact.live is not None
    module, found = artifact.live.module, _calibration(calibration)
    if found is not None:
        found.require(model_hash(module))
    labeller = settings_of(ThinKVParams(), found).labeller
    ids = text_tokens(artifact.live.tokenizer, text, "evaluation", tokens)
    shape = shape_of(module.config, 0, tokens)
    full = full_layer_bytes(shape)
    rows = []
    # All are made before the first is run: a wrong name or share is told at once.
    for one in [method(n.strip(), shape, share * full, seed, labeller) for n in methods.split(",")]:
        with attached(module):
            cache, series = read(
                artifact.live,
                ids,
                lambda one=one: MethodCache(module.config, one.make_row),  # type: ignore[misc]
                progress=progress_for(),
                label=one.name,
            )
        rows.append(
            {
                "method": one.name,
                "budget_tokens": one.budget_tokens,
                "alive_tokens": cache.rows[0].physical,
                "peak_bytes": max(series.bytes_),
                "share_of_full": max(series.bytes_) / (full * len(cache.layers)),
                "nll": float(series.nll.double().mean()),
                "nll_second_half": float(series.nll[tokens // 2 :].double().mean()),
            }
        )
    if as_json:
        print(json.dumps({"text": text, "tokens": tokens, "methods": rows}))
        return
    print(f"{'method':10s} {'alive':>6s} {'peak bytes':>12s} {'of full':>8s} {'nll':>7s} 2nd half")
    for row in rows:
        print(
            f"{row['method']:10s} {row['alive_tokens']:6d} {row['peak_bytes']:12d} "
            f"{row['share_of_full']:8.3f} {row['nll']:7.3f} {row['nll_second_half']:8.3f}"
        )


@app.command()
def sim(
    labels: Annotated[
        str, typer.Option(help="Types of successive segments, repeated: R, E, T.")
    ] = "RERT",
    tokens: Annotated[int, typer.Option(min=16, max=1 << 20, help="Tokens to generate.")] = 32768,
    prompt: Annotated[int, typer.Option(min=0, max=1 << 20, help="Prompt tokens.")] = 128,
    model: Annotated[str, typer.Option(help="Shapes: a model's name.")] = "llama-3.1-8b",
    memory_gb: Annotated[float, typer.Option(min=0.001, help="For the caches of a batch.")] = 40.0,
    budget: Budget = 1024,
    bits: Bits = "R4E4T2",
    seed: Annotated[int | None, typer.Option(help="Draw the survivors; left out: even.")] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate the paged store on a timeline of thoughts: bytes, reuse, what gathering would move.

    Modelled: no model runs.
    """
    from thinkv.serving import simulate_serving

    spec = _open(model, live=False).spec
    found = simulate_serving(
        spec, _params(budget, bits), labels, tokens, prompt, memory_gb * 1e9, seed
    )
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:34s} {value:,.4g}" if isinstance(value, float) else f"{name:34s} {value:,}")


def _open(name: str, live: bool = True) -> ModelArtifact:
    from crosslayer.discovery import discover

    folder = Path(name)
    values: dict[str, Any] = {"path": str(folder)} if folder.is_dir() else {}
    found: Any = discover().build("model", "directory" if values else name, values)
    if live and found.live is None:
        raise InputError(f"{name} has shapes and no weights; smollm2-135m or a folder has both")
    artifact: ModelArtifact = found
    return artifact


def _params(budget: int, bits: str) -> ThinKVParams:
    return _checked(ThinKVParams, budget_tokens=budget, bits=bits)


def _checked(model: type[M], **values: Any) -> M:
    """The parameters; an error names the option of the first that is wrong."""
    from crosslayer.parameters import ParameterErrors, validate

    try:
        return cast(M, validate(model, values, "thinkv"))
    except ParameterErrors as error:
        key, message = error.problems[0]
        option = str(key[0]).removesuffix("_tokens").replace("_", "-")
        raise InputError(f"--{option}: {message}") from error


def _calibration(path: Path | None) -> Calibration | None:
    from thinkv.calibration import Calibration

    return None if path is None else Calibration.load(path)


def _traces(
    artifact: ModelArtifact,
    text: str,
    traces: int,
    tokens: int,
    generate: int,
    seed: int,
    progress: Progress,
) -> list[Any]:
    """Token ids of each trace: a text's beginning, and what the model writes after it."""
    import torch

    from crosslayer.texts import articles

    assert artifact.live is not None
    if generate >= tokens:
        raise InputError(f"--generate {generate} leaves no prompt of --tokens {tokens}")
    found = []
    for article in articles(text, "calibration"):
        ids = artifact.live.tokenizer(article.text, add_special_tokens=False, verbose=False)
        start = torch.tensor(ids["input_ids"][: tokens - generate])
        if len(start) == tokens - generate:
            found.append(start)
        if len(found) == traces:
            break
    if len(found) < traces:
        raise InputError(
            f"text {text!r} holds {len(found)} pieces of {tokens - generate} tokens, {traces} are "
            "asked for; ask for fewer traces or tokens"
        )
    if not generate:
        return found
    torch.manual_seed(seed)
    module = artifact.live.module
    return [
        module.generate(
            ids[None],
            max_new_tokens=generate,
            min_new_tokens=generate,
            do_sample=True,
            pad_token_id=artifact.live.tokenizer.eos_token_id or 0,
        )[0]
        for ids in progress.track(found, "writing traces")
    ]
