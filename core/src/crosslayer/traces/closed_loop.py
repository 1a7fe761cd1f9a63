"""A closed loop: users who each wait for an answer, think, and ask again.

When a request arrives depends on when the one before was answered, so a closed loop is no trace but
data that a simulator runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.calls import LAST_NS, LLMCall, Request, nanoseconds
from crosslayer.errors import ComponentError
from crosslayer.traces.lengths import Lengths

if TYPE_CHECKING:
    from crosslayer.contracts.serving import ServedRequest
    from crosslayer.policy_loop import PolicyLoop

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ClosedLoop:
    """`users` users and the requests that they make, in the order in which they come to be made.

    think_ns, prompt_tokens, output_tokens: [n], of the n-th request: how long its user thinks
    before it, and its lengths. Request n has the id str(n) and its user as session.
    """

    users: int
    think_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints

    def __len__(self) -> int:
        return len(self.think_ns)

    @classmethod
    def draw(
        cls, users: int, think_s: float, requests: int, lengths: Lengths, rng: np.random.Generator
    ) -> ClosedLoop:
        """Think times exponential with mean `think_s`; lengths as given."""
        think = rng.exponential(think_s, requests) if think_s else np.zeros(requests)
        whole = np.array([nanoseconds(one) for one in think.tolist()], dtype=np.int64)
        return cls(users, whole, *lengths(requests, rng))

    def request(self, number: int, user: int, free_ns: int) -> Request:
        """Request `number`, made by a user who has been free since `free_ns`."""
        call = LLMCall(
            prompt_tokens=int(self.prompt_tokens[number]),
            output_tokens=int(self.output_tokens[number]),
        )
        return Request(
            id=str(number),
            arrival_ns=free_ns + int(self.think_ns[number]),
            nodes=(call,),
            session=f"user {user}",
        )

    def first(self) -> Iterator[Request]:
        """Each user's first request; all users are free from 0 on."""
        for user in range(min(self.users, len(self))):
            yield self.request(user, user, 0)


def serve_closed(
    workload: ClosedLoop, loop: PolicyLoop, until_ns: int = LAST_NS
) -> Iterator[ServedRequest]:
    """Run all requests of a closed loop, or those that end by an instant, through a policy loop, in
    order of finishing.

    Errors: ComponentError if the service stops before every request is answered.
    """
    for request in workload.first():
        loop.submit(request)
    made = min(workload.users, len(workload))
    user_of = {str(user): user for user in range(made)}
    served = 0
    while served < len(workload):
        now, over = loop.advance(until_ns)
        if not over:
            if until_ns < LAST_NS:
                return
            raise ComponentError(
                f"closed loop: {len(workload) - served} requests are open and nothing happens"
            )
        for one in over:
            served += 1
            if made < len(workload):
                user_of[str(made)] = user_of[one.request.id]
                loop.submit(workload.request(made, user_of[str(made)], now))
                made += 1
            yield one
