"""Quality of a live model on text: perplexity, and agreement with the unmodified model.

Text is decoded through `new_cache()` in pieces of the model's chunk size, because one forward pass
over a whole text never reads an evicting or quantised cache and would make every such method look
lossless. Intervals are Student t intervals at 95 % over windows, which are taken as independent
(they come from different articles as long as there are enough of these).
"""

from __future__ import annotations

import hashlib
import inspect
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crosslayer.contracts.report import Cell, Column, Metric, Report, Table
from crosslayer.errors import ComponentError, InputError
from crosslayer.evaluators_params import AgreementParams, PerplexityParams, _TextParams
from crosslayer.intervals import CONFIDENCE, mean_interval
from crosslayer.progress import Progress
from crosslayer.texts import token_windows, windows_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crosslayer.kinds import LiveModel, RunContext, Stack

# A report keeps its values a window up to so many, so that runs can be compared window by window.
KEPT_WINDOWS = 4096


def nll_and_argmax(
    live: LiveModel, windows: NDArray[np.int64], progress: Progress | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Windows of token ids [n, window] -> NLL in nats and most likely token, both [n, window - 1].

    Column i is about token i + 1 given tokens 0..i. Each window starts with an empty cache.
    Errors: ComponentError where logits are not finite.
    """
    import numpy as np
    import torch

    count, window = windows.shape
    nll = np.empty((count, window - 1), dtype=np.float64)
    argmax = np.empty((count, window - 1), dtype=np.int64)
    forward = Forward(live.module)
    step = window if live.chunk_tokens is None else forward.piece(live.chunk_tokens)
    rows = range(count)
    if progress is not None:
        rows = progress.track(rows, "decoding", total=count)  # type: ignore[assignment]
    with torch.inference_mode():
        for row in rows:
            ids = torch.from_numpy(windows[row])
            cache = live.new_cache()
            for start in range(0, window - 1, step):
                end = min(start + step, window - 1)
                logits = forward(ids[start:end], start, cache)
                part = torch.nn.functional.cross_entropy(
                    logits, ids[start + 1 : end + 1].to(logits.device), reduction="none"
                )
                nll[row, start:end] = part.double().cpu().numpy()
                argmax[row, start:end] = logits.argmax(-1).cpu().numpy()
            if not np.isfinite(nll[row]).all():
                raise ComponentError(
                    f"the model's logits are not finite in window {row}; a transform broke its "
                    "weights"
                )
    return nll, argmax


class Forward:
    """A decoding step of any causal LM: tokens [t] from `start` on -> logits [t, vocabulary].

    last: of the last token only, as generation asks, where the module can (`keeps_last`).
    """

    def __init__(self, module: Any, *, last: bool = False) -> None:
        self._module = module
        accepted = inspect.signature(module.forward).parameters
        # State-space models call their cache cache_params and know no positions.
        self._cache = "past_key_values" if "past_key_values" in accepted else "cache_params"
        self._positions = "position_ids" in accepted
        self.keeps_last = last and "logits_to_keep" in accepted

    def piece(self, chunk_tokens: int) -> int:
        """Tokens of one step. transformers' state-space models read a longer piece from an empty
        state, whatever their cache holds, so theirs are single tokens."""
        return chunk_tokens if self._cache == "past_key_values" else 1

    def __call__(self, ids: Any, start: int, cache: Any) -> Any:
        import torch

        device = next(self._module.parameters()).device
        named = {self._cache: cache, "use_cache": True}
        if self.keeps_last:
            named["logits_to_keep"] = 1
        if self._positions:
            # Said outright: an evicting cache holds fewer tokens than it has seen.
            named["position_ids"] = torch.arange(start, start + len(ids), device=device)[None]
        return self._module(input_ids=ids[None].to(device), **named).logits[0].float()


class Perplexity:
    """exp of the mean negative log likelihood per token, before and after the transforms."""

    def __init__(self, params: PerplexityParams | None = None) -> None:
        self.params = params or PerplexityParams()

    def evaluate(self, stack: Stack, context: RunContext) -> Report:
        """Metrics perplexity, perplexity_original and nll_difference (paired, nats a token)."""
        run = _decoded(self.params, stack, context.progress)
        per_window = run.nll.mean(axis=1)
        common = {"provenance": "measured", "better": "lower", "samples": run.nll.size}
        metrics = [
            _metric("perplexity", "1", *_exponential(mean_interval(per_window)), run.source, common)
        ]
        if run.original_nll is not None:
            before = run.original_nll.mean(axis=1)
            source = f"unmodified {run.source}"
            metrics += [
                _metric(
                    "perplexity_original", "1", *_exponential(mean_interval(before)), source, common
                ),
                _metric(
                    "nll_difference",
                    "nat/token",
                    *mean_interval(per_window - before),
                    run.source,
                    common,
                ),
            ]
        note = (
            f"Intervals: 95 %, Student t over {len(per_window)} windows; the difference is paired."
        )
        originals: Sequence[Any] = [None] * len(per_window)
        if run.original_nll is not None:
            originals = run.original_nll.mean(axis=1)
        columns = (("nll", "nat/token"), ("nll original", "nat/token"))
        kept = _window_table("perplexity", run, columns, per_window, originals)
        return Report(title="Perplexity", metrics=tuple(metrics), tables=kept, notes=(note,))


class NextTokenAgreement:
    """Share of positions where the most likely next token is the unmodified model's."""

    def __init__(self, params: AgreementParams | None = None) -> None:
        self.params = params or AgreementParams()

    def evaluate(self, stack: Stack, context: RunContext) -> Report:
        """Metric next_token_agreement, 0..1. InputError where the stack lacks the original."""
        run = _decoded(self.params, stack, context.progress)
        if run.original_argmax is None:
            raise InputError(
                "next-token-agreement needs the unmodified live model beside the changed one, and "
                "the stack has none"
            )
        shares = (run.argmax == run.original_argmax).mean(axis=1)
        mean, interval = mean_interval(shares)
        if interval is not None:
            interval = (max(0.0, interval[0]), min(1.0, interval[1]))
        common = {"provenance": "measured", "better": "higher", "samples": run.nll.size}
        metric = _metric("next_token_agreement", "1", mean, interval, run.source, common)
        note = f"Interval: 95 %, Student t over {len(shares)} windows, cut to 0..1."
        kept = _window_table("next_token_agreement", run, (("agreement", "fraction"),), shares)
        return Report(title="Next-token agreement", metrics=(metric,), tables=kept, notes=(note,))


def _window_table(
    metric: str, run: _Run, columns: Sequence[tuple[str, str]], *values: Any
) -> tuple[Table, ...]:
    """The table `<metric>_windows`: each window by a hash of its tokens, and its values."""
    if len(run.windows) > KEPT_WINDOWS:
        return ()
    rows: list[tuple[Cell, ...]] = [
        (name, *(None if value is None else float(value) for value in row))
        for name, *row in zip(run.windows, *values, strict=True)
    ]
    measured = (Column(name=name, unit=unit, provenance="measured") for name, unit in columns)
    return (
        Table(
            name=f"{metric}_windows",
            title=f"{metric.replace('_', ' ').capitalize()} by window",
            columns=(Column(name="window"), *measured),
            rows=tuple(rows),
            note="A window is named by a hash of its tokens. Runs are compared window by window.",
        ),
    )


def _exponential(
    mean: tuple[float, tuple[float, float] | None],
) -> tuple[float, tuple[float, float] | None]:
    value, interval = mean
    top = 700.0  # exp of more is no float; no comparison is lost up there
    ends = (
        None
        if interval is None
        else (math.exp(min(interval[0], top)), math.exp(min(interval[1], top)))
    )
    return math.exp(min(value, top)), ends


def _metric(
    name: str,
    unit: str,
    value: float,
    interval: tuple[float, float] | None,
    source: str,
    common: dict[str, Any],
) -> Metric:
    confidence = None if interval is None else CONFIDENCE
    return Metric(
        name=name,
        unit=unit,
        value=value,
        interval=interval,
        confidence=confidence,
        source=source,
        **common,
    )


@dataclass(frozen=True)
class _Run:
    """What one instance and its unmodified model gave on the same windows."""

    source: str
    windows: tuple[str, ...]  # a hash of the tokens of each
    nll: NDArray[np.float64]
    argmax: NDArray[np.int64]
    original_nll: NDArray[np.float64] | None
    original_argmax: NDArray[np.int64] | None


# The evaluators of one run read the same windows, so the second finds the first one's passes. Kept
# as long as the stack lives; a stack is a value, whoever changes a model makes another one.
_RUNS: dict[int, dict[tuple[Any, ...], _Run]] = {}


def _decoded(params: _TextParams, stack: Stack, progress: Progress) -> _Run:
    if id(stack) not in _RUNS:
        _RUNS[id(stack)] = {}
        weakref.finalize(stack, _RUNS.pop, id(stack), None)
    runs = _RUNS[id(stack)]
    key = (params.text, params.split, params.tokens, params.window_tokens, params.instance)
    if key not in runs:
        runs[key] = _decode(params, stack, progress)
    return runs[key]


def _decode(params: _TextParams, stack: Stack, progress: Progress) -> _Run:
    instance = stack.instance(params.instance)
    model = instance.model
    if model.live is None:
        raise InputError(
            f"{model.spec.name} has shapes and no weights, so there is nothing to evaluate; set "
            "live = true under "
            "[model], use a model with weights such as smollm2-135m, or leave [evaluate] out"
        )
    longest = model.spec.context_tokens
    if longest is not None and params.window_tokens > longest:
        raise InputError(
            f"window_tokens = {params.window_tokens} is more than the {longest} tokens "
            f"{model.spec.name} can read"
        )
    windows = token_windows(
        model.live.tokenizer,
        params.text,
        params.split,
        params.tokens,
        params.window_tokens,
        progress=progress,
    )
    source = (
        f"{model.spec.name} on {params.text}, split {params.split}, "
        f"{windows_text(len(windows), params.window_tokens)}"
    )
    nll, argmax = nll_and_argmax(model.live, windows, progress)
    names = tuple(hashlib.sha256(row.astype("<i8").tobytes()).hexdigest()[:16] for row in windows)
    original = stack.originals.get(instance.name)
    if original is None or original.live is None:
        return _Run(source, names, nll, argmax, None, None)
    if original.live is model.live:
        return _Run(source, names, nll, argmax, nll, argmax)
    return _Run(source, names, nll, argmax, *nll_and_argmax(original.live, windows, progress))
