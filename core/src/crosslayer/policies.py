"""The built-in serving policy `single`: one call a request."""

from __future__ import annotations

from collections.abc import Sequence

from crosslayer.contracts.calls import Request
from crosslayer.contracts.serving import CallResult, Decision, Done, Pool, PoolMember, ServePlan
from crosslayer.errors import InputError
from crosslayer.serving_params import SingleParams


class Single:
    """One call to a named member, or to the best by measured quality (of equals, the first)."""

    def __init__(self, params: SingleParams | None = None) -> None:
        self.params = params or SingleParams()

    def plan(self, request: Request, pool: Pool) -> ServePlan:
        """The request's call. Errors: InputError for no such member, or none that is best."""
        asked = request.call
        name = self.params.member or asked.model
        member = _best(pool) if name is None else pool.member(name)
        call = asked.to(member.name)
        if self.params.max_tokens is not None:
            call = call.replace(max_tokens=self.params.max_tokens)
        if self.params.temperature is not None:
            kept = tuple(pair for pair in call.parameters if pair[0] != "temperature")
            call = call.replace(parameters=(*kept, ("temperature", self.params.temperature)))
        return ServePlan(calls=(call,))

    def decide(self, request: Request, results: Sequence[CallResult]) -> Decision:
        """What the call said."""
        said = results[-1]
        return Done(answer=said.text if said.answer is None else said.answer)


def _best(pool: Pool) -> PoolMember:
    if len(pool.members) == 1:
        return pool.members[0]
    measured = [(member.quality.value, member) for member in pool.members if member.quality]
    if not measured:
        raise InputError(
            f"single cannot choose among {', '.join(pool.names)}: none has a measured quality; set"
            " 'member' under [policy], or 'quality' under [pool]"
        )
    return max(measured, key=lambda pair: pair[0])[1]
