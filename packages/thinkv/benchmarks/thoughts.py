"""Workload C: a transformer trained on traces with known phases answers from a compressed cache.

The model of `traces.py` reads a trace in pieces of 16 tokens and then follows each plan's chain of
facts by itself, greedily. Counted: right tokens of the answers, length of the answers against the
right length (an answer is cut at three times that), and how often the classifier's label is the
planted phase. Segments are the phases, 32 tokens, with the ladder 16, 8, 4. Thresholds come from
other traces; where their layers are not trimodal "thinkv" has one type and the table says so.
"oracle" labels segments by the planted phases, "shuffled" by the same labels in random order. A
seed is a trained model and its traces. `python benchmarks/thoughts.py [--seeds 3] [--traces 16]
[--shares 0.3 0.2]` trains what is missing and goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import Results, shown, table
from traces import ASK, END, LETTERS, PHASE, ROUNDS, load, trace, train

from thinkv.cache import MethodCache, attached
from thinkv.calibration import Calibration, CalibrationSettings, fit
from thinkv.methods import full_layer_bytes, method, shape_of
from thinkv.replay import sparsity_rows
from thinkv.row import Labeller, ThinKVRow
from thinkv.thoughts import Rules, Thought

FIXED = ("full", "kivi4", "kivi2", "tbq")
BUDGETED = (
    *("window", "random", "h2o", "snapkv", "rkv"),
    *("tbe", "one-type", "thinkv", "shuffled", "oracle"),
)
RULES = Rules(segment_tokens=PHASE, schedule=(16, 8, 4))
PLANTED = tuple({t.letter: t for t in Thought}[letter] for letter in LETTERS * ROUNDS)


def calibration(net: Any, seed: int, traces: int = 6) -> Calibration:
    """Thresholds from other traces of this model."""
    settings = CalibrationSettings(layers=1, agreement=0.5, skip_tokens=PHASE)
    rng = np.random.default_rng(5000 + seed)
    rows = [sparsity_rows(net, torch.tensor(trace(rng)[0]), settings) for _ in range(traces)]
    return fit(rows, settings, "traces", f"seed {seed}")


def labeller(name: str, found: Calibration, rng: np.random.Generator) -> Labeller:
    """How a method's segments are labelled."""
    if name in ("oracle", "tbe"):
        return Labeller(labels=PLANTED)
    if name == "shuffled":
        return Labeller(labels=tuple(PLANTED[i] for i in rng.permutation(len(PLANTED))))
    if found.status == "fallback":
        return Labeller()
    return Labeller(layers=found.layers, thresholds=found.thresholds)


def answer(net: Any, cache: Any, ids: list[int], at: int, limit: int) -> tuple[list[int], int]:
    """Greedy tokens after ids until END, and the position after them."""
    said: list[int] = []
    while len(said) < limit:
        positions = torch.arange(at, at + len(ids))[None]
        logits = net(
            input_ids=torch.tensor([ids]), position_ids=positions, past_key_values=cache
        ).logits
        at += len(ids)
        said.append(int(logits[0, -1].argmax()))
        if said[-1] == END:
            break
        ids = said[-1:]
    return said, at


def run(net: Any, name: str, share: float, seed: int, traces: int) -> dict[str, Any]:
    """One method on one model's traces."""
    found = calibration(net, seed)
    rng = np.random.default_rng(9000 + seed)
    right = total = 0
    lengths, exact, agree, sizes = [], [], [], []
    for _ in range(traces):
        tokens, questions = trace(rng)
        asked = sum(2 + len(reply) for _, reply in questions)
        shape = shape_of(net.config, 0, len(tokens) + asked)
        labels = labeller(name, found, rng)
        chosen = method(name, shape, share * full_layer_bytes(shape), seed, labels, RULES)
        cache = MethodCache(net.config, chosen.make_row)
        with attached(net), torch.inference_mode():
            for start in range(0, len(tokens), 16):
                piece = torch.tensor([tokens[start : start + 16]])
                positions = torch.arange(start, start + 16)[None]
                net(input_ids=piece, position_ids=positions, past_key_values=cache)
            at = len(tokens)
            for i in rng.permutation(ROUNDS):
                first, reply = questions[i]
                said, at = answer(net, cache, [ASK, first], at, 3 * len(reply))
                right += sum(a == b for a, b in zip(said, reply, strict=False))
                total += len(reply)
                exact.append(said == reply)
                lengths.append(len(said) / len(reply))
            cache.settle()
        sizes.append(sum(cache.bytes().values()) / (full_layer_bytes(shape) * len(cache.layers)))
        row = cache.rows[0]
        if isinstance(row, ThinKVRow):
            pairs = zip(row.history, PLANTED[1:], strict=False)
            agree += [label == planted for (_, _, label), planted in pairs]
    return {
        "right": right / total,
        "exact": float(np.mean(exact)),
        "length": float(np.mean(lengths)),
        "share": float(np.mean(sizes)),
        "classifier": float(np.mean(agree)) if agree else None,
        "budget": chosen.budget_tokens,
        "calibration": found.status,
    }


def main() -> None:
    """Train, run every cell and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--traces", type=int, default=16)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.3, 0.2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--minutes", type=float, default=60, help="of training, a model")
    parser.add_argument("--folder", type=Path, default=Path("runs/thinkv"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(asked.folder / f"thoughts-{asked.steps}-{asked.traces}.jsonl")
    cells = [(name, 1.0) for name in FIXED]
    cells += [(name, share) for share in asked.shares for name in BUDGETED]
    for seed in range(asked.seeds):
        train(asked.folder, seed, asked.steps, minutes=asked.minutes)
        net = load(asked.folder, seed)
        for name, share in cells:
            results.cell(
                (name, share, seed),
                lambda n=name, s=share, i=seed, net=net: run(net, n, s, i, asked.traces),
            )
    rows = []
    for name, share in cells:
        found = [results.rows[name, share, seed] for seed in range(asked.seeds)]
        rows.append(
            [
                name,
                f"{np.mean([one['share'] for one in found]):.3f}",
                *(shown([one[key] for one in found]) for key in ("right", "exact", "length")),
                shown([one["classifier"] for one in found]),
            ]
        )
    states = [results.rows["thinkv", asked.shares[0], s]["calibration"] for s in range(asked.seeds)]
    print(f"calibration by seed: {', '.join(states)}")
    head = [
        "method",
        "bytes / fp16 full",
        "right tokens",
        "whole answers",
        "length / right length",
        "labels = phases",
    ]
    print(table(head, rows))


if __name__ == "__main__":
    main()
