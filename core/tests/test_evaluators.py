"""Perplexity and next-token agreement of live models, decoded through their caches."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from live_cases import FAMILIES, GPT2, LLAMA, MAMBA  # noqa: E402
from pydantic import ValidationError  # noqa: E402
from real_assets import fetched  # noqa: E402

from crosslayer.contracts.model import ModelSpec  # noqa: E402
from crosslayer.errors import ComponentError, InputError  # noqa: E402
from crosslayer.evaluators import (  # noqa: E402
    NextTokenAgreement,
    Perplexity,
    nll_and_argmax,
)
from crosslayer.evaluators_params import AgreementParams, PerplexityParams  # noqa: E402
from crosslayer.intervals import mean_interval  # noqa: E402
from crosslayer.kinds import Instance, ModelArtifact, RunContext, Stack  # noqa: E402
from crosslayer.models.live_params import LiveParams  # noqa: E402
from crosslayer.models.random_model import random_model  # noqa: E402
from crosslayer.models.smollm2 import smollm2  # noqa: E402
from crosslayer.progress import Progress  # noqa: E402
from crosslayer.texts import token_windows  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Eight pieces of random words."""
    words = random.Random(0)
    letters = "etaoinshrdlu     "
    paragraphs = ("".join(words.choices(letters, k=8000)) for _ in range(8))
    file = tmp_path / "words.txt"
    file.write_text("\n\n".join(paragraphs), "utf-8")
    return file


def windows(count: int = 3, window: int = 40) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, window))


def chunked(live: Any, chunk_tokens: int) -> Any:
    return live.with_module(live.module, chunk_tokens=chunk_tokens)


def context(tmp_path: Path) -> RunContext:
    return RunContext(seed=0, output=tmp_path)


def stack(model: ModelArtifact, original: ModelArtifact | None) -> Stack:
    return Stack((Instance("m", model),), originals={"m": original} if original else {})


def noisy(model: ModelArtifact, scale: float = 0.02) -> ModelArtifact:
    """The model with a little noise on its weights: what a lossy transform leaves."""
    live: Any = model.live.copy() if model.live else None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in live.module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.replace(live=live)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config["model_type"])
def test_the_likelihood_is_the_models_own_loss(config: dict[str, Any]) -> None:
    live: Any = random_model(config).live
    ids = windows()
    nll, argmax = nll_and_argmax(live, ids)
    assert nll.shape == argmax.shape == (3, 39)
    for row in range(len(ids)):
        inputs = torch.tensor(ids[row : row + 1])
        with torch.inference_mode():
            output = live.module(inputs, labels=inputs)
        assert nll[row].mean() == pytest.approx(output.loss.item(), rel=1e-5)
        assert np.array_equal(argmax[row], output.logits[0, :-1].argmax(-1).numpy())


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config["model_type"])
@pytest.mark.parametrize("chunk_tokens", [1, 7])
def test_with_a_full_cache_pieces_give_what_one_pass_gives(
    config: dict[str, Any], chunk_tokens: int
) -> None:
    live = random_model(config).live
    assert live is not None
    ids = windows()[:2, :24]  # longer than gemma2's sliding window of 16
    whole, _ = nll_and_argmax(live, ids)
    pieces, _ = nll_and_argmax(chunked(live, chunk_tokens), ids)
    assert np.abs(whole - pieces).max() < 1e-4


class LastTokens(transformers.DynamicCache):  # type: ignore[misc]
    """Forgets all but the last `keep` tokens after each step, in every layer."""

    keep = 8

    def update(self, keys: Any, values: Any, layer_idx: int, *rest: Any, **more: Any) -> Any:
        seen = super().update(keys, values, layer_idx, *rest, **more)
        layer = self.layers[layer_idx]
        layer.keys, layer.values = (
            layer.keys[..., -self.keep :, :],
            layer.values[..., -self.keep :, :],
        )
        return seen


def test_an_evicting_cache_costs_likelihood_in_pieces_though_not_in_one_pass() -> None:
    live: Any = random_model(LLAMA).live
    evicting = live.with_module(live.module, new_cache=lambda module: LastTokens())
    full, _ = nll_and_argmax(live, windows())
    one_pass, _ = nll_and_argmax(evicting, windows())
    pieces, _ = nll_and_argmax(chunked(evicting, 4), windows())
    assert np.array_equal(one_pass, full)
    assert np.allclose(pieces[:, :8], full[:, :8], atol=1e-4)  # nothing is forgotten yet
    assert np.abs(pieces[:, 20:] - full[:, 20:]).mean() > 0.1


