"""An independent serving loop: one iteration after the other, every block and call by itself.

It is slow and plain on purpose: lists of block numbers, a free queue of single blocks, no counters
that stand for several calls. Follows vLLM 0.19's scheduler for `vllm_v1`; the other schedulers
differ in who may join a step.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from hermes_sim.batching import Batching


@dataclass
class Seq:
    row: int
    arrival: int
    prompt: int
    output: int
    keys: tuple = ()
    chunk: int = 0
    computed: int = 0
    generated: int = 0
    blocks: list = field(default_factory=list)
    started: int = -1
    first: int = -1
    last: int = -1
    preempted: int = 0
    over: bool = False
    decoding: bool = False  # its last step made a token
    rank: int = 0

    @property
    def total(self):
        return self.prompt + self.generated


class OneByOne:
    def __init__(self, model, rules: Batching, blocks: int, size: int):
        self.model, self.rules, self.size, self.total_blocks = model, rules, size, blocks
        self.free = OrderedDict((i, None) for i in range(blocks))
        self.references = dict.fromkeys(range(blocks), 0)
        self.content: dict = {}  # key of a block -> block
        self.key_of: dict = {}  # block -> its key
        self.now = 0
        self.iterations = 0

    def run(self, seqs):
        self.arrivals = deque(sorted(seqs, key=lambda s: (s.arrival, s.row)))
        self.waiting, self.running = deque(), []
        while self.arrivals or self.waiting or self.running:
            self.take_arrivals()
            if not self.waiting and not self.running:
                self.now = self.arrivals[0].arrival
                continue
            step = self.schedule()
            assert step, "nothing can run"
            self.execute(step)
        return seqs

    def take_arrivals(self):
        while self.arrivals and self.arrivals[0].arrival <= self.now:
            seq = self.arrivals.popleft()
            ranks = [self.rank(one) for one in self.waiting]
            self.waiting.insert(sum(rank <= self.rank(seq) for rank in ranks), seq)

    def rank(self, seq):
        queue = self.rules.queue
        return {"fcfs": 0, "priority": seq.rank}.get(queue, seq.prompt + seq.output)

    # blocks

    def block_key(self, seq, index):
        """What a full block of a sequence holds: a part of a shared chunk, or of this sequence."""
        end = (index + 1) * self.size
        if seq.keys and end <= len(seq.keys) * seq.chunk and end <= seq.prompt:
            chunk = index * self.size // seq.chunk
            return ("shared", seq.keys[chunk], index)
        return ("own", seq.row, index)

    def found(self, seq):
        hits = []
        while self.rules.prefix_caching and len(hits) < (seq.total - 1) // self.size:
            block = self.content.get(self.block_key(seq, len(hits)))
            if block is None:
                break
            hits.append(block)
        return hits

    def allocate(self, seq, tokens, hits=()):
        need = -(-tokens // self.size) - len(seq.blocks) - len(hits)
        unused = sum(self.references[block] == 0 for block in hits)
        if need > len(self.free) - unused:
            return False
        for block in hits:
            self.free.pop(block, None)
            self.references[block] += 1
            seq.blocks.append(block)
        for _ in range(max(0, need)):
            block, _ = self.free.popitem(last=False)
            key = self.key_of.pop(block, None)
            if key is not None:
                del self.content[key]
            self.references[block] = 1
            seq.blocks.append(block)
        return True

    def keep(self, seq, tokens):
        # A block gets its name when it has become full, unless another one has it then.
        full = range(seq.computed // self.size, tokens // self.size)
        for index in full if self.rules.prefix_caching else ():
            block, key = seq.blocks[index], self.block_key(seq, index)
            if block not in self.key_of and key not in self.content:
                self.key_of[block], self.content[key] = key, block

    def release(self, seq):
        for block in reversed(seq.blocks):
            self.references[block] -= 1
            if not self.references[block]:
                self.free[block] = None
        seq.blocks.clear()

    # iterations

    def victim(self):
        if self.rules.queue == "priority":
            return max(enumerate(self.running), key=lambda one: (one[1].rank, one[0]))[1]
        return self.running[-1]

    def in_turn(self):
        if self.rules.queue != "priority":
            return list(self.running)
        return sorted(self.running, key=lambda s: (not (s.decoding or s.over), s.rank))

    def schedule(self):
        rules = self.rules
        if rules.alone:
            step = [] if rules.drain and self.running else self.admit(rules.token_budget, [])
            if step:
                return step
        budget, step, preempted = rules.token_budget, [], False
        for seq in self.in_turn():
            if seq not in self.running or budget <= 0:
                continue
            new = min(seq.total - seq.computed, budget)
            ok = True
            while not (rules.reserve or self.allocate(seq, seq.computed + new)):
                last = self.victim() if seq.decoding else seq
                self.running.remove(last)
                self.release(last)
                last.computed = 0
                last.decoding = False
                last.preempted += 1
                ranks = [self.rank(one) for one in self.waiting]
                self.waiting.insert(sum(rank < self.rank(last) for rank in ranks), last)
                preempted = True
                if last is seq:
                    ok = False
                    break
            if not ok:
                continue
            self.keep(seq, seq.computed + new)
            step.append((seq, new))
            budget -= new
        if not preempted and not rules.alone:
            step += self.admit(budget, step)
        return step

    def admit(self, budget, before):
        rules, step = self.rules, []
        while self.waiting and budget > 0 and len(self.running) < rules.max_calls:
            seq = self.waiting[0]
            hits = self.found(seq)
            cached = len(hits) * self.size
            new = seq.total - cached
            if new > budget:
                if rules.chunks:
                    new = budget
                elif step or before:
                    break
            wanted = seq.total if rules.whole_prompt_fits else cached + new
            if rules.reserve:
                wanted = seq.prompt + seq.output
            unused = sum(self.references[block] == 0 for block in hits)
            if -(-wanted // self.size) - len(hits) > len(self.free) - unused:
                break
            assert self.allocate(seq, wanted if rules.reserve else cached + new, hits)
            seq.computed = cached
            self.keep(seq, cached + new)
            self.waiting.popleft()
            self.running.append(seq)
            if seq.started < 0:
                seq.started = self.now
            step.append((seq, new))
            budget -= new
            if cached + new < seq.total:
                break
        return step

    def execute(self, step):
        self.iterations += 1
        prefills = [(new, s.computed) for s, new in step if not s.decoding]
        decoding = [s for s, _ in step if s.decoding]
        context = sum(s.computed + 1 for s in decoding)
        rows = sum(s.computed + new == s.total or s.over for s, new in step)
        if prefills:
            seconds = self.model.mixed(prefills, rows, len(decoding), context, list)[0]
        else:
            seconds = float(self.model.decodes(len(decoding), context, 1, list)[0][0])
        self.now += max(1, round(seconds * 1e9))
        # Whoever came first gives its blocks back first, whatever its rank.
        for seq, new in sorted(step, key=lambda one: self.running.index(one[0])):
            seq.computed += new
            if seq.over:
                seq.generated += 1  # padding of a static batch
            elif seq.computed == seq.total:
                seq.generated += 1
                seq.decoding = True
                if seq.first < 0:
                    seq.first = self.now
                if seq.generated >= seq.output:
                    seq.last = self.now
                    seq.over = True
                    if not self.rules.drain:
                        self.running.remove(seq)
                        self.release(seq)
        if self.rules.drain and all(seq.over for seq in self.running):
            for seq in self.running:
                self.release(seq)
            self.running.clear()
