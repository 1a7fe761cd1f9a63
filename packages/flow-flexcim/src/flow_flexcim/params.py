"""Parameters of the transform `flow`; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from crosslayer.errors import InputError
from crosslayer.parameters import TextName

if TYPE_CHECKING:
    from crosslayer.contracts.sparsity import NMSparsity

LARGEST_M = 64

# Every N kept of M = 4, 8, 16; dense once.
CANDIDATES = (*(f"{n}:{m}" for m in (4, 8, 16) for n in range(1, m)), "4:4")


class FlowParams(BaseModel):
    """How FLOW chooses a pattern for each decoder block. N:M keeps N of M weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    sparsity: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the weights of all block linears to remove at least; a plan removes "
        "the least that reaches it at the lowest cost.",
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Accept plans whose sparsity lies within this of the target on either side; "
        "left out: the target is a lower bound. Of plan flow and owl.",
    )
    plan: Literal["flow", "uniform", "owl"] = Field(
        "flow",
        description="flow: a pattern for each block at the lowest total cost; uniform: one pattern "
        "for all blocks; owl: density by the blocks' share of outliers (both are baselines).",
    )
    cost: Literal["probe", "outlier", "recon", "released"] = Field(
        "probe",
        description="What a pattern costs a block under plan flow. probe: change of the loss on "
        "calibration text when that block alone gets it, about sixty passes over `probe_tokens` "
        "for thirty blocks; outlier: share of the outliers' scores that it drops, the paper's "
        "intent; recon: relative squared error of the linears' outputs, as if their inputs were "
        "uncorrelated; released: the formula of FLOW's released solver, for comparison.",
    )
    metric: Literal["wanda", "magnitude", "sparsegpt"] = Field(
        "wanda",
        description="What decides within a pattern. wanda: weight times input norm; magnitude: the "
        "weight; sparsegpt: the error it causes, with an update of the weights that stay.",
    )
    granularity: Literal["block", "linear"] = Field(
        "block",
        description="block: the linears of a decoder block share a pattern; linear: each has its "
        "own (an extension of the method).",
    )
    dense_blocks: tuple[int, ...] = Field(
        (),
        max_length=256,
        description="Decoder blocks that stay dense, counted in the sparsity: indices from 0, "
        "negative ones from the end, such as [0, -1].",
    )
    plan_file: Path | None = Field(
        None,
        description="Read the plan from this file (JSON as `flow-flexcim plan` writes it, or lines "
        "`Layer i: N:M`) in place of making one.",
    )
    hardware: Literal["any", "flexcim"] = Field(
        "any",
        description="Offer only candidates that this hardware maps without idle units; flexcim: N "
        "a power of two, M at most 8. The spec then says in how many passes a macro of the default "
        "shape runs the real masks.",
    )
    candidates: tuple[str, ...] = Field(
        CANDIDATES,
        min_length=1,
        max_length=256,
        description='Patterns to choose from, such as ["2:4", "4:8"]; one whose M does not divide '
        "the inputs of a block is not offered to that block.",
    )
    pattern: str | None = Field(
        None,
        description="The pattern of plan uniform, such as 2:4; left out: the densest candidate "
        "that reaches the sparsity, with the largest M.",
    )
    outlier_multiple: float = Field(
        5.0,
        gt=0,
        le=1000,
        description="A weight is an outlier where its score is above this multiple of its block's "
        "mean score.",
    )
    owl_spread: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Plan owl: how far the densities of the blocks with most and with fewest "
        "outliers lie apart.",
    )
    probe_reach: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="Cost probe: densities up to this far from the uniform plan's are offered; at "
        "half and whole reach they are measured.",
    )
    probe_base: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Cost probe: sparsity of the uniform plan that one block at a time leaves; the "
        "target's where that is less. On a model that is broken already a block says little.",
    )
    probe_tokens: int = Field(
        512,
        ge=2,
        le=1 << 24,
        description="Cost probe: how many of the calibration's tokens to run, all of them at most.",
    )
    damping: float = Field(
        0.01,
        gt=0,
        le=1,
        description="Metric sparsegpt: added to the diagonal of the inputs' second moments, as a "
        "share of its mean.",
    )
    block_columns: int = Field(
        128, ge=1, le=8192, description="Metric sparsegpt: columns updated at a time."
    )
    calibration_inputs: Literal["dense", "sequential"] = Field(
        "dense",
        description="dense: masks see the inputs of the unpruned model; sequential: those of a "
        "model whose earlier blocks are pruned. The plan always sees the former.",
    )
    recovery_steps: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Steps of masked fine-tuning on the calibration split after pruning, one "
        "window each; 0: none. The patterns stay.",
    )
    recovery_tokens: int | None = Field(
        None,
        ge=2,
        le=1 << 24,
        description="Tokens of the calibration split to fine-tune on, in turn; as many as "
        "calibration_tokens where it is not given.",
    )
    recovery_rate: float = Field(
        2e-5, gt=0, le=1, description="Learning rate of the masked fine-tuning (AdamW)."
    )
    calibration_text: TextName = Field(
        "wikipedia-sample",
        description="Text for the activation norms: a named text or a UTF-8 file; only its "
        "calibration split is read.",
    )
    calibration_tokens: int = Field(
        2048, ge=2, le=1 << 24, description="Tokens of the calibration text to run."
    )
    window_tokens: int = Field(
        256, ge=2, le=1 << 20, description="Tokens that see each other in calibration."
    )

    @property
    def patterns(self) -> tuple[NMSparsity, ...]:
        """The candidates that the hardware maps; dense is mapped by any."""
        found = (_parsed(text) for text in self.candidates)
        return tuple(p for p in found if self._maps(p))

    def _maps(self, pattern: NMSparsity) -> bool:
        """Whether the hardware runs it without idle units."""
        if self.hardware == "any" or pattern.n == pattern.m:
            return True
        return pattern.n.bit_count() == 1 and pattern.m in (2, 4, 8)

    @field_validator("candidates")
    @classmethod
    def _candidates_are_patterns(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_pattern(value) for value in values))

    @field_validator("pattern")
    @classmethod
    def _pattern_is_one(cls, value: str | None) -> str | None:
        return value if value is None else _pattern(value)

    @model_validator(mode="after")
    def _choices_fit(self) -> FlowParams:
        if self.window_tokens > self.calibration_tokens:
            raise ValueError(
                f"window_tokens = {self.window_tokens} is more than calibration_tokens = "
                f"{self.calibration_tokens}; shorten the windows"
            )
        if not self.patterns:
            raise ValueError(
                f"no candidate of {', '.join(self.candidates)} has an N that is a power of two "
                'and an M of at most 8, which hardware = "flexcim" needs; add one such as 2:8'
            )
        if self.pattern is None:
            return self
        if self.plan != "uniform":
            raise ValueError(
                f'pattern = "{self.pattern}" is for plan = "uniform"; under the other plans set '
                "candidates"
            )
        if not self._maps(_parsed(self.pattern)):
            raise ValueError(
                f'pattern = "{self.pattern}" has no N that is a power of two and M of at most 8, '
                'which hardware = "flexcim" needs; take one such as 2:8, or hardware = "any"'
            )
        removed = 1 - _parsed(self.pattern).density
        if removed < self.sparsity:
            raise ValueError(
                f'pattern = "{self.pattern}" removes {removed:g}, less than sparsity = '
                f"{self.sparsity:g}; set sparsity = {removed:g} or a sparser pattern"
            )
        return self


def _parsed(text: str) -> NMSparsity:
    from crosslayer.contracts.sparsity import NMSparsity  # here: describing needs none of it

    return NMSparsity.parse(text)


def _pattern(text: str) -> str:
    try:
        pattern = _parsed(text)
    except InputError as error:  # as a ValueError it is shown with the key it belongs to
        raise ValueError(str(error)) from None
    if pattern.m > LARGEST_M:
        raise ValueError(f"pattern {text!r}: M is at most {LARGEST_M}")
    return str(pattern)