def test_every_window_starts_with_an_empty_cache() -> None:
    live = random_model(LLAMA).live
    assert live is not None
    ids = windows()
    forward, _ = nll_and_argmax(live, ids)
    backward, _ = nll_and_argmax(live, ids[::-1].copy())
    assert np.array_equal(forward, backward[::-1])


def test_a_report_holds_both_perplexities_and_their_paired_difference(
    tmp_path: Path, text: Path
) -> None:
    model = random_model(LLAMA)
    changed = noisy(model)
    params = PerplexityParams(text=str(text), tokens=200, window_tokens=50)
    report = Perplexity(params).evaluate(stack(changed, model), context(tmp_path))

    assert model.live is not None
    assert changed.live is not None
    ids = token_windows(model.live.tokenizer, text, "evaluation", 200, 50)
    before = nll_and_argmax(model.live, ids)[0].mean(axis=1)
    after = nll_and_argmax(changed.live, ids)[0].mean(axis=1)
    perplexity, original, difference = (
        report.metric(name) for name in ("perplexity", "perplexity_original", "nll_difference")
    )
    assert perplexity.value == pytest.approx(math.exp(after.mean()))
    assert original.value == pytest.approx(math.exp(before.mean()))
    assert difference.value == pytest.approx((after - before).mean())
    half = 3.1824 * (after - before).std(ddof=1) / 2  # t of 4 windows, standard error of the mean
    assert difference.interval == pytest.approx((difference.value - half, difference.value + half))
    for metric in report.metrics:
        assert metric.provenance == "measured"
        assert metric.interval is not None
        assert metric.interval[0] < metric.value < metric.interval[1]
        assert metric.samples == 4 * 49
        assert "words.txt, split evaluation, 4 windows of 50 tokens" in metric.source
    assert original.source.startswith("unmodified ")


def test_agreement_is_the_share_of_equal_argmaxes(tmp_path: Path, text: Path) -> None:
    model = random_model(LLAMA)
    changed = noisy(model, 0.1)
    params = AgreementParams(text=str(text), tokens=200, window_tokens=50)
    report = NextTokenAgreement(params).evaluate(stack(changed, model), context(tmp_path))
    metric = report.metric("next_token_agreement")

    assert model.live is not None
    assert changed.live is not None
    ids = token_windows(model.live.tokenizer, text, "evaluation", 200, 50)
    same = nll_and_argmax(model.live, ids)[1] == nll_and_argmax(changed.live, ids)[1]
    assert 0 < metric.value < 1
    assert metric.value == pytest.approx(same.mean())
    assert metric.better == "higher"


def test_values_a_window_are_kept_and_windows_are_named_by_their_tokens(
    tmp_path: Path, text: Path
) -> None:
    model = random_model(LLAMA)
    changed = noisy(model, 0.1)
    both = stack(changed, model)
    params = {"text": str(text), "tokens": 200, "window_tokens": 50}
    report = Perplexity(PerplexityParams(**params)).evaluate(both, context(tmp_path))
    kept = report.table("perplexity_windows")
    assert [column.name for column in kept.columns] == ["window", "nll", "nll original"]
    names, nll, original = zip(*kept.rows, strict=True)
    assert len(set(names)) == 4
    assert report.metric("perplexity").value == pytest.approx(math.exp(np.mean(nll)))
    assert report.metric("perplexity_original").value == pytest.approx(math.exp(np.mean(original)))

    agreed = NextTokenAgreement(AgreementParams(**params)).evaluate(both, context(tmp_path))
    windows, shares = zip(*agreed.table("next_token_agreement_windows").rows, strict=True)
    assert windows == names
    assert agreed.metric("next_token_agreement").value == pytest.approx(np.mean(shares))
    alone = Perplexity(PerplexityParams(**params)).evaluate(stack(model, None), context(tmp_path))
    assert [row[0] for row in alone.table("perplexity_windows").rows] == list(names)
    assert {row[2] for row in alone.table("perplexity_windows").rows} == {None}
    text.write_text(text.read_text("utf-8").replace("e", "a"), "utf-8")
    other = Perplexity(PerplexityParams(**params)).evaluate(stack(model, model), context(tmp_path))
    assert not {row[0] for row in other.table("perplexity_windows").rows} & {*names}


