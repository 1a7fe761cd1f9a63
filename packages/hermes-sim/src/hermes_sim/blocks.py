"""KV blocks of one client: a count, or, with prefix caching, a queue of what may be evicted.

The queue follows vLLM's block pool: a freed block goes to the tail with its content, the last block
of a sequence before its first, and a block that is needed comes from the head. The blocks that only
one call can use lie together in the queue, so they are one entry, evicted from its last block on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from hermes_sim.calls import Call


class Blocks:
    """`free` of `total` blocks of `tokens` tokens; shared ones are counted once."""

    def __init__(self, total: int, tokens: int, prefix_caching: bool) -> None:
        self.total, self.tokens, self.prefix_caching = total, tokens, prefix_caching
        self.free = total
        self.queue: OrderedDict[int, int] = OrderedDict({-1: total} if total else {})
        self.shared: dict[int, int] = {}  # calls that use a block, by its key
        self._plain = -1  # odd below zero: blocks without content; even: those of a call

    def take(self, count: int) -> None:
        """Take free blocks, evicting what they hold; the caller has looked at `free`."""
        self.free -= count
        if not self.prefix_caching:
            return
        queue = self.queue
        while count:
            key = next(iter(queue))
            there = queue[key]
            if there > count:
                queue[key] = there - count
                return
            del queue[key]
            count -= there

    def give(self, count: int) -> None:
        """Free blocks whose content nobody can use."""
        self.free += count
        if self.prefix_caching and count:
            self._plain -= 2
            self.queue[self._plain] = count

    def keys_of(self, call: Call) -> Sequence[int]:
        """What each whole block of the call's prompt that others may share is called: the hash of
        the chunk it ends in, which covers all before it, and its position.
        """
        if call.key_tokens != self.tokens:
            size, chunks, per_chunk = self.tokens, call.chunks, call.chunk_tokens
            whole = min(call.prompt, len(chunks) * per_chunk) // size if chunks else 0
            call.keys = [
                (chunks[((block + 1) * size - 1) // per_chunk] << 32) | block
                for block in range(whole)
            ]
            call.key_tokens = size
        return call.keys

    def found(self, call: Call) -> tuple[int, int, int]:
        """(shared blocks, blocks, blocks of these that are free) of the prefix that is still here.

        The last token is always computed, for its logits (vLLM, KVCacheManager).
        """
        if not self.prefix_caching:
            return 0, 0, 0
        most = (call.prompt + call.generated - 1) // self.tokens
        shared, queue = self.shared, self.queue
        hits = free = 0
        keys = self.keys_of(call)
        for key in keys if len(keys) <= most else keys[:most]:
            if key not in shared:
                if key not in queue:
                    return hits, hits, free
                free += 1
            hits += 1
        if hits < len(keys):
            return hits, hits, free
        own = queue.get(-2 * call.row - 2, 0)
        own = max(0, min(call.own_from + own, most) - hits) if own else 0
        return hits, hits + own, free + own

    def reuse(self, call: Call, shared: int, blocks: int) -> None:
        """Give the call the prefix that `found` found."""
        for key in call.keys[:shared]:
            if key in self.shared:
                self.shared[key] += 1
            else:
                self.shared[key] = 1
                del self.queue[key]
                self.free -= 1
        call.held = shared
        own = call.private = blocks - shared
        rest = self.queue.pop(-2 * call.row - 2, 0) if own else 0
        if rest:
            self.free -= own
            if rest > own:  # what may not be reused stays, without an owner
                self._plain -= 2
                self.queue[self._plain] = rest - own

    def share(self, call: Call, computed: int) -> None:
        """Full blocks are there for others, unless another call shares them already."""
        if not self.prefix_caching:
            return
        keys = self.keys_of(call)
        for block in range(call.held, min(len(keys), computed // self.tokens)):
            key = keys[block]
            if key in self.shared or key in self.queue:
                return
            self.shared[key] = 1
            call.private -= 1
            call.held = block + 1

    def release(self, call: Call, keep: bool) -> None:
        """Free all that the call has. keep: its own blocks are there for it when it comes back."""
        private, call.private = call.private, 0
        self.free += private
        if not self.prefix_caching:
            return
        if private:
            whole = max(0, call.computed // self.tokens - call.held) if keep else 0
            if private > whole:
                self._plain -= 2
                self.queue[self._plain] = private - whole
            if whole:
                call.own_from = call.held
                self.queue[-2 * call.row - 2] = whole
        for i in range(call.held - 1, -1, -1):
            key = call.keys[i]
            self.shared[key] -= 1
            if not self.shared[key]:
                del self.shared[key]
                self.free += 1
                self.queue[key] = 1
        call.held = 0
