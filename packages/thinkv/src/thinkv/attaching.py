"""For people with a transformers model and no pipeline: attach, generate, report, detach."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from thinkv.cache import MethodCache, attached
from thinkv.calibration import Calibration, model_hash
from thinkv.params import ThinKVParams
from thinkv.row import Settings
from thinkv.transform import cache_of, mean_bits, settings_of


class Attached:
    """A model that attends through thinkv for as long as the with block of `attach` lasts."""

    def __init__(self, module: Any, settings: Settings) -> None:
        self.module, self.settings = module, settings
        self.cache: MethodCache | None = None

    def new_cache(self) -> MethodCache:
        """An empty cache, to be given as past_key_values; `report` is about the newest."""
        self.cache = cache_of(self.module, self.settings)
        return self.cache

    def report(self) -> dict[str, Any]:
        """Of the newest cache: bytes by kind, and of each sequence its logical and physical
        length, mean bits without and with scales, labels, evicted tokens, floor, whether the
        budget is out of reach."""
        if self.cache is None:
            return {"bytes": {}, "sequences": []}
        self.cache.settle()
        sequences = []
        for row in self.cache.rows:
            one: Any = row
            timeline = one.timeline
            sequences.append(
                {
                    "logical_tokens": one.seen,
                    "physical_tokens": one.physical,
                    "prompt_tokens": one.prompt,
                    "code_bits": mean_bits(one)[0],
                    "stored_bits": mean_bits(one)[1],
                    "segments": [
                        {"start": s.start, "type": s.thought.name.lower(), "alive": s.alive}
                        for s in timeline.segments
                    ],
                    "evicted_tokens": one.evicted,
                    "floor_tokens": one.prompt + timeline.rules.floor(timeline.generated),
                    "budget_unreachable": timeline.unreachable(one.counted_prompt),
                }
            )
        return {"bytes": self.cache.bytes(), "sequences": sequences}


@contextlib.contextmanager
def attach(
    module: Any,
    params: ThinKVParams | None = None,
    calibration: Calibration | None = None,
    prompt_tokens: int | None = None,
) -> Iterator[Attached]:
    """Let a transformers causal LM decode through ThinKV within a with block.

    prompt_tokens None: the first pass of each sequence is its prompt, and later passes of more than
    16 tokens are further turns' prompts. Afterwards the model is as it was, bit for bit.
    Errors: InputError for a model without full attention and for another model's calibration.
    """
    import dataclasses

    if calibration is not None:
        calibration.require(model_hash(module))
    settings = settings_of(params or ThinKVParams(), calibration)
    settings = dataclasses.replace(settings, prompt_tokens=prompt_tokens)
    with attached(module):
        yield Attached(module, settings)
