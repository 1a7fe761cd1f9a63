"""Train a member of the family: `python -m slm_mux.family.train MEMBER OUT [--steps N]`.

A character-level Llama of 0.2 million parameters, next-character loss on the answer only, AdamW
with a cosine schedule. Batches hold problems of about one length; in one of eight, answers of
others stand before the question. One seed, one thread: the same weights again. Weights are stored
in bf16.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crosslayer.progress import PlainProgress
from slm_mux.family.problems import (
    LETTERS,
    LONGEST,
    MIXTURES,
    STEPS,
    Problem,
    draw,
    with_advice,
)

LEARNING_RATE = 3e-3
ADVISED = 8  # one batch in eight
PAD, END = "<pad>", "<end>"
VOCABULARY = {PAD: 0, END: 1, **{letter: 2 + i for i, letter in enumerate(LETTERS)}}
CONFIG = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 96,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write config.json, model.safetensors and the tokenizer into OUT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("member", choices=sorted(MIXTURES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, help="left out: STEPS of the member")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    steps = asked.steps or STEPS[asked.member]
    train(asked.member, asked.out, steps, asked.batch, asked.seed)


def train(member: str, out: Path, steps: int, batch: int, seed: int) -> None:
    """One member, from nothing to its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any = LlamaForCausalLM(LlamaConfig(**CONFIG))
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    rng = np.random.default_rng(seed)
    lots = batches(draw(rng, MIXTURES[member], asking=False), batch, rng)
    progress, start = PlainProgress(every_s=30), time.process_time()
    loss = torch.tensor(math.nan)
    for step in progress.track(range(steps), member):
        warm, turn = min(1.0, (step + 1) / 100), math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warm * (0.02 + 0.98 * (1 + turn) / 2)
        ids, labels = map(torch.from_numpy, arrays(next(lots)))
        logits = module(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 199:
            progress.say(f"{member}: step {step + 1}, loss {loss.item():.4f}")
    out.mkdir(parents=True, exist_ok=True)
    module.to(torch.bfloat16).save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    tokenizer().save_pretrained(out)
    made = {
        "member": member, "mixture": MIXTURES[member], "steps": steps, "batch": batch, "seed": seed,
        "parameters": sum(p.numel() for p in module.parameters()),
        "last_loss": round(loss.item(), 4),
    }  # fmt: skip
    (out / "trained.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    progress.say(f"{member}: {time.process_time() - start:.0f} s of CPU time")


def batches(
    problems: Iterator[Problem], size: int, rng: np.random.Generator
) -> Iterator[list[Problem]]:
    """Batches without end; sixteen are drawn and sorted by length, so that little is padding."""
    while True:
        drawn = sorted((next(problems) for _ in range(16 * size)), key=lambda one: len(one.prompt))
        for turn, number in enumerate(rng.permutation(16)):
            batch = drawn[number * size : (number + 1) * size]
            if turn % ADVISED == 0:  # so that it can take part in a discussion
                others = [drawn[i] for i in rng.integers(len(drawn), size=size)]
                batch = [
                    with_advice(one, other, rng) for one, other in zip(batch, others, strict=True)
                ]
            yield batch


def arrays(problems: Sequence[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """(ids, labels), both int64 [problems, LONGEST]; labels are -100 outside the answers."""
    ids = np.zeros((len(problems), LONGEST), dtype=np.int64)
    labels = np.full_like(ids, -100)
    for row, problem in enumerate(problems):
        prompt = [VOCABULARY[letter] for letter in problem.prompt]
        answer = [*(VOCABULARY[letter] for letter in problem.answer), VOCABULARY[END]]
        end = len(prompt) + len(answer)
        ids[row, :end] = prompt + answer
        labels[row, len(prompt) : end] = answer
    width = int((ids != 0).sum(1).max())
    return ids[:, :width], labels[:, :width]


def tokenizer() -> Any:
    """A token a character; what is none of ours is left out."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token=PAD))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, eos_token=END)


if __name__ == "__main__":
    main()
