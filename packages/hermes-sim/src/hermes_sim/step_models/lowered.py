"""Steps priced by any accelerator model of the core, through the lowering of the model's spec.

Where ops run one after the other their costs add up, so each part is priced once: what follows
tokens or rows, by their number; prompts' attention, as it comes; decode attention of n calls, along
contexts between points 4 % apart. An accelerator that prices whole graphs is asked for whole steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from crosslayer.contracts.lowering import StepTable, fill
from crosslayer.contracts.steps import LOADS, StepShape, attention_load
from crosslayer.contracts.templates import unique_templates
from crosslayer.stepcost import price
from hermes_sim.step_models.axes import Line, weights
from hermes_sim.step_models.protocol import Contexts, Floats

if TYPE_CHECKING:
    from crosslayer.kinds import Instance, Stack

LONGEST = 1 << 20  # tokens of context up to which decode attention has points
POINTS = np.unique(np.rint(np.geomspace(1, LONGEST, 360)))
COARSE = np.unique(np.rint(np.geomspace(1, LONGEST, 24)))  # for whole graphs
COUNTS = tuple(float(2**i) for i in range(12))
TABLED = 4096  # tokens and rows that are priced at once
Both = tuple[float, float]  # seconds, joules


class LoweredSteps:
    """The step model of an instance of a stack. Joules are None if the accelerator has none."""

    context_limit = float(LONGEST)
    decode_limit = float("inf")
    beyond = 0

    def __init__(self, stack: Stack, instance: Instance) -> None:
        self._stack, self._instance = stack, instance
        self._spec = instance.model.spec
        self._classes = self._spec.attention_classes
        accelerator = instance.accelerator
        assert accelerator is not None
        self.name = f"{self._spec.name} on {accelerator.describe().name}, through the lowering"
        self._plain = all(
            one.causal and one.window is None and one.kv_curve is None for one in self._classes
        )
        self._whole = hasattr(accelerator, "estimate_graph")
        self._templates = unique_templates(self._spec, instance.parallel)
        self._drivers = {template.driver for template, _ in self._templates}
        self.has_joules = self._table(np.array([1.0]), np.array([1.0])).joules is not None
        self._tokens = self._column("tokens", TABLED)
        self._rows = self._column("logits", TABLED)
        self._rest = lru_cache(maxsize=65536)(self._price_rest)
        self._lines = lru_cache(maxsize=4096)(self._decode_lines)
        self._prefill = lru_cache(maxsize=4096)(self._price_prefill)

    def mixed(
        self,
        prefills: Sequence[tuple[int, int]],
        rows: int,
        n: int,
        context: int,
        contexts: Contexts,
    ) -> tuple[float, Sequence[float] | None]:
        """See `StepModel`."""
        if self._whole:
            steps = [*((new, cached, 0) for new, cached in prefills)]
            decoding = contexts() if n else []
            cost = self._stack.step_cost(
                self._instance,
                StepShape.from_sequences(
                    self._spec, [*steps, *((1, cached, made) for cached, made in decoding)],
                ),
            )  # fmt: skip
            return cost.seconds, None if cost.joules is None else (cost.joules,)
        tokens = sum(new for new, _ in prefills) + n
        seconds, joules = self._rest(tokens, rows, len(prefills) + n)
        for position in range(len(self._classes)):
            more, heat = self._prefill(position, self._loads(position, prefills))
            seconds, joules = seconds + more, joules + heat
        if n:
            run, heats = self._attention(n, context, 1, contexts)
            seconds, joules = seconds + float(run[0]), joules + float(heats[0])
        return seconds, (joules,) if self.has_joules else None

    def decodes(self, n: int, context: int, steps: int, contexts: Contexts) -> tuple[Floats, Any]:
        """See `StepModel`."""
        if self._whole:
            return self._whole_decodes(n, context, steps)
        seconds, joules = self._rest(n, n, n)
        run, heats = self._attention(n, context, steps, contexts)
        return seconds + run, joules + heats if self.has_joules else None

    def _attention(
        self, n: int, context: int, steps: int, contexts: Contexts
    ) -> tuple[Floats, Floats]:
        """Decode attention of successive iterations."""
        if not self._classes:
            return np.zeros(steps), np.zeros(steps)
        if not self._plain:
            return self._exact_attention(steps, contexts)
        seconds, joules = self._lines(n)
        at = (context + n * np.arange(steps, dtype=np.float64)) / n
        return seconds.rising(at), joules.rising(at) if joules else np.zeros(steps)

    def _exact_attention(self, steps: int, contexts: Contexts) -> tuple[Floats, Floats]:
        """Caches with a window or a curve: from every call's own state."""
        states = np.array(contexts(), dtype=np.int64)
        count, step = len(states), np.repeat(np.arange(steps), len(states))
        cached = np.tile(states[:, 0], steps)
        table = StepTable.from_sequences(
            self._spec, np.ones(count * steps, np.int64), cached,
            np.tile(states[:, 1], steps) + step, step, steps=steps,
        )  # fmt: skip
        return self._both(self._no_tokens(table.loads))

    def _decode_lines(self, n: int) -> tuple[Line, Line | None]:
        """Seconds and joules of n calls' attention over their mean context."""
        loads = np.zeros((len(self._classes), 2, len(LOADS), len(POINTS)))
        for position, one in enumerate(self._classes):
            total = n * POINTS
            loads[position, 1] = [
                np.full(len(POINTS), n), np.full(len(POINTS), n), total, total,
                total * one.kv_bytes_per_token,
            ]  # fmt: skip
        seconds, joules = self._both(self._no_tokens(loads))
        return Line(POINTS, seconds), Line(POINTS, joules) if self.has_joules else None

    def _loads(self, position: int, prefills: Sequence[tuple[int, int]]) -> tuple[float, ...]:
        """`LOADS` of prompts in one attention class."""
        one = self._classes[position]
        if self._plain:
            queries = pairs = keys = 0
            for new, cached in prefills:
                queries += new
                pairs += new * cached + new * (new + 1) // 2
                keys += cached + new
            return len(prefills), queries, pairs, keys, keys * one.kv_bytes_per_token
        new_, cached_ = np.array(prefills, dtype=np.int64).T
        load = attention_load(one, new_, cached_, np.zeros_like(new_))
        return (len(prefills), *(float(np.sum(column)) for column in load))

    def _price_prefill(self, position: int, loads: tuple[float, ...]) -> Both:
        nothing = (0.0,) * len(LOADS)
        empty = (nothing, nothing)
        shapes = tuple(
            (loads, nothing) if i == position else empty for i in range(len(self._classes))
        )
        step = StepShape(0.0, 0.0, 0.0, shapes)
        seconds = joules = 0.0
        for template, repeats in self._templates:
            if template.load == (position, 0):
                cost = price(self._instance.accelerator, fill(template, step))
                seconds += repeats * cost.seconds
                joules += repeats * (cost.joules or 0.0)
        return seconds, joules

    def _price_rest(self, tokens: int, rows: int, sequences: int) -> Both:
        """All that is no attention."""
        if self._drivers <= {"tokens", "logits", "attention"} and max(tokens, rows) < TABLED:
            seconds = self._tokens[0][tokens] + self._rows[0][rows]
            return float(seconds), float(self._tokens[1][tokens] + self._rows[1][rows])
        cost = self._table(np.array([tokens]), np.array([rows]), np.array([sequences])).row(0)
        return cost.seconds, cost.joules or 0.0

    def _column(self, driver: str, size: int) -> tuple[Floats, Floats]:
        """What follows tokens, or rows, at 0, 1, ... size - 1."""
        if self._whole:
            return np.zeros(0), np.zeros(0)
        ramp, nothing = np.arange(size, dtype=np.float64), np.zeros(size)
        pair = (ramp, nothing) if driver == "tokens" else (nothing, ramp)
        costs = self._table(*pair)
        return costs.seconds, nothing if costs.joules is None else costs.joules

    def _table(self, tokens: Any, rows: Any, sequences: Any = None) -> Any:
        """Costs of steps without attention."""
        count = len(tokens)
        loads = np.zeros((len(self._classes), 2, len(LOADS), count))
        many = np.zeros(count) if sequences is None else sequences
        columns = [np.asarray(one, dtype=np.float64) for one in (tokens, rows, many)]
        table = StepTable(columns[0], columns[1], columns[2], loads)
        return self._stack.step_costs(self._instance, table)

    def _no_tokens(self, loads: Floats) -> StepTable:
        nothing = np.zeros(loads.shape[-1])
        return StepTable(nothing, nothing, nothing, loads)

    def _both(self, table: StepTable) -> tuple[Floats, Floats]:
        costs = self._stack.step_costs(self._instance, table)
        return costs.seconds, np.zeros(len(table)) if costs.joules is None else costs.joules

    def _whole_decodes(self, n: int, context: int, steps: int) -> tuple[Floats, Any]:
        """Between powers of two of calls, and between points of their mean context."""
        at = (context + n * np.arange(steps, dtype=np.float64)) / n
        seconds, joules = np.zeros(steps), np.zeros(steps)
        for i, weight in weights(COUNTS, n):
            line, heat = self._graph_lines(int(COUNTS[i]))
            seconds += weight * line.rising(at)
            if heat is not None:
                joules += weight * heat.rising(at)
        return seconds, joules if self.has_joules else None

    @lru_cache(maxsize=256)  # noqa: B019 (lives as long as its simulation)
    def _graph_lines(self, n: int) -> tuple[Line, Line | None]:
        cached = np.repeat(COARSE.astype(np.int64) - 1, n)
        step = np.repeat(np.arange(len(COARSE)), n)
        table = StepTable.from_sequences(
            self._spec, np.ones(len(cached), np.int64), cached, np.ones(len(cached), np.int64),
            step, steps=len(COARSE),
        )  # fmt: skip
        costs = self._stack.step_costs(self._instance, table)
        heat = Line(COARSE, costs.joules) if costs.joules is not None else None
        return Line(COARSE, costs.seconds), heat
