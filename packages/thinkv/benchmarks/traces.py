"""Synthetic reasoning traces with known phases, and a small transformer trained on them.

A trace has three rounds of planning, execution and transition, 128 tokens each. A plan states
facts "a b ;" (from a goes to b), each some four times in random orders: a chain of six that ends in
END, and a cycle of six. Execution walks the cycle from many starts; a transition is noise that says
nothing. Then one plan's chain, which no execution walks, is asked for: "ASK a", and the model is to
follow the facts to END. What the cache has lost makes it guess, wander or never end. The last token
of each segment announces the next one's phase.

The model is a llama of transformers with grouped queries, 0.3 M parameters. So that half a minute
is enough, its first two layers begin as an induction circuit (`circuit`), which gets some 0.7 of
the answers' tokens right before any training. `python benchmarks/traces.py --seeds 3` trains a
model a seed and keeps it under --folder.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

NODES, NOISE, ROUNDS = 64, 8, 3
PHASE, CHAIN, CYCLE = 128, 6, 6  # tokens of a phase, facts of a chain and of a cycle
END, PLAN, EXECUTE, TURN, ASK, STOP = range(NODES, NODES + 6)
NOISE_0 = NODES + 6
VOCABULARY = NOISE_0 + NOISE
LETTERS = "RET"  # planning, execution, transition
HIDDEN = -100  # a label that is not to be predicted
THETA, MATCH = 1e6, 3.0  # of the rotary embedding; first scale of the queries that match
ENOUGH = 0.97  # share of the answers' tokens where training ends
LIMIT = 2  # times the right length, where an answer is cut


@dataclass(frozen=True)
class Trace:
    """Tokens of all rounds, what of them can be predicted (HIDDEN elsewhere), and for each plan the
    start of its chain and the answer to it."""

    tokens: list[int]
    labels: list[int]
    questions: list[tuple[int, list[int]]]


def trace(rng: np.random.Generator) -> Trace:
    """A trace; nodes are drawn anew for each plan, without repetition."""
    facts = CHAIN + CYCLE
    nodes = rng.permutation(NODES)[: ROUNDS * facts].reshape(ROUNDS, facts).tolist()
    tokens: list[int] = []
    labels: list[int] = []
    questions = []
    for turn, plan in enumerate(nodes):
        chain, cycle = plan[:CHAIN], plan[CHAIN:]
        follow = dict(zip(plan, [*chain[1:], END, *cycle[1:], cycle[0]], strict=True))
        said: set[int] = set()
        body: list[tuple[int, int]] = []  # token, label
        while len(body) < PHASE:
            for a in rng.permutation(plan).tolist():
                known = follow[a] if a in said else HIDDEN
                body += [(a, HIDDEN), (follow[a], known), (STOP, HIDDEN)]
                said.add(a)
        body = [*body[: PHASE - 1], (EXECUTE, HIDDEN)]
        walk: list[tuple[int, int]] = []
        while len(walk) < PHASE:
            at = cycle[rng.integers(len(cycle))]
            walk += [(STOP, HIDDEN), (at, HIDDEN)]
            for _ in range(rng.integers(2, 9)):
                at = follow[at]
                walk.append((at, at))
        body += [*walk[: PHASE - 1], (TURN, HIDDEN)]
        noise = NOISE_0 + rng.integers(NOISE, size=PHASE - 1)
        body += [(int(t), HIDDEN) for t in noise]
        body.append((PLAN if turn + 1 < ROUNDS else ASK, HIDDEN))
        tokens += [t for t, _ in body]
        labels += [label for _, label in body]
        questions.append((chain[0], [*chain[1:], END]))
    return Trace(tokens, labels, questions)


def batch(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels of whole traces with their answers, questions in any order."""
    rows, labels = [], []
    for _ in range(count):
        one = trace(rng)
        tokens, label = one.tokens, one.labels
        for n, i in enumerate(rng.permutation(ROUNDS)):
            first, answer = one.questions[i]
            ask = [ASK] if n else []  # the last phase has announced the first question
            tokens = [*tokens, *ask, first, *answer]
            label = [*label, *[HIDDEN] * (len(ask) + 1), *answer]
        rows.append(tokens)
        labels.append(label)
    return torch.tensor(rows), torch.tensor(labels)


