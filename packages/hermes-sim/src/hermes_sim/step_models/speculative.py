"""Speculative decoding as a step model: a draft proposes tokens, one pass of the model checks them.

Of k proposed tokens each is accepted with probability a, up to the first that is not, and the check
gives one token more: E = (1 - a^(k+1)) / (1 - a) tokens a step in the mean (Leviathan et al.,
arXiv 2211.17192, equation 1). Clients count iterations of one token a call, so an iteration is
priced as 1 / E of a step: the mean rate is exact, the spread of tokens over steps is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from hermes_sim.step_models.protocol import Contexts, Floats, StepModel

POINTS = np.unique(np.rint(np.geomspace(1, 1 << 20, 64)))  # mean contexts that are priced


def tokens_a_step(drafted: int, acceptance: float) -> float:
    """Tokens that a step makes for each call, in the mean: 1 to drafted + 1."""
    if acceptance >= 1:
        return drafted + 1.0
    return (1 - acceptance ** (drafted + 1)) / (1 - acceptance)


class Speculative:
    """A step model with a draft before it. draft_share: seconds of one drafted token of all calls,
    as a share of a plain decode step.
    """

    def __init__(
        self, model: StepModel, drafted: int, acceptance: float, draft_share: float
    ) -> None:
        self.model, self.drafted, self.draft_share = model, drafted, draft_share
        self.tokens = tokens_a_step(drafted, acceptance)
        self.name = f"{model.name}, {drafted} drafted tokens accepted with {acceptance:g}"
        self.context_limit, self.decode_limit = model.context_limit, model.decode_limit
        self.beyond = 0
        self._line = lru_cache(maxsize=4096)(self._price_line)

    def decodes(self, n: int, context: int, steps: int, contexts: Contexts) -> tuple[Floats, Any]:
        """See `StepModel`."""
        at = (context + n * np.arange(steps, dtype=np.float64)) / n
        seconds, joules = self._line(n)
        found: Floats = np.interp(at, POINTS, seconds) / self.tokens
        return found, None if joules is None else np.interp(at, POINTS, joules) / self.tokens

    def mixed(
        self, prefills: Sequence[tuple[int, int]], rows: int, n: int, context: int,
        contexts: Contexts,
    ) -> tuple[float, Sequence[float] | None]:  # fmt: skip
        """Prompts are paid in full, beside an iteration of those who decode."""
        before = self.model.beyond
        if not n:
            found = self.model.mixed(prefills, rows, 0, 0, contexts)
            self.beyond += self.model.beyond - before
            return found
        mean = max(1, round(context / n))
        check = [(self.drafted + 1, mean - 1)] * n
        more = (self.drafted + 1) * n
        whole, heat = self.model.mixed([*prefills, *check], rows - n + more, 0, 0, contexts)
        self.beyond += self.model.beyond > before
        alone, cool = self.model.mixed(check, more, 0, 0, contexts)
        run, heats = self.decodes(n, context, 1, contexts)
        seconds = max(0.0, whole - alone) + float(run[0])
        if heat is None or cool is None or heats is None:
            return seconds, None
        return seconds, (max(0.0, heat[0] - cool[0]) + float(heats[0]),)

    def _price_line(self, n: int) -> tuple[Floats, Floats | None]:
        """Seconds and joules of whole steps of n calls over their mean context."""
        seconds, joules = np.zeros(len(POINTS)), np.zeros(len(POINTS))
        known, size = True, self.drafted + 1
        for i, mean in enumerate(POINTS.astype(int).tolist()):
            check, heat = self.model.mixed([(size, mean - 1)] * n, size * n, 0, 0, list)
            states = [(mean - 1, 0)] * n
            plain, cool = self.model.decodes(n, n * mean, 1, states.copy)
            drafts = self.drafted * self.draft_share
            seconds[i] = check + drafts * float(plain[0])
            if heat is None or cool is None:
                known = False
            else:
                joules[i] = heat[0] + drafts * float(cool[0])
        return seconds, joules if known else None
