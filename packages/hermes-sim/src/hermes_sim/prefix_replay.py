"""What a prefix cache of some size would hit on a trace, block by block, least recently used out
first.
"""

from __future__ import annotations

from dataclasses import dataclass

from crosslayer.contracts.requests import RequestTrace
from crosslayer.errors import InputError
from hermes_sim.tiers import Lru


@dataclass(frozen=True)
class PrefixHits:
    """Blocks that were asked for, and of these: block_hits, those that were there; prefix_hits,
    those of a leading run without a gap, which is what serving can reuse.
    """

    capacity: int | None
    blocks: int
    block_hits: int
    prefix_hits: int
    reused_tokens: int
    prompt_tokens: int

    @property
    def hit_rate(self) -> float:
        """Share of the blocks that were there."""
        return self.block_hits / self.blocks if self.blocks else 0.0


def replay_prefixes(trace: RequestTrace, capacity: int | None) -> PrefixHits:
    """Every call's blocks in order of arrival, each looked up and then kept.

    capacity: in blocks; None: no limit. Errors: InputError for a trace without prefixes.
    """
    if trace.prefix is None:
        raise InputError("the trace has no prefix hashes to replay")
    cache = Lru(float("inf") if capacity is None else capacity)
    prefix = trace.prefix
    hashes, offsets = prefix.hashes.tolist(), prefix.offsets.tolist()
    block_hits = prefix_hits = reused = 0
    for row, prompt in enumerate(trace.prompt_tokens.tolist()):
        leading = 0
        whole = True
        for key in hashes[offsets[row] : offsets[row + 1]]:
            if cache.touch(key):
                block_hits += 1
                leading += whole
            else:
                whole = False
                cache.put(key)
        prefix_hits += leading
        reused += min(leading * prefix.block_tokens, prompt)
    return PrefixHits(
        capacity, len(hashes), block_hits, prefix_hits, reused, int(trace.prompt_tokens.sum())
    )
