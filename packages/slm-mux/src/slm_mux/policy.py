"""The serving policy `slm-mux`: which calls a request fans out to, and whose answer is returned.

The answer is Algorithm 1's (`slm_mux.algorithm`). Where calls say nothing, as in a simulation of
lengths only, every call is made and there is no answer: what is priced is the whole fan-out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate

from crosslayer.contracts.calls import LLMCall, Prefix, Request
from crosslayer.contracts.serving import (
    CallResult,
    Decision,
    Done,
    More,
    Pool,
    PoolMember,
    ServePlan,
    Wait,
)
from crosslayer.errors import ComponentError, InputError
from slm_mux.early_stop import rounds, settled, shortcut
from slm_mux.extract import Found, alone, extractor
from slm_mux.params import SLMMuxParams


class SLMMux:
    """n members, k samples each.

    `decide` is told no pool, so what never changes in one (names and measured qualities) is kept
    from the last `plan`; nothing of a request is. Errors: InputError where a member has no measured
    quality and ties go by it.
    """

    def __init__(self, params: SLMMuxParams | None = None) -> None:
        self.params = params or SLMMuxParams()
        self._extract = extractor(self.params.extractor)
        self._alone = alone(self.params.extractor)
        self._accuracies: dict[str, float] = {}

    def plan(self, request: Request, pool: Pool) -> ServePlan:
        """The calls of the first round."""
        members = [pool.member(name) for name in self.params.members] or list(pool.members)
        self._accuracies = {member.name: self._accuracy(member) for member in members}
        if len(self._accuracies) < len(members):
            names = self.params.members
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"slm-mux: 'members' names {twice!r} twice")
        return ServePlan(calls=self._calls(request, 0))

    def decide(self, request: Request, results: Sequence[CallResult]) -> Decision:
        """The answer once it is settled, else the next round when one has ended."""
        if not self._accuracies:
            raise ComponentError("slm-mux: a decision was asked for before any plan")
        k, early = self.params.k, self.params.early_stop
        found: dict[tuple[str, str], Found] = {}
        seen: dict[str, dict[int, str | None]] = {name: {} for name in self._accuracies}
        for result in sorted(results, key=lambda result: result.call.sample):
            model, one = result.call.model or "", self._found(result)
            seen[model][result.call.sample] = one and one.key
            if one:
                found.setdefault((model, one.key), one)
        whole = len(results) == k * len(seen)
        choice = None
        if early == "unanimous":
            choice = shortcut(seen, k, self._accuracies)
        elif whole or early == "lossless":
            choice = settled(seen, k, self._accuracies)
        if choice is not None:
            winner = found.get((choice.model or "", choice.answer or ""))
            return Done(answer=winner and winner.text)
        plan = rounds(list(seen), k, self._accuracies, self.params.schedule)
        ends = list(accumulate(map(len, plan)))
        if len(results) in ends:
            return More(calls=self._calls(request, ends.index(len(results)) + 1))
        return Wait()

    def _calls(self, request: Request, number: int) -> tuple[LLMCall, ...]:
        """The calls of one round."""
        params, asked = self.params, request.call
        changes: dict[str, object] = {}
        if params.max_tokens is not None:
            changes["max_tokens"] = params.max_tokens
        kept = tuple(pair for pair in asked.parameters if pair[0] != "temperature")
        changes["parameters"] = (*kept, ("temperature", params.temperature))
        block = params.prefix_block_tokens
        if asked.prefix is None and block and asked.prompt_tokens:
            changes["prefix"] = _own_prefix(f"{request.id}/{asked.id}", asked.prompt_tokens, block)
        asked = asked.replace(**changes)
        plan = rounds(list(self._accuracies), params.k, self._accuracies, params.schedule)
        return tuple(asked.to(model, sample) for model, sample in plan[number])

    def _found(self, result: CallResult) -> Found | None:
        if result.answer is not None:
            return self._alone(result.answer)
        return None if result.text is None else self._extract(result.text)

    def _accuracy(self, member: PoolMember) -> float:
        if self.params.tie_break == "order":
            return 0.0
        if member.quality is None:
            raise InputError(
                f"slm-mux: {member.name} has no measured quality, which settles ties; give it one"
                ' under [pool.quality], or set tie_break = "order"'
            )
        return member.quality.value


def _own_prefix(name: str, tokens: int, block: int) -> Prefix:
    """Hashes of a prompt that shares no block with any other prompt, only among its samples."""
    hashes = (
        int.from_bytes(hashlib.sha256(f"{name}/{i}".encode()).digest()[:8], "big")
        for i in range(-(-tokens // block))
    )
    return Prefix(block_tokens=block, hashes=tuple(hashes))
