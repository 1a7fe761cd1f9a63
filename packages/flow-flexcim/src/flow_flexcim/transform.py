"""The transform `flow`: a model to the same model with an N:M pattern in each decoder block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from crosslayer.contracts.parts import Annotations
from crosslayer.contracts.sparsity import NMSparsity
from crosslayer.errors import InputError
from crosslayer.kinds import LiveModel, ModelArtifact, RunContext
from crosslayer.texts import windows_text
from flow_flexcim import planfile, report
from flow_flexcim.linears import BlockLinears, decoder_linears, pruned_spec, units
from flow_flexcim.params import FlowParams
from flow_flexcim.plan import Plan, level_plan, uniform_plan

FILE = "linears"  # the name in ModelArtifact.files


class Flow:
    """FLOW's per-block N:M plan with a mask of choice (arXiv 2504.14365).

    A live model is calibrated, planned, copied and pruned; its linears are written packed, its plan
    beside them. A spec alone has no signals: it gets the plan of `plan_file`, or the uniform
    pattern that reaches the target, or the most level mix where no single pattern does.
    """

    def __init__(self, params: FlowParams | None = None) -> None:
        self.params = params or FlowParams()

    def transform(self, model: ModelArtifact, context: RunContext) -> ModelArtifact:
        """The pruned model; writes flow-linears.safetensors and flow-plan.json below context.output
        if it is live.

        Errors: InputError for a sparsity that the candidates cannot reach, inputs that no M
        divides, NaN in weights or activations, modules that are no linears.
        """
        blocks = self._units(model)
        if model.live is None:
            return self._on_the_spec(model, blocks, context)
        self._require_short_windows(model)
        from flow_flexcim import storage
        from flow_flexcim.planning import make_plan
        from flow_flexcim.prune import calibrate, calibration_windows, pack_live, prune
        from flow_flexcim.recovery import recover, recovery_windows

        params = self.params
        windows = calibration_windows(model.live, params, context)
        if params.recovery_steps:  # a text that is too short is refused before the long work
            recovery_windows(model.live, params, context)
        inputs = calibrate(model.live, blocks, windows, params, context)
        plan, signals = make_plan(model.live, blocks, inputs, windows, params, context)
        live, packed = prune(model.live, blocks, plan.patterns, inputs, windows, params, context)
        recovery = None
        if params.recovery_steps:
            recovery = recover(live, blocks, plan.patterns, params, context)
            packed = pack_live(live, blocks, plan.patterns)
        file = context.output / "flow-linears.safetensors"
        storage.write(file, packed)
        planfile.write(context.output / "flow-plan.json", blocks, plan)
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
        source = (
            f"{model.spec.name}, all linears of {blocks[-1].index + 1} decoder blocks; calibrated "
            f"on {params.calibration_text}, split calibration, "
            f"{windows_text(len(windows), params.window_tokens)}, seed {context.seed}"
        )
        outcome = report.Outcome(
            rows=rows,
            sparsity=plan.sparsity,
            target=self._target(),
            bytes_before=sum(block.weight_bytes for block in blocks),
            bytes_after=sum(linear.nbytes for linear in packed.values()),
            model=model.spec.name,
            live=True,
            source=source,
            note=self._note(),
            recovery=recovery,
        )
        context.logger.info("flow: %s sparsity %.4g achieved", self._note(), plan.sparsity)
        return self._result(model, blocks, plan, outcome, live).replace(files={FILE: file})

    def restore(
        self, model: ModelArtifact, files: Mapping[str, Path], context: RunContext
    ) -> ModelArtifact:
        """The result of `transform` from its input and its file: spec, weights, history, files.

        Metrics, tables and figures are those of the input: whoever keeps the file keeps them too.
        """
        blocks = self._units(model)
        if model.live is None:
            return self._changed(model, blocks, self.spec_plan(blocks).patterns)
        if FILE not in files:
            raise InputError(f"flow restores a live model from its file {FILE!r}; it was not given")
        from flow_flexcim.prune import restore

        live, patterns = restore(model.live, blocks, files[FILE], context)
        return self._changed(model, blocks, patterns, live).replace(files=dict(files))

    def _units(self, model: ModelArtifact) -> tuple[BlockLinears, ...]:
        params = self.params
        return units(decoder_linears(model.spec), params.granularity, params.dense_blocks)

    def _on_the_spec(
        self, model: ModelArtifact, blocks: Sequence[BlockLinears], context: RunContext
    ) -> ModelArtifact:
        plan = self.spec_plan(blocks)
        pairs = zip(blocks, plan.patterns, strict=True)
        pruned = [block.pruned(pattern) for block, pattern in pairs]
        pruned_patterns = {p for b, p in zip(blocks, plan.patterns, strict=True) if not b.dense}
        if self.params.plan_file is not None:
            note = f"Plan of {self.params.plan_file.name}."
        elif len(pruned_patterns) == 1:
            note = f"Plan uniform {pruned_patterns.pop()}."
        else:
            note = "Plan as level as possible."
        if self.params.plan != "uniform" and self.params.plan_file is None:
            note += " Without weights there are no outliers to plan by."
        if self.params.recovery_steps:
            note += " Without weights nothing is fine-tuned."
        outcome = report.Outcome(
            rows=tuple(
                report.BlockRow(block.name, pattern, block.weights)
                for block, pattern in zip(blocks, plan.patterns, strict=True)
            ),
            sparsity=plan.sparsity,
            target=self._target(),
            bytes_before=sum(block.weight_bytes for block in blocks),
            bytes_after=sum(block.weight_bytes for block in pruned),
            model=model.spec.name,
            live=False,
            source=f"the spec of {model.spec.name}, no weights",
            note=note,
        )
        context.logger.info("flow: %s", note)
        return self._result(model, blocks, plan, outcome)

    def spec_plan(self, blocks: Sequence[BlockLinears]) -> Plan:
        """The plan of a spec without weights."""
        params = self.params
        if params.plan_file is not None:
            return planfile.read(params.plan_file, blocks)
        if params.plan != "uniform":
            return level_plan(blocks, params.patterns, params.sparsity, params.tolerance)
        only = [NMSparsity.parse(params.pattern)] if params.pattern else params.patterns
        return uniform_plan(blocks, only, params.sparsity)

    def _result(
        self,
        model: ModelArtifact,
        blocks: Sequence[BlockLinears],
        plan: Plan,
        outcome: report.Outcome,
        live: LiveModel | None = None,
    ) -> ModelArtifact:
        return self._changed(model, blocks, plan.patterns, live).replace(
            metrics=(*model.metrics, *report.metrics(outcome)),
            tables=(*model.tables, report.table(outcome)),
            figures=(*model.figures, report.figure(outcome)),
        )

    def _changed(
        self,
        model: ModelArtifact,
        blocks: Sequence[BlockLinears],
        patterns: Sequence[NMSparsity],
        live: LiveModel | None = None,
    ) -> ModelArtifact:
        """The artifact with the patterns in its spec and this transform in its history; for the
        macro of FlexCiM also with the passes that the masks of the pruned live model need there.
        """
        notes: dict[str, Annotations] = {}
        if live is not None and self.params.hardware == "flexcim":
            from flow_flexcim.flexcim.annotate import measured_passes

            notes = measured_passes(live, blocks, patterns)
        return model.replace(
            spec=pruned_spec(model.spec, blocks, patterns, notes),
            live=live,
            history=(*model.history, ("flow", self.params.model_dump_json())),
            files={},
        )

    def _target(self) -> float | None:
        return None if self.params.plan_file is not None else self.params.sparsity

    def _note(self) -> str:
        params = self.params
        mask = {"wanda": "Wanda's mask", "magnitude": "mask by magnitude"}
        plan = f"flow by cost {params.cost}" if params.plan == "flow" else params.plan
        if params.plan_file is not None:
            plan = f"of {params.plan_file.name}"
        said = f"Plan {plan}, {mask.get(params.metric, 'SparseGPT')}."
        if params.recovery_steps:
            said += f" {params.recovery_steps} steps of masked fine-tuning."
        return said

    def _require_short_windows(self, model: ModelArtifact) -> None:
        longest, window = model.spec.context_tokens, self.params.window_tokens
        if longest is not None and window > longest:
            raise InputError(
                f"window_tokens = {window} is more than the {longest} tokens that "
                f"{model.spec.name} can read; shorten it"
            )
