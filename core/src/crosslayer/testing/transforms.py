"""Checks of model transforms, on a small random Llama and on its spec alone."""

from __future__ import annotations

from typing import Any

from crosslayer.contracts.formats import NMSparsity, pack, unpack
from crosslayer.contracts.model import Conv, Embedding, Linear, ModelSpec
from crosslayer.kinds import ModelArtifact
from crosslayer.testing.kit import SEED, CheckFailed, Subject, check
from crosslayer.testing.writes import strays, watched_writes

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def tiny_model() -> ModelArtifact:
    """A live random Llama with 3 layers; the weights are whole bf16 numbers."""
    from crosslayer.models.random_model import random_model

    return random_model(TINY, seed=SEED)


def _transformed(subject: Subject) -> tuple[ModelArtifact, ModelArtifact, dict[str, Any]]:
    """(input, result, the input's weights before), made once."""

    def make() -> Any:
        model = tiny_model()
        before = weights(model)
        return model, subject.build().transform(model, subject.context("transform")), before

    made: tuple[ModelArtifact, ModelArtifact, dict[str, Any]] = subject.once("transformed", make)
    return made


def weights(model: ModelArtifact) -> dict[str, Any]:
    """Copies of the live module's parameters as NumPy arrays, by name."""
    assert model.live is not None
    return {
        name: value.detach().float().numpy().copy()
        for name, value in model.live.module.named_parameters()
    }


def _same(a: dict[str, Any], b: dict[str, Any]) -> str | None:
    """The first name whose bits differ."""
    if a.keys() != b.keys():
        return next(iter(a.keys() ^ b.keys()))
    return next((name for name in a if a[name].tobytes() != b[name].tobytes()), None)


@check("model_transform")
def the_input_model_is_untouched(subject: Subject) -> None:
    """A transform gives a new artifact: the same input may feed several of them."""
    model, result, before = _transformed(subject)
    changed = _same(before, weights(model))
    if changed:
        raise CheckFailed(f"it changed {changed} of its input; work on model.live.copy()")
    if result is model:
        raise CheckFailed("it returns its input; return model.replace(...)")


@check("model_transform")
def same_seed_same_model(subject: Subject) -> None:
    """Two runs with one seed give the same spec, weights, metrics and tables."""
    _, first, _ = _transformed(subject)
    second = subject.build().transform(tiny_model(), subject.context("again"))
    if first.spec != second.spec:
        raise CheckFailed("two runs give different specs; draw from context.rng only")
    if first.live is not None and second.live is not None:
        name = _same(weights(first), weights(second))
        if name:
            raise CheckFailed(
                f"two runs give different weights ({name}); draw from context.rng only"
            )
    if (first.metrics, first.tables, first.figures) != (
        second.metrics,
        second.tables,
        second.figures,
    ):
        raise CheckFailed(
            "two runs report different numbers; wall-clock figures do not belong in a "
            "transform's metrics"
        )


@check("model_transform")
def the_live_weights_are_what_the_spec_ships(subject: Subject) -> None:
    """Each live weight packs in the spec's format and sparsity and comes back bit for bit, in the
    spec's size.
    """
    _, result, _ = _transformed(subject)
    if result.live is None:
        raise CheckFailed("it got a live model and returns none")
    modules = dict(result.live.module.named_modules())
    live = sum(value.numel() for value in result.live.module.parameters())
    if live != result.spec.parameters:
        raise CheckFailed(
            f"the spec counts {result.spec.parameters} parameters, the live module has {live}"
        )
    for block, part in result.spec.parts(Linear, Embedding, Conv):
        if part.path is None or getattr(part, "tied", False) or part.path not in modules:
            continue
        weight = modules[part.path].weight.detach().float().numpy()
        pattern = getattr(part, "sparsity", None)
        where = f"{block}.{part.name} ({part.weight_format}{f', {pattern}' if pattern else ''})"
        try:
            packed = pack(
                weight, part.weight_format, None if pattern is None else NMSparsity.parse(pattern)
            )
        except Exception as error:
            raise CheckFailed(f"{where} does not pack: {error}") from error
        if unpack(packed).tobytes() != weight.tobytes():
            raise CheckFailed(
                f"{where}: the live weight is not what its packed form holds; round it, and "
                "prune to +0.0"
            )
        bias = part.outputs * 2 if isinstance(part, Linear) and part.bias else 0
        if not isinstance(part, Conv) and packed.nbytes + bias != part.weight_bytes:
            raise CheckFailed(
                f"{where}: {packed.nbytes} packed bytes, the spec says {part.weight_bytes}"
            )


