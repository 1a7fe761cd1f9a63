"""A regression of step times over what a batch holds, with its error on steps it has not seen.

seconds = c . x with c >= 0 and x = (1, decodes, context tokens, prompt tokens, query-key pairs of
prompts, prompts): linear in what a transformer computes and reads, so each coefficient is a rate of
the machine. Fitted by non-negative least squares on relative errors: relative to what is expected
of a step (reweighted from pass to pass), since relative to what was measured the slow steps of a
noisy machine would count too little, and all predictions come out too low.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosslayer.errors import InputError
from hermes_sim.readers.tables import number, rows, whole
from hermes_sim.step_models.protocol import Contexts, Floats

FEATURES = ("fixed", "decodes", "context", "prompt_tokens", "pairs", "prompts")
PASSES = 4
COLUMNS = ("prompts", "prompt_tokens", "pairs", "decodes", "context", "seconds")


@dataclass
class FittedSteps:
    """The step model. seconds_per: of each of `FEATURES`. error: mean relative error on held-out
    steps; limits: the largest decodes and mean context that were fitted. watts: None: not known.
    """

    seconds_per: tuple[float, ...]
    error: float
    samples: int
    decode_limit: float
    context_limit: float
    prompt_limit: float
    name: str = "fitted steps"
    watts: float | None = None
    beyond: int = 0

    def mixed(
        self,
        prefills: Sequence[tuple[int, int]],
        rows: int,
        n: int,
        context: int,
        contexts: Contexts,
    ) -> tuple[float, Sequence[float] | None]:
        """See `StepModel`."""
        tokens = sum(new for new, _ in prefills)
        pairs = sum(new * cached + new * (new + 1) // 2 for new, cached in prefills)
        far = n > 0 and context > n * self.context_limit
        if far or n > self.decode_limit or tokens > self.prompt_limit:
            self.beyond += 1
        c = self.seconds_per
        seconds = c[0] + c[1] * n + c[2] * (context if n else 0)
        seconds += c[3] * tokens + c[4] * pairs + c[5] * len(prefills)
        return seconds, None if self.watts is None else (seconds * self.watts,)

    def decodes(self, n: int, context: int, steps: int, contexts: Contexts) -> tuple[Floats, Any]:
        """See `StepModel`."""
        c = self.seconds_per
        ramp = context + n * np.arange(steps, dtype=np.float64)
        seconds = (c[0] + c[1] * n) + c[2] * ramp
        return seconds, None if self.watts is None else seconds * self.watts

    def to_json(self) -> str:
        """What `read_fit` reads."""
        fields = {name: value for name, value in asdict(self).items() if name != "beyond"}
        return json.dumps({"hermes_fit": 1} | fields, indent=1)


def fit(table: Mapping[str, Floats], *, held_out: float = 0.2, seed: int = 0) -> FittedSteps:
    """Fit on steps in columns `COLUMNS`; a random share of them is only predicted.

    Errors: InputError for fewer than 12 steps, or than one to fit for each feature.
    """
    from scipy.optimize import nnls

    seconds = np.asarray(table["seconds"], dtype=np.float64)
    if len(seconds) < 12:
        raise InputError(f"a fit needs at least 12 steps, not {len(seconds)}; record more")
    columns = [np.asarray(table[name], dtype=np.float64) for name in FEATURES[1:]]
    design = np.stack([np.ones(len(seconds)), *columns], axis=1)
    order = np.random.default_rng(seed).permutation(len(seconds))
    held = order[: max(1, round(held_out * len(order)))]
    used = order[len(held) :]
    if len(used) < len(FEATURES):
        raise InputError(
            f"{len(held)} of {len(seconds)} steps are held out, which leaves {len(used)} to fit;"
            f" at least {len(FEATURES)} are needed"
        )
    scale = np.maximum(np.abs(design[used]).max(axis=0), 1e-12)
    expected = np.maximum(seconds[used], 1e-9)
    for _ in range(PASSES):
        weight = 1 / expected
        found = nnls(design[used] / scale * weight[:, None], seconds[used] * weight)[0] / scale
        expected = np.maximum(design[used] @ found, 1e-9)
    error = float(np.mean(np.abs(design[held] @ found / np.maximum(seconds[held], 1e-9) - 1)))
    decodes = np.asarray(table["decodes"], dtype=np.float64)
    some = decodes > 0
    mean = np.asarray(table["context"], dtype=np.float64)[some] / decodes[some]
    return FittedSteps(
        tuple(found.tolist()), error, len(used), float(decodes.max()),
        float(mean.max(initial=0)), float(np.max(table["prompt_tokens"])),
        name=f"fit of {len(used)} steps, {error:.1%} off on others",
    )  # fmt: skip


def read_steps(path: Path) -> dict[str, Floats]:
    """Steps in a CSV file with the columns `COLUMNS`. Errors: InputError with file and line."""
    readers = [(name, number if name == "seconds" else whole) for name in COLUMNS]
    table = [values for _, values in rows(path, readers)]
    if not table:
        raise InputError(f"{path}: has no steps")
    if not any(values[-1] for values in table):
        raise InputError(f"{path}: no step takes any time; seconds are needed")
    return dict(zip(COLUMNS, np.array(table, dtype=np.float64).T, strict=True))


def read_fit(path: Path) -> FittedSteps:
    """A fit that was written. Errors: InputError for a file that is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("hermes_fit") != 1:
            raise ValueError("another version")
        found["seconds_per"] = tuple(float(one) for one in found["seconds_per"])
        made = FittedSteps(**found)
        limits = (made.decode_limit, made.context_limit, made.prompt_limit)
        if not all(math.isfinite(one) for one in (*made.seconds_per, *limits, made.watts or 0)):
            raise ValueError("a number that is none")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: is no fit of `hermes-sim fit`: {error}") from None
    if len(made.seconds_per) != len(FEATURES) or min(made.seconds_per) < 0:
        raise InputError(f"{path}: {len(FEATURES)} rates of 0 or more are needed")
    return made