def model(seed: int = 0) -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
    )
    net = LlamaForCausalLM(config)
    circuit(net)
    return net


def circuit(net: LlamaForCausalLM) -> None:
    """Where training begins: layer 0 has heads that look at the token before and copy it into the
    second half of the channels, layer 1 heads that match it with the token now and copy what it was
    followed by. Small noise is in all weights, and layer 2 is nothing else."""
    half, dim, near = 64, 32, 5  # near: fast pairs of rotary channels, which tell neighbours apart
    first, second = (net.model.layers[i].self_attn for i in (0, 1))
    one = torch.eye(dim)
    slow = torch.diag((torch.arange(dim) % (dim // 2) >= dim // 4).float() * MATCH)
    angle = THETA ** (-torch.arange(near) / (dim // 2))
    with torch.no_grad():
        embedding = net.model.embed_tokens.weight
        embedding.normal_()
        embedding[:, half:] = 0
        embedding[STOP] = 0  # what is copied of it says nothing
        embedding[STOP, -2] = 8.0
        embedding[:, -1] = 4.0  # a constant that position can be compared with
        net.model.norm.weight.fill_(0.15)
        first.q_proj.weight[:, -1] = first.k_proj.weight[:, -1] = 0
        for head in range(4):
            first.q_proj.weight[head * dim : head * dim + near, -1] = 3.0
        for kv in range(2):
            here, group = slice(kv * dim, (kv + 1) * dim), slice(2 * kv * dim, (2 * kv + 1) * dim)
            there = slice(half + kv * dim, half + (kv + 1) * dim)
            turned = first.k_proj.weight[here, -1]
            turned[:near] = 3.0 * angle.cos()
            turned[dim // 2 : dim // 2 + near] = 3.0 * angle.sin()
            first.v_proj.weight[here, here] += one
            first.o_proj.weight[there, group] += one
            second.q_proj.weight[group, here] += slow
            second.k_proj.weight[here, there] += slow
            second.v_proj.weight[here, here] += one
            second.o_proj.weight[here, group] += 10 * one
        first.o_proj.weight[-2:] = 0  # the constant stays


def accuracy(net: LlamaForCausalLM, count: int = 4) -> float:
    """Share of the answers' tokens that are right, each given the right ones before it."""
    ids, labels = batch(np.random.default_rng(7), count)
    with torch.inference_mode():
        found = net(input_ids=ids).logits[:, :-1].argmax(-1)
    asked = labels[:, 1:].clone()
    asked[:, : ROUNDS * 3 * PHASE] = HIDDEN
    return float((found == asked)[asked != HIDDEN].float().mean())


def weights(folder: Path, seed: int) -> Path:
    """Where a seed's trained model lies."""
    return folder / f"traces-{seed}.safetensors"


def train(folder: Path, seed: int, steps: int = 200, rate: float = 2e-3) -> Path:
    """Train on one new trace a step until the answers to others are right; the weights' file."""
    file = weights(folder, seed)
    if file.exists():
        return file
    net = model(seed)
    rng = np.random.default_rng(1000 + seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    begin = time.process_time()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 10)
        ids, labels = batch(rng, 1)
        loss = net(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        if step % 10 == 9:
            right = accuracy(net)
            print(
                f"seed {seed}, step {step + 1}: loss {loss.item():.3f}, answers {right:.3f}, "
                f"{time.process_time() - begin:.0f} s of CPU",
                flush=True,
            )
            if right >= ENOUGH:
                break
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.contiguous() for k, v in net.state_dict().items() if k != "lm_head.weight"}
    save_file(state, file)
    return file


def load(folder: Path, seed: int) -> LlamaForCausalLM:
    """The trained model."""
    net = model(seed)
    net.load_state_dict(load_file(weights(folder, seed)), strict=False)
    return net.eval().requires_grad_(False)


def main() -> None:
    """Train one model a seed."""
    from results import folder_argument  # here: kvpress's environment has no crosslayer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder_argument(parser)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="seed of the first model")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(asked.first, asked.first + asked.seeds):
        print(train(asked.folder, seed))


if __name__ == "__main__":
    main()