@check("model_transform")
def a_spec_alone_is_enough_without_torch(subject: Subject) -> None:
    """A 70B model fits no machine here: its spec must go through, modelled, without torch."""
    spec = ModelSpec.from_hf_config(TINY)
    found = subject.in_worker(
        "for name in ('torch', 'transformers'):\n"
        "    sys.modules[name] = None  # importing it raises ImportError\n"
        "import importlib.util, pathlib\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: object() if name in ('torch', "
        "'transformers') else real(name, package)\n"
        "from crosslayer.contracts.model import ModelSpec\n"
        "from crosslayer.kinds import ModelArtifact, RunContext\n"
        "built = discover().build(given['kind'], given['use'], given['parameters'])\n"
        "out = built.transform(ModelArtifact(ModelSpec.from_json(given['spec'])), "
        "RunContext(seed=7, output=pathlib.Path(given['output'])))\n"
        "result = {'spec': out.spec.to_json(), 'live': out.live is not None, 'measured': "
        "[m.name for m in out.metrics if m.provenance in ('measured', 'recorded')]}",
        spec=spec.to_json(),
        output=str(subject.context("spec").output),
    )
    if found["live"]:
        raise CheckFailed("it makes a live model of a spec alone")
    if found["measured"]:
        raise CheckFailed(
            f"nothing was measured on a spec alone, but {', '.join(found['measured'])} says so"
        )
    _, result, _ = _transformed(subject)
    alone = ModelSpec.from_json(found["spec"])
    if [block.name for block in alone.blocks] != [block.name for block in result.spec.blocks]:
        raise CheckFailed("the spec alone gets other blocks than the live model")


@check("model_transform")
def a_cached_result_is_restored_exactly(subject: Subject) -> None:
    """`restore`, where offered, gives the transformed model back from the input and the files
    written.
    """
    restore = getattr(subject.build(), "restore", None)
    if restore is None:
        return
    _, result, _ = _transformed(subject)
    restored = restore(tiny_model(), result.files, subject.context("restore"))
    if restored.spec != result.spec:
        raise CheckFailed("restore gives another spec than transform gave")
    if (restored.live is None) != (result.live is None):
        raise CheckFailed("restore and transform differ in whether there is a live model")
    if restored.live is not None:
        name = _same(weights(restored), weights(result))
        if name:
            raise CheckFailed(f"restore gives other weights than transform gave ({name})")


@check("model_transform")
def it_writes_only_into_its_output_folder(subject: Subject) -> None:
    """Everything a step writes is in the run directory or the cache."""
    context, model = subject.context("writes"), tiny_model()
    assert model.live is not None
    _ = model.live.module, model.live.tokenizer  # opening them may write; that is not its doing
    with watched_writes() as seen:
        result = subject.build().transform(model, context)
    outside = strays(seen, context.output)
    if outside:
        raise CheckFailed(f"it writes {outside[0]}; write below context.output")
    for name, path in result.files.items():
        if not path.resolve().is_relative_to(context.output.resolve()):
            raise CheckFailed(f"its file {name} is {path}, outside context.output")


@check("model_transform")
def it_adds_itself_to_the_history(subject: Subject) -> None:
    """A reader of the result sees what was done to the model, once, with the parameters."""
    model, result, _ = _transformed(subject)
    added = result.history[len(model.history) :]
    if result.history[: len(model.history)] != model.history or len(added) != 1:
        raise CheckFailed(
            f"history grew from {len(model.history)} to {len(result.history)} entries; add "
            "exactly one"
        )
    if added[0][0] != subject.registered.component.name:
        raise CheckFailed(
            f"history names {added[0][0]!r}, not {subject.registered.component.name!r}"
        )
