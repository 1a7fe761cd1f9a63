"""Synthetic reasoning traces with known phases, and a small transformer trained on them.

A trace has four rounds of 96 tokens. Planning: 15 facts "K_a N_b", one token each. Execution: walks
a cycle of seven facts of that plan, N after N. Transition: noise. Then each plan's chain of eight
facts, which no execution repeats, is asked for: "A N_start", and the model is to follow the facts,
N after N, to END. A fact that the cache has lost makes it guess, wander or never end.

`python benchmarks/traces.py --steps 1500` trains the model (0.2 M parameters, llama of transformers
with grouped queries) and keeps it under --folder; it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

KEYS, NOISE, ROUNDS, PHASE, FACTS, CHAIN = 96, 8, 4, 32, 15, 8
K, N = 0, KEYS  # first token of each kind
END, PLAN, EXECUTE, TURN, ASK, STOP = range(2 * KEYS, 2 * KEYS + 6)
NOISE_0 = 2 * KEYS + 6
VOCABULARY = NOISE_0 + NOISE
LETTERS = "RET"  # planning, execution, transition


def trace(rng: np.random.Generator) -> tuple[list[int], list[tuple[int, list[int]]]]:
    """(the tokens of all rounds, for each plan the start of its chain and the answer to it)."""
    keys = rng.permutation(KEYS)[: ROUNDS * FACTS].reshape(ROUNDS, FACTS)
    tokens: list[int] = []
    questions = []
    for plan in keys:
        chain, cycle = plan[:CHAIN], plan[CHAIN:]
        follow = {int(a): N + int(b) for a, b in itertools.pairwise(chain)}
        follow[int(chain[-1])] = END
        follow |= {int(a): N + int(b) for a, b in zip(cycle, np.roll(cycle, -1), strict=True)}
        facts = [t for a in rng.permutation(plan) for t in (K + int(a), follow[int(a)])]
        walk = [N + int(a) for a in np.tile(np.roll(cycle, -rng.integers(len(cycle))), 5)]
        noise = NOISE_0 + rng.integers(NOISE, size=PHASE - 1)
        tokens += [PLAN, *facts, STOP]
        tokens += [EXECUTE, *walk[: PHASE - 1]]
        tokens += [TURN, *map(int, noise)]
        answer = [N + int(a) for a in chain[1:]] + [END]
        questions.append((N + int(chain[0]), answer))
    return tokens, questions


def batch(rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels (-100: not to be predicted) of whole traces, questions in any order."""
    rows, labels = [], []
    for _ in range(size):
        tokens, questions = trace(rng)
        label = [-100] * len(tokens)
        for start in range(0, len(tokens), 3 * PHASE):
            begin = start + PHASE + 2  # the first N of a walk is free
            label[begin : start + 2 * PHASE] = tokens[begin : start + 2 * PHASE]
        for i in rng.permutation(ROUNDS):
            first, answer = questions[i]
            tokens = [*tokens, ASK, first, *answer]
            label = [*label, -100, -100, *answer]
        rows.append(tokens)
        labels.append(label)
    return torch.tensor(rows), torch.tensor(labels)


def model(seed: int = 0) -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def accuracy(net: LlamaForCausalLM, rng: np.random.Generator, size: int = 16) -> float:
    """Share of the answers' tokens that are right, each given the right ones before it."""
    ids, labels = batch(rng, size)
    with torch.inference_mode():
        found = net(input_ids=ids).logits[:, :-1].argmax(-1)
    asked = labels[:, 1:].clone()
    asked[:, : ROUNDS * 3 * PHASE] = -100
    return float((found == asked)[asked != -100].float().mean())


def train(folder: Path, seed: int, steps: int, size: int = 16, minutes: float = 60) -> Path:
    """Train until the steps are done, or the answers are right; the weights' file."""
    file = folder / f"traces-{seed}.safetensors"
    done = folder / f"traces-{seed}.done"
    net = model(seed)
    if file.exists():
        net.load_state_dict(load_file(file), strict=False)
    if done.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1000 + seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98))
    begin = time.monotonic()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - 0.9 * step / steps)
        ids, labels = batch(rng, size)
        loss = net(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 49 or step == steps - 1:
            right = accuracy(net, np.random.default_rng(7))
            save_file(
                {k: v.contiguous() for k, v in net.state_dict().items() if k != "lm_head.weight"},
                file,
            )
            took = time.monotonic() - begin
            print(
                f"step {step + 1}: loss {loss.item():.3f}, answers {right:.3f}, {took:.0f} s",
                flush=True,
            )
            if right > 0.997 or took > 60 * minutes:
                break
    done.touch()
    return file


def load(folder: Path, seed: int) -> LlamaForCausalLM:
    """The trained model."""
    net = model(seed)
    net.load_state_dict(load_file(folder / f"traces-{seed}.safetensors"), strict=False)
    return net.eval().requires_grad_(False)


def main() -> None:
    """Train one model a seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/thinkv"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(asked.seeds):
        print(train(asked.folder, seed, asked.steps, minutes=asked.minutes))


if __name__ == "__main__":
    main()