def test_an_unmodified_model_agrees_with_itself_and_is_decoded_once(
    tmp_path: Path, text: Path
) -> None:
    model = random_model(LLAMA)
    assert model.live is not None
    calls: list[int] = []
    model.live.module.register_forward_hook(lambda *_: calls.append(1))
    one = stack(model, model)
    perplexity = Perplexity(PerplexityParams(text=str(text), tokens=200, window_tokens=50))
    agreement = NextTokenAgreement(AgreementParams(text=str(text), tokens=200, window_tokens=50))
    report = perplexity.evaluate(one, context(tmp_path))
    assert report.metric("nll_difference").value == 0
    assert report.metric("perplexity").value == report.metric("perplexity_original").value
    share = agreement.evaluate(one, context(tmp_path)).metric("next_token_agreement")
    assert (share.value, share.interval) == (1.0, (1.0, 1.0))
    assert len(calls) == 4  # windows: the second evaluator reuses the first one's passes
    assert perplexity.evaluate(stack(model, model), context(tmp_path)) == report
    assert len(calls) == 8  # another stack is decoded anew


def test_one_window_has_no_interval(tmp_path: Path, text: Path) -> None:
    params = PerplexityParams(text=str(text), tokens=60, window_tokens=50)
    report = Perplexity(params).evaluate(stack(random_model(LLAMA), None), context(tmp_path))
    (metric,) = report.metrics
    assert (metric.name, metric.interval, metric.samples) == ("perplexity", None, 49)


def test_a_model_of_shapes_alone_cannot_be_evaluated_and_the_way_out_is_named(
    tmp_path: Path,
) -> None:
    shapes = ModelArtifact(spec=ModelSpec.from_hf_config(LLAMA, name="shapes"))
    with pytest.raises(InputError, match=r"shapes has shapes and no weights.*live = true"):
        Perplexity().evaluate(stack(shapes, shapes), context(tmp_path))
    assert PerplexityParams.needs_live
    assert AgreementParams().needs_live


def test_agreement_without_the_original_is_an_error(tmp_path: Path, text: Path) -> None:
    params = AgreementParams(text=str(text), tokens=60, window_tokens=50)
    with pytest.raises(InputError, match="unmodified live model"):
        NextTokenAgreement(params).evaluate(stack(random_model(LLAMA), None), context(tmp_path))


def test_a_window_longer_than_the_model_reads_is_refused(tmp_path: Path, text: Path) -> None:
    params = PerplexityParams(text=str(text), tokens=200, window_tokens=129)
    with pytest.raises(InputError, match="129 is more than the 128 tokens random-gpt2 can read"):
        Perplexity(params).evaluate(stack(random_model(GPT2), None), context(tmp_path))


def test_logits_that_are_no_numbers_stop_the_step_and_name_the_window() -> None:
    live = random_model(MAMBA).live
    assert live is not None
    broken = live.copy()
    with torch.no_grad():
        next(broken.module.parameters()).fill_(math.nan)
    with pytest.raises(ComponentError, match="not finite in window 0"):
        nll_and_argmax(broken, windows())


@pytest.mark.parametrize(
    "values, message",
    [
        ({"tokens": 1}, "greater than or equal to 2"),
        ({"tokens": 100, "window_tokens": 256}, "less than one window of 256"),
        ({"split": "test"}, "'all', 'calibration' or 'evaluation'"),
        ({"windows": 3}, "Extra inputs"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    for model in (PerplexityParams, AgreementParams):
        with pytest.raises(ValidationError, match=message):
            model(**values)


def test_the_interval_is_students_t() -> None:
    # Mean 3, standard error sqrt(2.5 / 5), t(0.975, 4) = 2.7764.
    mean, interval = mean_interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert interval == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-4)
    assert mean_interval([2.0]) == (2.0, None)
    # Tables of t at 0.975: 2.2010 for 11 degrees of freedom, 2.0860 for 20, 1.9840 for 100.
    for freedom, quantile in ((11, 2.2010), (20, 2.0860), (100, 1.9840)):
        values = [-1.0, 1.0] + [0.0] * (freedom - 1)
        error = math.sqrt(2 / freedom / (freedom + 1))
        _, ends = mean_interval(values)
        assert ends is not None
        assert ends[1] / error == pytest.approx(quantile, abs=2e-4)


@pytest.mark.network
def test_smollm2_on_wikipedia_has_the_perplexity_of_its_four_bit_weights(tmp_path: Path) -> None:
    # 16.7 was found with transformers' own GGUF reader on other windows of these articles.
    fetched("smollm2-135m")
    fetched("wikipedia-sample")
    model = smollm2(LiveParams(), Progress())
    params = PerplexityParams(tokens=1024)
    report = Perplexity(params).evaluate(stack(model, model), context(tmp_path))
    metric = report.metric("perplexity")
    assert metric.value == pytest.approx(17.306, abs=0.01)
    assert metric.samples == 4 * 255
