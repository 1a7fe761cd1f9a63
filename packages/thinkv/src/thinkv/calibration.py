"""Calibration (Algorithm 1): which layers tell thoughts apart, and where the thresholds lie.

For each prompt and layer the sparsities of all decode rows give a density; a layer is eligible if
it has as many modes as there are types of thought in a large enough share of the prompts. Where too
few layers are eligible there are no thresholds, and the cache runs with one type of thought
(|T| = 1, appendix E.10): thresholds are never made up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crosslayer.errors import InputError
from thinkv.density import find_modes
from thinkv.thoughts import CUT, HeadReduce, Thought

# Keys of a config that change without the model changing.
_NOT_THE_MODEL = frozenset(
    {
        "attn_implementation",
        "_attn_implementation",
        "transformers_version",
        "_name_or_path",
        "use_cache",
    }
)


class CalibrationSettings(BaseModel):
    """How rows become thresholds; each choice that the paper leaves open is one field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: int = Field(4, ge=1, le=1024, description="|L*|, layers that vote together.")
    head_reduce: HeadReduce = Field("max-logit", description="How grouped heads become one row.")
    cut: float = Field(CUT, gt=0, lt=1, description="Share of the row maximum that counts as used.")
    bandwidth: float | None = Field(
        None, gt=0, le=1, description="Of the density; left out: Scott's rule."
    )
    prominence: float = Field(
        0.02, gt=0, lt=1, description="Of a peak that counts, as a share of the highest peak."
    )
    agreement: float = Field(
        1.0, gt=0, le=1, description="Share of prompts in which a layer must be trimodal."
    )
    skip_tokens: int = Field(
        128, ge=1, le=1 << 20, description="First rows of a prompt to leave out: short rows."
    )


class LayerModes(BaseModel):
    """How many modes a layer's sparsity has in each prompt, and where the valleys lie on average
    over the prompts with three."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    modes: tuple[int, ...]
    agreement: float
    valleys: tuple[float, float] | None = None


class Calibration(BaseModel):
    """The result, bound to one model. thresholds: (theta 1, theta 2), None under the fallback.

    shares: of calibration rows that the thresholds call T, E and R.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    status: Literal["ok", "fallback"]
    reason: str
    model: str
    model_hash: str
    settings: CalibrationSettings
    prompts: int
    rows: int
    layers: tuple[int, ...] = ()
    thresholds: tuple[float, float] | None = None
    shares: tuple[float, float, float] | None = None
    per_layer: tuple[LayerModes, ...] = ()

    @model_validator(mode="after")
    def _thresholds_belong_to_ok(self) -> Calibration:
        known = self.thresholds is not None and bool(self.layers)
        if known != (self.status == "ok"):
            raise ValueError(f"status {self.status} with thresholds {self.thresholds}")
        if self.thresholds is not None and not self.thresholds[0] < self.thresholds[1]:
            raise ValueError(f"thresholds {self.thresholds} do not ascend")
        return self

    def save(self, path: Path) -> None:
        """Write the JSON artefact. InputError for a place that cannot be written."""
        writable(path)
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a JSON artefact. InputError for a missing file and for one that is none."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot read the calibration: {error.strerror}") from error
        except (ValidationError, UnicodeDecodeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            where = ".".join(map(str, first["loc"])) if first else ""
            why = f"{where}: {first['msg']}" if first else "not UTF-8"
            raise InputError(
                f"{path} is no calibration of thinkv ({why}); write one with `crosslayer thinkv "
                "calibrate`"
            ) from error

    def require(self, model_hash: str) -> None:
        """InputError unless this calibration was made for the model of that hash."""
        if self.model_hash != model_hash:
            raise InputError(
                f"the calibration was made for {self.model} ({self.model_hash[:12]}), not for this "
                f"model ({model_hash[:12]}); thresholds of another model mean nothing here: "
                "calibrate this one"
            )


def writable(path: Path) -> None:
    """Make the folder. InputError where the file cannot be written: for before the work."""
    new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
        if new:
            path.unlink()
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def fit(
    rows: Sequence[Mapping[int, NDArray[Any]]],
    settings: CalibrationSettings,
    model: str,
    model_hash: str,
) -> Calibration:
    """Sparsities of each prompt ({layer: [rows]}) -> thresholds, or the fallback with its reason.

    Eligible layers are ranked by the share of prompts that agree, then by how far apart their
    valleys lie, then by index. InputError where there is nothing to fit.
    """
    if not rows or any(not len(values) for prompt in rows for values in prompt.values()):
        raise InputError(
            f"no rows to calibrate on: every trace needs more than {settings.skip_tokens} tokens"
        )
    types = len(Thought)
    layers = []
    for layer in sorted(rows[0]):
        found = [
            find_modes(prompt[layer], settings.bandwidth, settings.prominence) for prompt in rows
        ]
        three = [modes.valleys for modes in found if len(modes.peaks) == types]
        low, high = np.mean(three, axis=0) if three else (0.0, 0.0)
        layers.append(
            LayerModes(
                layer=layer,
                modes=tuple(len(modes.peaks) for modes in found),
                agreement=len(three) / len(rows),
                valleys=(float(low), float(high)) if three else None,
            )
        )
    common = {
        "model": model,
        "model_hash": model_hash,
        "settings": settings,
        "prompts": len(rows),
        "rows": sum(len(next(iter(prompt.values()))) for prompt in rows),
        "per_layer": tuple(layers),
    }
    eligible = [one for one in layers if one.valleys and one.agreement >= settings.agreement]
    if len(eligible) < settings.layers:
        reason = (
            f"{len(eligible)} of {len(layers)} layers have {types} modes in at least "
            f"{settings.agreement:.0%} of {len(rows)} prompts, {settings.layers} are needed: one "
            "type of thought"
        )
        return Calibration(status="fallback", reason=reason, **common)
    ranked = sorted(eligible, key=lambda one: (-one.agreement, -_width(one), one.layer))[
        : settings.layers
    ]
    chosen = tuple(sorted(one.layer for one in ranked))
    low, high = np.mean([one.valleys or () for one in ranked], axis=0)
    mean = np.concatenate([np.mean([prompt[layer] for layer in chosen], axis=0) for prompt in rows])
    execution, transition = float((mean < low).mean()), float((mean >= high).mean())
    return Calibration(
        status="ok",
        reason=f"{len(eligible)} of {len(layers)} layers are eligible",
        layers=chosen,
        thresholds=(float(low), float(high)),
        shares=(transition, execution, 1 - execution - transition),
        **common,
    )


def model_hash(module: Any) -> str:
    """SHA-256 over a torch module's configuration and every parameter's name, shape and bytes."""
    import torch

    digest = hashlib.sha256()
    config = module.config.to_dict() if hasattr(module, "config") else {}
    config = {k: v for k, v in config.items() if k not in _NOT_THE_MODEL}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, value in sorted(module.named_parameters()):
        whole = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(whole.shape)} {whole.dtype}".encode())
        digest.update(whole.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _width(layer: LayerModes) -> float:
    assert layer.valleys is not None
    return layer.valleys[1] - layer.valleys[0]
