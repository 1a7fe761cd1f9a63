"""The transform `flow`: a model to the same model with an N:M pattern in each decoder block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError
from crosslayer.kinds import ModelArtifact, RunContext
from crosslayer.texts import windows_text
from flow_flexcim import report
from flow_flexcim.linears import BlockLinears, decoder_linears, pruned_spec
from flow_flexcim.params import FlowParams
from flow_flexcim.plan import Plan, level_plan, uniform_plan

FILE = "linears"  # the name in ModelArtifact.files


class Flow:
    """FLOW's per-block N:M plan with Wanda's mask (arXiv 2504.14365; 2306.11695).

    A live model is calibrated in one pass of the dense model, copied and pruned, without any weight
    update; its linears are written packed. A spec alone has no signals: it gets the uniform pattern
    that reaches the target, or the most level mix where no single pattern does.
    """

    def __init__(self, params: FlowParams | None = None) -> None:
        self.params = params or FlowParams()

    def transform(self, model: ModelArtifact, context: RunContext) -> ModelArtifact:
        """The pruned model; writes flow-linears.safetensors below context.output if it is live.

        Errors: InputError for a sparsity that the candidates cannot reach, inputs that no M
        divides, NaN in weights or activations, modules other than torch.nn.Linear.
        """
        blocks = decoder_linears(model.spec)
        if model.live is None:
            return self._on_the_spec(model, blocks, context)
        self._require_short_windows(model)
        from flow_flexcim.prune import calibrate, prune

        file = context.output / "flow-linears.safetensors"
        squares = calibrate(model.live, blocks, self.params, context)
        live, plan, signals, size = prune(model.live, blocks, squares, self.params, context, file)
        rows = tuple(
            report.BlockRow(
                block.name,
                pattern,
                block.weights,
                found.outlier_density,
                found.dropped[0],
                found.error[0],
            )
            for block, pattern, found in zip(blocks, plan.patterns, signals, strict=True)
        )
        windows = self.params.calibration_tokens // self.params.window_tokens
        source = (
            f"{model.spec.name}, all linears of {len(blocks)} decoder blocks; calibrated on "
            f"{self.params.calibration_text}, split calibration, "
            f"{windows_text(windows, self.params.window_tokens)}, seed {context.seed}"
        )
        outcome = report.Outcome(
            rows=rows,
            sparsity=plan.sparsity,
            target=self.params.sparsity,
            bytes_before=sum(block.weight_bytes for block in blocks),
            bytes_after=size,
            model=model.spec.name,
            live=True,
            source=source,
            note=self._note(),
        )
        context.logger.info("flow: %s sparsity %.4g achieved", self._note(), plan.sparsity)
        result = self._result(model, blocks, plan, outcome)
        return result.replace(live=live, files={FILE: file})

    def restore(
        self, model: ModelArtifact, files: Mapping[str, Path], context: RunContext
    ) -> ModelArtifact:
        """The result of `transform` from its input and its file: spec, weights, history, files.

        Metrics, tables and figures are those of the input: whoever keeps the file keeps them too.
        """
        blocks = decoder_linears(model.spec)
        if model.live is None:
            plan = self._spec_plan(blocks)
            patterns = _by_name(blocks, plan.patterns)
            return self._changed(model, patterns)
        if FILE not in files:
            raise InputError(f"flow restores a live model from its file {FILE!r}; it was not given")
        from flow_flexcim.prune import restore

        live, patterns = restore(model.live, blocks, files[FILE], context)
        return self._changed(model, patterns).replace(live=live, files=dict(files))

    def _on_the_spec(
        self, model: ModelArtifact, blocks: Sequence[BlockLinears], context: RunContext
    ) -> ModelArtifact:
        plan = self._spec_plan(blocks)
        pairs = zip(blocks, plan.patterns, strict=True)
        pruned = [block.pruned(pattern) for block, pattern in pairs]
        level = len(set(plan.patterns)) == 1
        note = f"Plan uniform {plan.patterns[0]}." if level else "Plan as level as possible."
        if self.params.plan == "flow":
            note += " Without weights there are no outliers to plan by."
        outcome = report.Outcome(
            rows=tuple(
                report.BlockRow(block.name, pattern, block.weights)
                for block, pattern in zip(blocks, plan.patterns, strict=True)
            ),
            sparsity=plan.sparsity,
            target=self.params.sparsity,
            bytes_before=sum(block.weight_bytes for block in blocks),
            bytes_after=sum(block.weight_bytes for block in pruned),
            model=model.spec.name,
            live=False,
            source=f"the spec of {model.spec.name}, no weights",
            note=note,
        )
        context.logger.info("flow: %s", note)
        return self._result(model, blocks, plan, outcome)

    def _spec_plan(self, blocks: Sequence[BlockLinears]) -> Plan:
        texts = self.params.candidates if self.params.pattern is None else (self.params.pattern,)
        candidates = [NMSparsity.parse(text) for text in texts]
        if self.params.plan == "flow":
            return level_plan(blocks, candidates, self.params.sparsity)
        return uniform_plan(blocks, candidates, self.params.sparsity)

    def _result(
        self,
        model: ModelArtifact,
        blocks: Sequence[BlockLinears],
        plan: Plan,
        outcome: report.Outcome,
    ) -> ModelArtifact:
        return self._changed(model, _by_name(blocks, plan.patterns)).replace(
            metrics=(*model.metrics, *report.metrics(outcome)),
            tables=(*model.tables, report.table(outcome)),
            figures=(*model.figures, report.figure(outcome)),
        )

    def _changed(self, model: ModelArtifact, patterns: Mapping[str, NMSparsity]) -> ModelArtifact:
        """The artifact with the patterns in its spec and this transform in its history."""
        return model.replace(
            spec=pruned_spec(model.spec, patterns),
            history=(*model.history, ("flow", self.params.model_dump_json())),
            files={},
        )

    def _note(self) -> str:
        if self.params.plan == "uniform":
            return "Plan uniform, Wanda's mask."
        return f"Plan flow by cost {self.params.cost}, Wanda's mask."

    def _require_short_windows(self, model: ModelArtifact) -> None:
        longest, window = model.spec.context_tokens, self.params.window_tokens
        if longest is not None and window > longest:
            raise InputError(
                f"window_tokens = {window} is more than the {longest} tokens that "
                f"{model.spec.name} can read; shorten it"
            )


def _by_name(
    blocks: Sequence[BlockLinears], patterns: Sequence[NMSparsity]
) -> dict[str, NMSparsity]:
    pairs = zip(blocks, patterns, strict=True)
    return {block.name: pattern for block, pattern in pairs}
