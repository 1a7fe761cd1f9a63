"""The transform `thinkv`: a model to the same model that decodes through a ThinKV cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslayer.kinds import LiveModel, ModelArtifact, RunContext
from thinkv import report
from thinkv.calibration import Calibration
from thinkv.curve import labels_from_shares, rules_of, with_curves
from thinkv.layout import GROUP
from thinkv.params import ThinKVParams

if TYPE_CHECKING:
    from thinkv.cache import MethodCache
    from thinkv.row import Settings


class ThinKV:
    """ThinKV (arXiv 2510.01290): TBQ, TBE and Continuous Thinking behind `new_cache`.

    A live model is copied and attends through the cache's own function; its weights stay as they
    are. The spec gets a KV curve. Without a calibration, or with one that fell back, there is one
    type of thought: one precision, and eviction over budget alone (appendix E.10).
    """

    def __init__(self, params: ThinKVParams | None = None) -> None:
        self.params = params or ThinKVParams()

    def transform(self, model: ModelArtifact, context: RunContext) -> ModelArtifact:
        """The artifact with its new cache; a live one is measured on a text.

        Errors: InputError for a model without full causal attention, a calibration of another
        model, a text that is too short.
        """
        calibration = self._calibration()
        result = self._changed(model, calibration)
        note = self._note(calibration)
        context.logger.info("thinkv: %s", note)
        if result.live is not None and self.params.measure_tokens:
            outcome = self._measured(model, result.live, note, context)
        else:
            outcome = self._modelled(model, result, note)
        return result.replace(
            metrics=(*model.metrics, *report.metrics(outcome)),
            tables=(*model.tables, *report.tables(outcome)),
            figures=(*model.figures, report.figure(outcome, model.spec, result.spec)),
        )

    def restore(
        self, model: ModelArtifact, files: Mapping[str, Path], context: RunContext
    ) -> ModelArtifact:
        """The result of `transform` from its input alone; metrics are those of the input."""
        return self._changed(model, self._calibration())

    def _calibration(self) -> Calibration | None:
        path = self.params.calibration
        return None if path is None else Calibration.load(Path(path))

    def _changed(self, model: ModelArtifact, calibration: Calibration | None) -> ModelArtifact:
        shares = None if calibration is None else calibration.shares
        spec = with_curves(model.spec, self.params, labels_from_shares(shares))
        live = None if model.live is None else self._live(model.live, calibration)
        return model.replace(
            spec=spec,
            live=live,
            history=(*model.history, ("thinkv", self.params.model_dump_json())),
            files={},
        )

    def _live(self, live: LiveModel, calibration: Calibration | None) -> LiveModel:
        from thinkv.cache import switch
        from thinkv.calibration import model_hash

        copied: Any = live.copy()
        if calibration is not None:
            calibration.require(model_hash(copied.module))
        switch(copied.module)
        settings = settings_of(self.params, calibration)
        made: LiveModel = copied.with_module(
            copied.module,
            new_cache=lambda module: cache_of(module, settings),
            chunk_tokens=GROUP,
        )
        return made

    def _measured(
        self, model: ModelArtifact, live: LiveModel, note: str, context: RunContext
    ) -> report.Outcome:
        from thinkv.measure import read, text_tokens

        params = self.params
        ids = text_tokens(live.tokenizer, params.measure_text, "calibration", params.measure_tokens)
        cache, series = read(live, ids, progress=context.progress, label="measuring the cache")
        row: Any = cache.rows[0]
        sparsities = {start: sparsity for start, sparsity, _ in row.history}
        timeline = row.timeline
        return report.Outcome(
            tokens=len(ids),
            provenance="measured",
            source=f"{model.spec.name} on {params.measure_text}, split calibration, {len(ids)} "
            "tokens of one sequence",
            note=note,
            stored=series.bytes_[-1],
            full=model.spec.kv_bytes(0, len(ids)),
            alive=row.physical,
            floor=row.prompt + timeline.rules.floor(timeline.generated),
            unreachable=timeline.unreachable(row.counted_prompt),
            kinds=series.by_kind,
            bits=mean_bits(row),
            trajectory=list(zip(series.tokens, series.bytes_, strict=True)),
            segments=[
                (s.start, sparsities.get(s.start), s.thought, s.alive) for s in timeline.segments
            ],
        )

    def _modelled(self, model: ModelArtifact, result: ModelArtifact, note: str) -> report.Outcome:
        params, spec = self.params, result.spec
        tokens = params.measure_tokens or 1024
        rules = rules_of(params)
        prompt = min(params.prompt_tokens, tokens)
        at = list(range(GROUP, tokens + 1, GROUP)) or [tokens]
        curve = spec.attention_classes[0]
        floor = prompt + rules.floor(tokens - prompt)
        counted = floor if params.budget_counts_prompt else floor - prompt
        return report.Outcome(
            tokens=tokens,
            provenance="modelled",
            source=f"the simulated store of {model.spec.name}'s shapes",
            note=note,
            stored=spec.kv_bytes(prompt, tokens - prompt),
            full=model.spec.kv_bytes(prompt, tokens - prompt),
            alive=float(curve.live(prompt, tokens - prompt)[0]),
            floor=floor,
            unreachable=rules.budget_tokens is not None and counted > rules.budget_tokens,
            kinds={},
            bits=None,
            trajectory=[(n, spec.kv_bytes(0, n)) for n in at],
            segments=(),
        )

    def _note(self, calibration: Calibration | None) -> str:
        if calibration is None:
            return "No calibration: one type of thought."
        if calibration.status == "fallback":
            return f"The calibration fell back to one type of thought: {calibration.reason}."
        return f"Thoughts by layers {', '.join(map(str, calibration.layers))}."


def settings_of(params: ThinKVParams, calibration: Calibration | None) -> Settings:
    """What the rows of a cache need to know."""
    from thinkv.layout import formats_of
    from thinkv.row import Labeller, Settings

    labeller = Labeller()
    if calibration is not None and calibration.status == "ok":
        labeller = Labeller(
            layers=calibration.layers,
            thresholds=calibration.thresholds,
            head_reduce=calibration.settings.head_reduce,
            cut=calibration.settings.cut,
            window=params.label_window_tokens,
        )
    return Settings(
        formats=formats_of(params.bits),
        rules=rules_of(params),
        labeller=labeller,
        block_tokens=params.block_tokens,
        prompt_tokens=params.prompt_tokens,
        buffer_format=params.buffer_format,
        decoding=params.decoding,
        budget_counts_prompt=params.budget_counts_prompt,
    )


def cache_of(module: Any, settings: Settings) -> MethodCache:
    """An empty cache for a module that attends through thinkv."""
    from thinkv.cache import MethodCache
    from thinkv.row import ThinKVRow

    return MethodCache(module.config, lambda layers: ThinKVRow(settings, layers))


def mean_bits(row: Any) -> tuple[float, float]:
    """Mean bits of a stored element that is alive: its codes, and with its share of the scales."""
    elements = codes = stored = 0.0
    for store in row.layers:
        for pool in store.pools.values() if store else ():
            heads, dim, _ = store.shape
            count = float(pool.table.live.sum()) * 2 * heads * dim
            elements += count
            codes += count * pool.format.bits
            stored += count * pool.format.bits
            if pool.format.scaled:
                groups = float((pool.references > 0).sum())
                stored += 8 * (count / 2 / GROUP + groups * (heads * dim + 8))
    return (codes / elements, stored / elements) if elements else (16.0, 16.0)
